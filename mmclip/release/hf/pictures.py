"""Evaluation preprocessing in the words of transformers' image processors, and back."""

from pathlib import Path
from typing import Any

from mmclip.errors import UserError
from mmclip.preprocess import ImageSpec

FILTERS = {2: "bilinear", 3: "bicubic"}
"""Pillow's numbers."""
FILES = ("preprocessor_config.json", "processor_config.json")


def spec_of(folder: Path, image_size: int) -> ImageSpec:
    """What the image processor in a folder does to a picture.

    Raises:
        UserError: there is none, or it does something that `ImageSpec` cannot say.
    """
    from transformers import AutoImageProcessor

    if not any((folder / name).is_file() for name in FILES):
        raise UserError(
            f"{folder} does not say how pictures are prepared ({' or '.join(FILES)}): copy the file from where the weights "
            "come from"
        )
    try:
        processor: Any = AutoImageProcessor.from_pretrained(folder)
    except (OSError, ValueError, ImportError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{folder}: its image processor cannot be read ({' '.join(str(error).split())[:200]})"
        ) from error
    return _spec(processor, image_size, f"{folder}: image processor")


def _spec(processor: Any, image_size: int, where: str) -> ImageSpec:
    for name in ("do_resize", "do_rescale"):
        if not getattr(processor, name, False):
            raise UserError(f"{where}: {name} is off: pictures of all sizes have to become {image_size} px in [0, 1]")
    if abs(float(processor.rescale_factor) * 255 - 1) > 1e-6:
        raise UserError(f"{where}: rescale_factor={processor.rescale_factor}: expected 1/255")
    if processor.resample not in FILTERS:
        raise UserError(f"{where}: resample={processor.resample}: expected 2 (bilinear) or 3 (bicubic)")
    size = {name: value for name, value in dict(processor.size).items() if value is not None}
    crop = _crop(processor)
    mode = _resize_mode(size, crop, image_size, where)
    normalised = bool(processor.do_normalize)
    return ImageSpec.from_open_clip(
        {
            "mean": tuple(processor.image_mean) if normalised else (0.0, 0.0, 0.0),
            "std": tuple(processor.image_std) if normalised else (1.0, 1.0, 1.0),
            "interpolation": FILTERS[int(processor.resample)],
            "resize_mode": mode,
        },
        image_size,
    )


def _crop(processor: Any) -> tuple[int, int] | None:
    if not getattr(processor, "do_center_crop", False):
        return None
    crop = dict(processor.crop_size)
    return int(crop["height"]), int(crop["width"])


def _resize_mode(size: dict[str, int], crop: tuple[int, int] | None, image_size: int, where: str) -> str:
    square = (image_size, image_size)
    if set(size) == {"height", "width"}:
        if (size["height"], size["width"]) == square and crop in (None, square):
            return "squash"
    elif set(size) == {"shortest_edge"} and size["shortest_edge"] == image_size and crop == square:
        return "shortest"
    cropped = f", cut to {crop[0]} x {crop[1]}" if crop else ""
    raise UserError(
        f"{where} resizes to {size}{cropped}, and the image tower takes {image_size} x {image_size}: expected its size as "
        "height and width, or as shortest_edge and crop_size"
    )


def processor_of(spec: ImageSpec, kind: str) -> Any:
    """The image processor of `CLIPModel` or `SiglipModel` that does what `spec` says.

    Raises:
        UserError: neither can.
    """
    import transformers

    height, width = spec.size
    if spec.resize_mode == "longest" or height != width:
        raise UserError(
            f"preprocessing with resize_mode={spec.resize_mode!r} to {height} x {width}: image processors of transformers "
            "squash or crop to a square"
        )
    number = next(number for number, name in FILTERS.items() if name == spec.interpolation)
    settings = {"resample": number, "image_mean": list(spec.mean), "image_std": list(spec.std)}
    size = {"height": height, "width": width}
    if spec.resize_mode == "squash":
        if kind == "siglip":
            return transformers.SiglipImageProcessor(size=size, **settings)
        return transformers.CLIPImageProcessor(size=size, do_center_crop=False, crop_size=size, **settings)
    # A CLIP processor beside a SiglipModel is as good: transformers reads the class from the file.
    return transformers.CLIPImageProcessor(size={"shortest_edge": height}, crop_size=size, **settings)
