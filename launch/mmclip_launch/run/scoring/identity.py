"""Which weights the name of a checkpoint stands for, in a result and in words, and where its results belong."""

from pathlib import Path

from mmclip.envelope import MANIFEST, sha256
from mmclip.errors import UserError
from mmclip.release import sha256_of, source_folder
from mmclip.towers.weights import is_averaged
from mmclip.training.checkpoint.result import result_of
from mmclip_eval.results.result import ModelIdentity
from mmclip_launch.run.config import load_run_config


def identity_of(checkpoint: str, raw: bool = False) -> ModelIdentity:
    """Which weights a checkpoint's name stands for.

    Raises:
        UserError: there are none.
    """
    folder = source_folder(checkpoint)
    return ModelIdentity(
        model=_architecture(checkpoint, folder),
        precision="fp32",
        checkpoint=str(folder) if folder else checkpoint,
        weights_sha256=sha256_of(folder, raw) if folder else None,
        checkpoint_sha256=sha256(folder / MANIFEST) if folder and (folder / MANIFEST).is_file() else None,
    )


def architecture_of(checkpoint: str) -> str:
    """Name of the architecture, as results have it.

    Raises:
        UserError: there are no weights of that name.
    """
    return _architecture(checkpoint, source_folder(checkpoint))


def said_of(identity: ModelIdentity) -> str:
    """Why it is this checkpoint of its run, and which of the two kinds of weights of an averaging run it is."""
    folder = Path(identity.checkpoint or "")
    chosen = result_of(folder.parent.parent) if folder.parent.name == "checkpoints" else result_of(folder.parent)
    why = f" (the result of its run: {chosen.why})" if chosen is not None and chosen.folder == folder else ""
    if not is_averaged(folder):
        return why
    raw = identity.weights_sha256 == sha256_of(folder, raw=True)
    return f"{why} ({'raw weights' if raw else 'average of the weights; --raw takes the weights themselves'})"


def default_output(checkpoint: str) -> Path:
    """The folder of results that belongs to a checkpoint: that of its run, else one of its own.

    Raises:
        UserError: the weights have no folder.
    """
    folder = source_folder(checkpoint)
    if folder is None:
        raise UserError(f"{checkpoint} has no folder for results: give --output FOLDER")
    return folder.parent.parent / "results" if folder.parent.name == "checkpoints" else folder / "results"


def _architecture(checkpoint: str, folder: Path | None) -> str:
    if folder is None:
        return checkpoint.removeprefix("open_clip:").partition("/")[0]
    for parent in folder.parents[:2]:
        if (parent / "config.toml").is_file():
            model = load_run_config(parent / "config.toml").model
            return model.init or ("inline" if model.inline else model.arch)
    return f"local-dir:{folder}"
