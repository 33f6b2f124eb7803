"""The image tower of a pair: a model of timm, with weights from a file or from the hub, and the pixels that it expects."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from mmclip.errors import UserError
from mmclip.preprocess import RESAMPLING, ImageSpec
from mmclip.release.pairs.image_keys import layout_of
from mmclip.towers.tensors import read_tensors


@dataclass(frozen=True)
class ImageTower:
    """Weights under timm's names, classifier included where the file has one."""

    timm_name: str
    tensors: dict[str, Tensor]
    spec: ImageSpec
    features: int
    """Numbers that the tower gives for a picture."""
    pool: str
    """How the model itself pools: timm's word, or nothing where it has none."""
    layout: str
    """Whose names the file had."""
    classifier: str | None
    """The module of the classifier, whose weights a tower of a pair does not have."""


def read_image_tower(timm_name: str, file: Path | None, image_size: int | None = None) -> ImageTower:
    """Weights of timm's `timm_name`, from `file` or else those that timm downloads.

    Raises:
        UserError: timm knows no such model, the weights cannot be had, or they are of another model or layout.
    """
    timm: Any = _timm()
    if not timm.is_model(timm_name.partition(".")[0]):
        near = ", ".join(timm.list_models(f"*{timm_name[:6]}*")[:3]) or "none"
        raise UserError(f"timm has no model {timm_name!r}; names that begin alike: {near}")
    model, tensors = _model(timm, timm_name, file)
    expected = list(model.state_dict())
    mean = std = None
    layout_name = "timm"
    if file is not None:
        layout = layout_of(tensors, timm_name, expected, str(file))
        tensors = layout.convert(tensors, expected)
        mean, std, layout_name = layout.mean, layout.std, layout.name
    settings = model.pretrained_cfg
    spec = _spec(settings, image_size, timm_name, mean, std)
    return ImageTower(
        timm_name, tensors, spec, model.num_features, _pool_of(model), layout_name, settings.get("classifier")
    )


def _pool_of(model: Any) -> str:
    for holder in (model, getattr(model, "head", None)):
        pool = getattr(holder, "global_pool", None)
        word = pool if isinstance(pool, str) else getattr(pool, "pool_type", None)
        if word:
            return str(word)
    return ""


def _model(timm: Any, timm_name: str, file: Path | None) -> tuple[Any, dict[str, Tensor]]:
    if file is not None:
        return timm.create_model(timm_name, pretrained=False), read_tensors(file)
    try:
        model = timm.create_model(timm_name, pretrained=True)
    except Exception as error:  # hub, proxy, disk, or a name without weights: each raises its own kinds
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"timm:{timm_name} could not be had with weights ({type(error).__name__}: {reason}); "
            f"check the network, or name a file: timm:{timm_name}@FILE"
        ) from error
    return model, dict(model.state_dict())


def _spec(
    settings: dict[str, Any],
    image_size: int | None,
    timm_name: str,
    mean: tuple[float, float, float] | None,
    std: tuple[float, float, float] | None,
) -> ImageSpec:
    """Mean, deviation and filter of timm's; the whole short side is kept, as open_clip does, whatever timm's `crop_pct`."""
    size = (image_size, image_size) if image_size is not None else tuple(settings["input_size"][1:])
    filters = {**{name: name for name in RESAMPLING}, "random": "bicubic", "": "bicubic"}
    interpolation = settings.get("interpolation", "")
    if interpolation not in filters:
        raise UserError(
            f"timm:{timm_name} resizes pictures by {interpolation!r}: expected one of {', '.join(RESAMPLING)}"
        )
    return ImageSpec.from_open_clip(
        {
            "mean": mean or settings["mean"],
            "std": std or settings["std"],
            "interpolation": filters[interpolation],
            "resize_mode": "squash" if settings.get("crop_mode") == "squash" else "shortest",
        },
        (size[0], size[1]),
    )


def _timm() -> Any:
    import timm

    return timm
