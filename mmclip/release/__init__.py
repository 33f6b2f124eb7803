"""Weights in and out: `load` reads everyone's formats, `create` starts a run from them, `export` writes a folder for others.

`interpolate` and `average` make weights of weights.
"""

from mmclip.release.averages import average, interpolate
from mmclip.release.exports import Exported, check_target, export
from mmclip.release.sources import load, model_folder, sha256_of, source_folder, weights_of
from mmclip.release.start import create

__all__ = [
    "Exported",
    "average",
    "check_target",
    "create",
    "export",
    "interpolate",
    "load",
    "model_folder",
    "sha256_of",
    "source_folder",
    "weights_of",
]
