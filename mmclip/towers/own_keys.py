"""What a `model_cfg` of ours can say and open_clip's cannot: towers of any size, and an encoder that needs no hub."""

import json
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from typing import Any

from torch import nn

from mmclip.errors import UserError

TIMM_SIZES = "mmclip_timm_kwargs"
"""In `vision_cfg`: arguments that timm's model of that name is built with. Stock open_clip refuses the unknown key."""
HF_CONFIG = "mmclip_hf_config"
"""In `text_cfg`: the encoder's own configuration. Folders keep it in `HF_CONFIG_FILE`, so that stock open_clip opens them."""
HF_CONFIG_FILE = "hf_text_config.json"
CONSE = "mmclip_conse"
"""What tells a model of ConSE from a pair of towers; such a model has nothing that learns or could be saved."""

STAND_IN = {"image_size": 8, "patch_size": 8, "width": 64, "layers": 1}
"""A small image tower that is built and thrown away, where open_clip cannot build the real one."""


def refuse_conse(model_cfg: Mapping[str, Any], what: str) -> None:
    """Refuse a model that no folder can hold.

    Raises:
        UserError: it is one of ConSE.
    """
    if CONSE in model_cfg:
        raise UserError(
            f"{what}: ConSE has no weights of its own and none that learn: take the pair of towers that it is made of "
            "(the same source without conse:), or score it by mmclip eval"
        )


def for_stock(model_cfg: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """The table as a folder holds it, and what goes into `HF_CONFIG_FILE` beside it."""
    table = deepcopy(dict(model_cfg))
    return table, table["text_cfg"].pop(HF_CONFIG, None)


def why_not_stock(model_cfg: Mapping[str, Any]) -> str | None:
    """Why stock open_clip cannot build these towers; None where it can."""
    sizes = model_cfg["vision_cfg"].get(TIMM_SIZES)
    if not sizes:
        return None
    listed = ", ".join(f"{name}={value}" for name, value in sizes.items())
    return f"its image tower is {model_cfg['vision_cfg']['timm_model_name']} of timm with {listed}"


@contextmanager
def described_encoder(text_cfg: dict[str, Any]) -> Iterator[None]:
    """Let open_clip read the encoder's configuration from a folder of ours, whatever its name says."""
    config = text_cfg.pop(HF_CONFIG, None)
    if config is None:
        yield
        return
    # Remote code is never run, and weights are trained in single precision whatever they were stored in.
    kept = {name: value for name, value in config.items() if name not in ("auto_map", "torch_dtype", "dtype")}
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "config.json").write_text(json.dumps(kept))
        text_cfg["hf_model_name"] = folder
        yield


def take_sizes(vision_cfg: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """The table that open_clip builds, and the one of the image tower that takes the place of a stand-in."""
    return (dict(STAND_IN), vision_cfg) if vision_cfg.get(TIMM_SIZES) else (vision_cfg, None)


def sized_tower(vision_cfg: Mapping[str, Any]) -> nn.Module:
    """open_clip's adapter over a timm model that is built with the arguments under `TIMM_SIZES`."""
    import timm
    from open_clip.timm_model import TimmModel
    from timm.layers.helpers import to_2tuple

    class SizedTimmModel(TimmModel):
        def __init__(self) -> None:
            nn.Module.__init__(self)
            self.image_size = to_2tuple(vision_cfg["image_size"])
            arguments = {**vision_cfg[TIMM_SIZES], "img_size": self.image_size, "num_classes": 0}
            self.trunk = timm.create_model(vision_cfg["timm_model_name"], pretrained=False, **arguments)
            self.head = nn.Sequential()

    return SizedTimmModel()
