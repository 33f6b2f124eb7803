"""The architecture of OpenAI's layout, told by the shapes of its weights."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from mmclip.errors import UserError

HEAD_WIDTH = 64
"""Of every attention of OpenAI's; no shape tells it."""


def model_cfg_by_shapes(tensors: Mapping[str, Tensor], where: str) -> dict[str, Any]:
    """open_clip's table, but for the activation, which no shape tells.

    Raises:
        UserError: the names are not those of OpenAI's layout.
    """
    needed = (
        "text_projection",
        "positional_embedding",
        "token_embedding.weight",
        "ln_final.weight",
        "visual.conv1.weight",
    )
    missing = [name for name in needed if name not in tensors]
    if missing:
        raise UserError(
            f"{where} is not in OpenAI's layout (it lacks {missing[0]}): name its architecture, open_clip:ARCH/FILE"
        )
    width = len(tensors["ln_final.weight"])
    return {
        "embed_dim": tensors["text_projection"].shape[1],
        "vision_cfg": _transformer(tensors) if "visual.proj" in tensors else _resnet(tensors),
        "text_cfg": {
            "context_length": len(tensors["positional_embedding"]),
            "vocab_size": len(tensors["token_embedding.weight"]),
            "width": width,
            "heads": max(1, width // HEAD_WIDTH),
            "layers": _blocks(tensors, "transformer.resblocks."),
        },
    }


def _transformer(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    width, _, _, patch = tensors["visual.conv1.weight"].shape
    grid = round((len(tensors["visual.positional_embedding"]) - 1) ** 0.5)
    return {
        "image_size": grid * patch,
        "patch_size": patch,
        "width": width,
        "layers": _blocks(tensors, "visual.transformer.resblocks."),
        "head_width": min(HEAD_WIDTH, width),
    }


def _resnet(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    grid = round((len(tensors["visual.attnpool.positional_embedding"]) - 1) ** 0.5)
    return {
        "image_size": grid * 32,  # five halvings
        "width": len(tensors["visual.layer1.0.conv1.weight"]),
        "layers": [_blocks(tensors, f"visual.layer{stage}.") for stage in (1, 2, 3, 4)],
    }


def _blocks(tensors: Mapping[str, Tensor], prefix: str) -> int:
    return len({name.removeprefix(prefix).partition(".")[0] for name in tensors if name.startswith(prefix)})
