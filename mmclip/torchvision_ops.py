"""Lets torchvision be imported beside a torch that its compiled extension does not fit.

open_clip and timm need only torchvision's Python transforms, yet the import of torchvision describes two detection
operators and fails when its extension (built for another torch, or for CUDA) did not load. `install` waits for that
import, whoever makes it, and declares the two operators just before; nothing here imports torch or torchvision earlier.
"""

import importlib.machinery
import importlib.util
import sys
from collections.abc import Iterable
from importlib.abc import MetaPathFinder
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

STAND_INS = ("nms", "qnms")
SCHEMA = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"

_libraries: list[Any] = []  # a torch.library.Library that is collected takes its operators with it
_searching: list[bool] = []  # not empty while we look for torchvision ourselves, which the finder below notices too


class _BeforeTorchvision(MetaPathFinder):
    """Finds nothing itself: it acts when torchvision is looked for, and lets the search go on."""

    def find_spec(self, fullname: str, path: Iterable[str] | None, target: ModuleType | None = None) -> None:
        if fullname == "torchvision":
            on_search()


def install() -> None:
    """Wait for the first import of torchvision in this process; `import mmclip` does this."""
    if not any(isinstance(finder, _BeforeTorchvision) for finder in sys.meta_path):
        sys.meta_path.insert(0, _BeforeTorchvision())


def on_search() -> None:
    """What a finder does when torchvision is looked for; the file `mmclip_startup.pth` of an installation calls it too."""
    define_missing_ops()


def define_missing_ops() -> bool:
    """Declare the operators that torchvision's import asks for, if its extension is there but cannot be loaded.

    Idempotent. Where the extension loads, or torchvision is absent or already imported, nothing is declared.

    Returns:
        Whether the declarations stand in for the real operators in this process; calling one raises
        `NotImplementedError`.
    """
    if _libraries or _searching or "torchvision" in sys.modules:
        return bool(_libraries)
    _searching.append(True)
    try:
        if _real_ops_load():
            return False
    finally:
        _searching.clear()
    from torch.library import Library

    library = Library("torchvision", "DEF")
    for name in STAND_INS:
        library.define(name + SCHEMA)
        library.impl(name, _refuse, "CompositeExplicitAutograd")
    _libraries.append(library)
    return True


def _real_ops_load() -> bool:
    """Load torchvision's extension as its own import will (twice is harmless); True where torchvision is absent."""
    spec = importlib.util.find_spec("torchvision")
    if spec is None or spec.origin is None:
        return True
    loader = (importlib.machinery.ExtensionFileLoader, importlib.machinery.EXTENSION_SUFFIXES)
    extension = importlib.machinery.FileFinder(str(Path(spec.origin).parent), loader).find_spec("_C")
    if extension is None or extension.origin is None:
        return False
    import torch

    try:
        torch.ops.load_library(extension.origin)
    except OSError:
        return False
    return True


def _refuse(*_: object) -> NoReturn:
    import torch

    raise NotImplementedError(
        f"torchvision's compiled operators did not load beside torch {torch.__version__}, so nms cannot run; "
        "install the torchvision build that matches this torch"
    )
