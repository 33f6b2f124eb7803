"""A path: the folder of a run, of a checkpoint, of open_clip or of transformers."""

from pathlib import Path

from mmclip.envelope import MANIFEST, sha256, verify
from mmclip.errors import UserError
from mmclip.release.hf.files import CONFIG
from mmclip.release.hf.files import WEIGHTS as HF_WEIGHTS
from mmclip.release.sources.names import meant_by
from mmclip.release.sources.transformers_folder import is_transformers, load_transformers_folder
from mmclip.release.sources.weights_file import load_file
from mmclip.towers.layout import WEIGHTS_LAYOUT, read_all
from mmclip.towers.two_tower import TwoTower
from mmclip.towers.weights import (
    CONFIG_FILE,
    RAW_WEIGHTS_FILE,
    WEIGHTS_FILE,
    is_averaged,
    is_in_rows,
    load_weights,
    raw_weights_in,
    tensors_sha256,
)
from mmclip.training.checkpoint.folders import newest_checkpoint
from mmclip.training.checkpoint.result import result_of

PEFT_CONFIG = "adapter_config.json"


def load_path(path: Path, raw: bool) -> TwoTower:
    """The model in a folder of ours, of open_clip or of transformers, or in a file of OpenAI's.

    Raises:
        UserError: it is none of these, or damaged.
    """
    if path.is_file():
        return load_file(path)
    folder = weights_folder(path)
    if folder == path and (folder / MANIFEST).is_file():
        verify(folder)  # bit rot inside a tensor would otherwise load in silence
    return load_transformers_folder(folder) if is_transformers(folder) else load_weights(folder, raw)


def weights_of(folder: Path, raw: bool = False) -> Path | None:
    """The file of weights that `load_path` reads in a `model_folder`; None where there are several or none."""
    if is_in_rows(folder):
        return None
    names = [RAW_WEIGHTS_FILE if raw and is_averaged(folder) else WEIGHTS_FILE, *HF_WEIGHTS]
    return next((folder / name for name in names if (folder / name).is_file()), None)


def sha256_of(folder: Path, raw: bool = False) -> str | None:
    """Of the one file of weights in a folder, or of the one that weights in rows would make; None where there is none such."""
    if is_in_rows(folder):
        return tensors_sha256(
            read_all(raw_weights_in(folder) if raw and is_averaged(folder) else folder / WEIGHTS_LAYOUT)
        )
    weights = weights_of(folder, raw)
    return None if weights is None else sha256(weights)


def model_folder(path: str | Path) -> Path:
    """The folder that stock open_clip opens: `path`, or of the run at `path` its result, else its newest whole checkpoint.

    Raises:
        UserError: there is neither, or a sharded run saved it in rows.
    """
    folder = weights_folder(path)
    if is_in_rows(folder):
        raise UserError(
            f"{folder} was saved by a sharded run, each process its rows, and other programs expect one file of weights: "
            f"`mmclip export {folder} FOLDER` writes one"
        )
    return folder


def weights_folder(path: str | Path) -> Path:
    """The folder that holds the weights: `path` itself, or of the run at `path` its result, else its newest whole checkpoint.

    Raises:
        UserError: there is neither.
    """
    folder = Path(path)
    if not folder.is_dir():
        raise UserError(
            f"{folder} is no folder: expected a run, a checkpoint, a folder of open_clip or transformers, "
            f"a file of OpenAI's, or open_clip:ARCH/TAG{meant_by(str(folder))}"
        )
    if (folder / CONFIG_FILE).is_file() or is_transformers(folder):
        return folder
    if (folder / PEFT_CONFIG).is_file():
        raise UserError(
            f"{folder} holds an adapter ({PEFT_CONFIG}), which is no model by itself: merge it into its base model and save "
            "that (peft's merge_and_unload, then save_pretrained), and give the merged folder"
        )
    chosen = result_of(folder)
    if chosen is not None:
        verify(chosen.folder)
        return chosen.folder
    skipped: list[str] = []
    newest = newest_checkpoint(folder, skipped.append)
    if newest is None:
        what = f"neither {CONFIG_FILE} nor a whole checkpoint under checkpoints/step-*"
        if skipped:
            raise UserError(f"{folder} holds {what}; {len(skipped)} are damaged, the newest: {skipped[0]}")
        raise UserError(f"{folder} holds {what}, nor is it a folder of transformers, with {CONFIG}")
    return newest
