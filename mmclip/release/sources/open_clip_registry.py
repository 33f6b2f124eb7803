"""`open_clip:ARCH/TAG` and `open_clip:ARCH/FILE`: weights whose architecture open_clip knows by name."""

from pathlib import Path

from mmclip.errors import UserError
from mmclip.near import nearest
from mmclip.preprocess import ImageSpec
from mmclip.towers.architecture import model_cfg_of
from mmclip.towers.torchscript import is_torchscript, uses_quick_gelu
from mmclip.towers.two_tower import TwoTower
from mmclip.towers.weights import fill


def load_released(name: str) -> TwoTower:
    """A model of open_clip's registry, with the activation, mean and filter that its tag was trained with.

    Raises:
        UserError: the tag is unknown, or its weights cannot be downloaded or read.
    """
    import open_clip
    from open_clip.pretrained import download_pretrained, get_pretrained_cfg

    arch, _, tag = name.partition("/")
    settings = get_pretrained_cfg(arch, tag) if tag else {}
    if not settings and tag and Path(tag).is_file():
        return _from_file(arch, Path(tag))
    if not settings:
        tags = [f"{a}/{t}" for a, t in open_clip.list_pretrained()]
        raise UserError(
            f"open_clip has no weights {name!r}: expected open_clip:ARCH/TAG or "
            f"open_clip:ARCH/FILE; nearest: {', '.join(nearest(name, tags)) or 'none'}"
        )
    try:
        weights = download_pretrained(settings)
    except Exception as error:  # hub, proxy, disk: each client raises its own kinds
        reason = " ".join(str(error).split())[:300]
        raise UserError(
            f"open_clip:{name} could not be downloaded ({type(error).__name__}: {reason}); "
            "check the network, or put the folder on disk and use local-dir:FOLDER"
        ) from error
    model_cfg = model_cfg_of(arch)
    # Only the tag knows which activation its weights were trained with; the wrong one costs points in silence.
    model_cfg["quick_gelu"] = bool(settings.get("quick_gelu", model_cfg.get("quick_gelu", False)))
    model = TwoTower(model_cfg)
    model.spec = ImageSpec.from_open_clip(settings, model.backbone.visual.image_size)
    fill(model, Path(weights))
    return model


def _from_file(arch: str, weights: Path) -> TwoTower:
    """A file knows neither its architecture nor its preprocessing: the one is named, the other is open_clip's default."""
    model_cfg = model_cfg_of(arch)
    quick = uses_quick_gelu(weights) if is_torchscript(weights) else None
    if quick is not None and quick != bool(model_cfg.get("quick_gelu", False)):
        names = {True: "QuickGELU", False: "GELU"}
        raise UserError(
            f"{weights} was trained with {names[quick]} and {arch} computes {names[not quick]}: give the file's own path, or "
            f"the architecture with the other activation ({arch.removesuffix('-quickgelu')}{'-quickgelu' if quick else ''})"
        )
    model = TwoTower(model_cfg)
    fill(model, weights)
    return model
