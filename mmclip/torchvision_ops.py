"""Lets torchvision be imported beside a torch that its compiled extension does not fit.

open_clip and timm need only torchvision's Python transforms, yet the import of torchvision describes two detection
operators and fails when its extension (built for another torch, or for CUDA) did not load. Call `define_missing_ops`
before the first import of either.
"""

import importlib.machinery
import importlib.util
import sys
from pathlib import Path
from typing import NoReturn

import torch

STAND_INS = ("nms", "qnms")
SCHEMA = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"

_libraries: list[torch.library.Library] = []  # a Library that is collected takes its operators with it


def define_missing_ops() -> bool:
    """Declare the operators that torchvision's import asks for, if its extension is there but cannot be loaded.

    Idempotent. Where the extension loads, or torchvision is absent or already imported, nothing is declared.

    Returns:
        Whether the declarations stand in for the real operators in this process; calling one raises
        `NotImplementedError`.
    """
    if _libraries:
        return True
    if "torchvision" in sys.modules or _real_ops_load():
        return False
    library = torch.library.Library("torchvision", "DEF")
    for name in STAND_INS:
        library.define(name + SCHEMA)
        library.impl(name, _refuse, "CompositeExplicitAutograd")
    _libraries.append(library)
    return True


def _real_ops_load() -> bool:
    """Load torchvision's extension just as its own import will (loading it twice is harmless); True where it is absent."""
    spec = importlib.util.find_spec("torchvision")
    if spec is None or spec.origin is None:
        return True
    loader = (importlib.machinery.ExtensionFileLoader, importlib.machinery.EXTENSION_SUFFIXES)
    extension = importlib.machinery.FileFinder(str(Path(spec.origin).parent), loader).find_spec("_C")
    if extension is None or extension.origin is None:
        return False
    try:
        torch.ops.load_library(extension.origin)
    except OSError:
        return False
    return True


def _refuse(*_: object) -> NoReturn:
    raise NotImplementedError(
        f"torchvision's compiled operators did not load beside torch {torch.__version__}, so nms cannot run; "
        "install the torchvision build that matches this torch"
    )
