"""Measures an architecture: it is built on the meta device, where a tensor has a shape and no memory.

FLOPs are those of matrix products, convolutions and attention, a multiply-add counted as two, attention in full also
where a causal mask halves it; norms, activations and softmax are left out. So does open_clip's docs/model_profile.csv.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.flop_counter import FlopCounterMode

from mmclip.errors import UserError
from mmclip.tokenizer import Tokenizer
from mmclip.towers.two_tower import TwoTower
from mmclip_launch.models.records import Measurement

TINY_TEXT = {"context_length": 8, "vocab_size": 16, "width": 8, "heads": 1, "layers": 1}
"""Stands in for a text tower that only the hub describes, so that the image tower can be measured alone."""


@dataclass(frozen=True)
class _Images:
    parameters: int
    flops: int
    size: tuple[int, int]


def measure(model_cfg: dict[str, Any], fingerprint: str) -> Measurement:
    """Parameters and FLOPs of one picture and one caption; what cannot be built says why in `error`.

    A text tower of Hugging Face is described by a file of the hub: without it, the image tower is measured alone.
    """
    try:
        towers = _on_meta(model_cfg)
    except UserError as error:
        if "hf_model_name" in model_cfg.get("text_cfg", {}) and "multimodal_cfg" not in model_cfg:
            return _image_tower_alone(model_cfg, fingerprint)
        return Measurement(cfg=fingerprint, error=" ".join(str(error).split())[:300])
    images = _measure_images(towers)
    total = _count(towers)
    scalars = sum(p.numel() for p in (towers.logit_scale, towers.logit_bias) if p is not None)
    tokens = torch.zeros(1, _context_length(towers), dtype=torch.int64, device="meta")
    return Measurement(
        cfg=fingerprint,
        image_params=images.parameters,
        text_params=total - images.parameters - scalars,
        total_params=total,
        image_flops=images.flops,
        text_flops=_flops(towers.backbone.encode_text, tokens),
        image_size=images.size,
        context_length=_context_length(towers),
        embed_dim=model_cfg["embed_dim"],
        batch_norm=_has_batch_norm(towers),
        trims_text=towers.trims_text,
    )


def _image_tower_alone(model_cfg: dict[str, Any], fingerprint: str) -> Measurement:
    try:
        towers = _on_meta({**model_cfg, "text_cfg": TINY_TEXT})
    except UserError as error:
        return Measurement(cfg=fingerprint, error=" ".join(str(error).split())[:300])
    images = _measure_images(towers)
    return Measurement(
        cfg=fingerprint,
        image_params=images.parameters,
        image_flops=images.flops,
        image_size=images.size,
        context_length=model_cfg["text_cfg"].get("context_length", 77),
        embed_dim=model_cfg["embed_dim"],
        batch_norm=_has_batch_norm(towers),
    )


def _on_meta(model_cfg: dict[str, Any]) -> TwoTower:
    # A tokenizer has no parameters, and that of many architectures lies on the hub: open_clip's own stands in.
    tokenizer = Tokenizer({})
    with torch.device("meta"):
        # Without requires_grad the FLOP counter needs no gradients to follow the modules.
        return TwoTower(model_cfg, tokenizer=tokenizer).eval().requires_grad_(False)


def _measure_images(towers: TwoTower) -> _Images:
    size = towers.backbone.visual.image_size
    height, width_px = size if isinstance(size, tuple | list) else (size, size)
    pixels = torch.zeros(1, 3, height, width_px, device="meta")
    return _Images(_count(towers.backbone.visual), _flops(towers.backbone.encode_image, pixels), (height, width_px))


def _context_length(towers: TwoTower) -> int:
    return int(getattr(towers.backbone, "context_length", towers.model_cfg["text_cfg"].get("context_length", 77)))


def _count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _flops(encode: Any, inputs: Tensor) -> int:
    with torch.no_grad(), torch.device("meta"), FlopCounterMode(display=False) as counter:
        encode(inputs)
    return counter.get_total_flops()


def _has_batch_norm(module: nn.Module) -> bool:
    return any(isinstance(part, _BatchNorm) for part in module.modules())
