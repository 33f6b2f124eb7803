"""The peer CLIP_benchmark, in a venv where it works: not with NumPy 2.4, and with the webdataset that it was written for."""

from pathlib import Path

from measure.peer import peer_python, versions

NAME = "CLIP_benchmark 1.6.2"
REQUIREMENTS = (
    "torch==2.13.0",
    "torchvision==0.28.0",
    "clip-benchmark==1.6.2",
    "open_clip_torch==3.3.0",
    "numpy<2.4",
    "webdataset<0.3",
    "requests",  # imported, but not asked for
)
UNPINNED = ("numpy", "webdataset")


def clip_benchmark_python() -> Path:
    """Its interpreter."""
    return peer_python("clip_benchmark", REQUIREMENTS, UNPINNED)


def clip_benchmark_versions(python: Path) -> dict[str, str]:
    """What a reader needs to repeat the peer's side."""
    packages = ("clip-benchmark", "open_clip_torch", "torch", "webdataset", "numpy", "pillow")
    return versions(python, packages, "peer")
