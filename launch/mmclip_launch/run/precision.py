"""`precision = "auto"`: bf16 where the processor or device computes in it, fp32 where it would be emulated.

Emulated bf16 is two to four times slower than fp32 (measured on a processor with AVX-512 alone). What was chosen stands in
the run's `config.toml`, and a resumed run keeps it wherever it goes on.
"""

from dataclasses import replace
from pathlib import Path

import torch
from accelerate import Accelerator

from mmclip.training.precision import Precision
from mmclip_launch.doctor.backends import BF16_FLAGS
from mmclip_launch.doctor.processor import read_processor
from mmclip_launch.run.beginning.folder import CONFIG
from mmclip_launch.run.config import RunConfig, load_run_config

ALL: tuple[Precision, ...] = ("fp32", "bf16", "fp16", "fp64")
NATIVE_BF16 = (8, 0)
"""Compute capability of CUDA devices from which on they have units for bf16."""


def settle(config: RunConfig, resume: bool, before: Path | None = None) -> RunConfig:
    """`config` with a precision: that of the run that goes on, or of the one `before` it, else this machine's."""
    if config.precision != "auto":
        return config
    asked = [*([Path(config.output) / CONFIG] if resume else []), *([before] if before else [])]
    found = [load_run_config(path).precision for path in asked if path.is_file()]
    chosen = found[0] if found else "auto"
    return replace(config, precision=settled(config) if chosen == "auto" else chosen)


def agree(config: RunConfig, accelerator: Accelerator, was_auto: bool) -> RunConfig:
    """On all ranks the precision that rank 0 has settled on: their machines may differ."""
    if not was_auto or accelerator.num_processes == 1:
        return config
    number = torch.tensor([ALL.index(settled(config))], device=accelerator.device)
    torch.distributed.broadcast(number, 0)
    return replace(config, precision=ALL[int(number)])


def settled(config: RunConfig) -> Precision:
    """The precision that a run has, or would have here."""
    return native(config.device) if config.precision == "auto" else config.precision


def native(device: str) -> Precision:
    """What the device of a run computes in without emulation."""
    if device != "cpu" and torch.cuda.is_available():
        return "bf16" if torch.cuda.get_device_capability() >= NATIVE_BF16 else "fp32"
    if device != "cpu" and torch.accelerator.is_available():
        return "bf16"
    return native_of_flags(read_processor().flags)


def native_of_flags(flags: frozenset[str]) -> Precision:
    """Of a processor with these instruction sets, by the kernel's names."""
    return "bf16" if any(flag in flags for flag in BF16_FLAGS) else "fp32"
