"""A repository of the Hugging Face Hub on this disk: descriptions, tokenizer, and one kind of weights."""

from collections.abc import Sequence
from pathlib import Path

from mmclip.errors import UserError
from mmclip.towers.weights import CONFIG_FILE

DESCRIPTIONS = ("*.json", "*.txt", "*.model", "*/config.json")
WEIGHTS = (".safetensors", ".bin")
"""In the order in which they are wanted; `.bin` is read as tensors alone."""


def downloaded(name: str) -> Path:
    """The snapshot of a repository, from the hub, or from its cache where the hub cannot be reached.

    Raises:
        UserError: it cannot be had.
    """
    from huggingface_hub import HfApi, snapshot_download

    try:
        try:
            files = HfApi().list_repo_files(name)
        except Exception:  # not reachable, or told not to try: what stands in the cache is enough
            return Path(snapshot_download(name, local_files_only=True))
        return Path(snapshot_download(name, allow_patterns=[*DESCRIPTIONS, *_weights_of(files)]))
    except Exception as error:  # hub, proxy, disk: each client raises its own kinds
        reason = " ".join(str(error).split())[:300]
        raise UserError(
            f"{name!r} could not be downloaded from the Hugging Face Hub ({type(error).__name__}: {reason}); "
            "check the name and the network, or put the folder on disk and give its path"
        ) from error


def _weights_of(files: Sequence[str]) -> list[str]:
    """Those of the preferred layout alone: repositories hold the same tensors in several formats."""
    top = [name for name in files if "/" not in name]
    for suffix in WEIGHTS:
        names = [name for name in top if name.endswith(suffix)]
        if names:
            own = [name for name in names if name.startswith("open_clip")] if CONFIG_FILE in top else []
            return own or names
    return []
