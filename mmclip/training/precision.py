"""The precision of the towers' arithmetic. Weights, moments, embeddings and losses are fp32 under each but `fp64`."""

from contextlib import AbstractContextManager, nullcontext
from typing import Literal

import torch

Precision = Literal["fp32", "bf16", "fp16", "fp64"]
AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}


def autocast(precision: Precision, device: torch.device) -> AbstractContextManager[object]:
    """Within it the towers compute in `precision`."""
    dtype = AUTOCAST.get(precision)
    return nullcontext() if dtype is None else torch.autocast(device.type, dtype)


def build_scaler(precision: Precision, device: torch.device) -> torch.amp.GradScaler:
    """Keeps fp16 gradients from underflowing (Micikevicius et al. 2018, section 3.2); it does nothing elsewhere."""
    return torch.amp.GradScaler(device.type, enabled=precision == "fp16")
