"""A path to one file: OpenAI's own archive, which says everything; other files cannot say which activation they need."""

from pathlib import Path

from mmclip.errors import UserError
from mmclip.release.by_shapes import model_cfg_by_shapes
from mmclip.release.hf.files import CONFIG as HF_CONFIG
from mmclip.release.hf.files import WEIGHTS as HF_WEIGHTS
from mmclip.towers.tensors import read_tensors
from mmclip.towers.torchscript import is_torchscript, uses_quick_gelu
from mmclip.towers.two_tower import TwoTower
from mmclip.towers.weights import CONFIG_FILE, fill


def load_file(path: Path) -> TwoTower:
    """OpenAI's model, with the architecture that its shapes tell and the activation that its code names.

    Raises:
        UserError: it is damaged, or a file that does not say which activation it was trained with.
    """
    archive = is_torchscript(path)
    configs = (CONFIG_FILE, HF_CONFIG) if path.name in HF_WEIGHTS else (CONFIG_FILE,)
    beside = [name for name in configs if (path.parent / name).is_file()]
    if beside and not archive:
        raise UserError(
            f"{path} is one file of a folder, whose {beside[0]} says how to read it: give the folder, {path.parent}"
        )
    tensors = read_tensors(path)
    model_cfg = model_cfg_by_shapes(tensors, str(path))
    quick_gelu = uses_quick_gelu(path) if archive else None
    if quick_gelu is None:
        names = " or ".join(f"open_clip:{name}/{path}" for name in names_of(model_cfg)) or f"open_clip:ARCH/{path}"
        raise UserError(
            f"{path} does not say whether its weights need QuickGELU or GELU, and the wrong one costs points in silence: "
            f"name the architecture, {names}"
        )
    model = TwoTower(model_cfg | {"quick_gelu": quick_gelu})
    fill(model, path)
    return model


def names_of(model_cfg: dict) -> list[str]:
    """Architectures of open_clip of these sizes."""
    import open_clip

    found = []
    for name in open_clip.list_models():
        known = open_clip.get_model_config(name) or {}
        parts = [known.get(part, {}) for part in ("vision_cfg", "text_cfg")]
        same_parts = all(
            all(part.get(key) == value for key, value in model_cfg[own].items() if key in part)
            and part.keys() <= model_cfg[own].keys()
            for own, part in zip(("vision_cfg", "text_cfg"), parts, strict=True)
        )
        if known.get("embed_dim") == model_cfg["embed_dim"] and same_parts:
            found.append(name)
    return found
