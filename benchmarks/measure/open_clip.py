"""The peer open_clip: its trainer in its own venv, with the webdataset that it pins."""

from pathlib import Path

from measure.peer import peer_python, versions

NAME = "open_clip_torch 3.3.0"
REQUIREMENTS = ("torch==2.13.0", "torchvision==0.28.0", "open_clip_torch[training]==3.3.0")
UNPINNED = ("webdataset",)


def open_clip_python() -> Path:
    """Its interpreter."""
    return peer_python("open_clip", REQUIREMENTS, UNPINNED)


def open_clip_versions(python: Path) -> dict[str, str]:
    """What a reader needs to repeat the peer's side."""
    return versions(python, ("open_clip_torch", "torch", "webdataset", "numpy", "pillow"), "peer")
