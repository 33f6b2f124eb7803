"""Weights in and out: `load` reads everyone's formats, `create` starts a run from them, `export` writes a folder for others."""

from mmclip.release.exports import Exported, check_target, export
from mmclip.release.sources import create, load, model_folder

__all__ = ["Exported", "check_target", "create", "export", "load", "model_folder"]
