"""Weights in and out: `load` reads everyone's formats, `create` starts a run from them, `export` writes a folder for others.

`interpolate` and `average` make weights of weights.
"""

from mmclip.release.averages import average, interpolate
from mmclip.release.exports import Exported, check_target, export
from mmclip.release.sources import create, load, model_folder

__all__ = ["Exported", "average", "check_target", "create", "export", "interpolate", "load", "model_folder"]
