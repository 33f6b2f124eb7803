"""Lets torchvision be imported beside a torch that its compiled extension does not fit.

open_clip and timm need only torchvision's Python transforms, yet the import of torchvision describes two detection
operators and fails when its extension (built for another torch, or for CUDA) did not load. `install` waits for that
import, whoever makes it. torchvision loads its extension first and knows whether that went well; where it did not, the two
operators are declared before the next part of torchvision is imported. Nothing here imports torch or torchvision earlier.
"""

import sys
from collections.abc import Iterable
from importlib.abc import MetaPathFinder
from types import ModuleType
from typing import Any, NoReturn

STAND_INS = ("nms", "qnms")
SCHEMA = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"

_libraries: list[Any] = []  # a torch.library.Library that is collected takes its operators with it


class _WhileTorchvisionIsImported(MetaPathFinder):
    """Finds nothing itself: it acts when a part of torchvision is looked for, and lets the search go on."""

    def find_spec(self, fullname: str, path: Iterable[str] | None, target: ModuleType | None = None) -> None:
        if fullname.startswith("torchvision.") and not _libraries and _extension_is_missing():
            _declare()


def install() -> None:
    """Wait for the first import of torchvision in this process; `import mmclip` does this."""
    if not any(isinstance(finder, _WhileTorchvisionIsImported) for finder in sys.meta_path):
        sys.meta_path.insert(0, _WhileTorchvisionIsImported())


def on_search() -> None:
    """What the file `mmclip_startup.pth` of an installation calls when torchvision is looked for."""
    install()


def stand_ins_declared() -> bool:
    """Whether declarations stand in for torchvision's operators in this process, once torchvision was imported.

    Calling one of them raises `NotImplementedError`.
    """
    return bool(_libraries)


def _extension_is_missing() -> bool:
    """What torchvision itself found; False while it has not looked yet (a submodule is bound once it was executed)."""
    extension = getattr(sys.modules.get("torchvision"), "extension", None)
    return extension is not None and not extension._has_ops()


def _declare() -> None:
    from torch.library import Library

    library = Library("torchvision", "DEF")
    _libraries.append(library)
    for name in STAND_INS:
        library.define(name + SCHEMA)
        library.impl(name, _refuse, "CompositeExplicitAutograd")


def _refuse(*_: object) -> NoReturn:
    import torch

    raise NotImplementedError(
        f"torchvision's compiled operators did not load beside torch {torch.__version__}, so nms cannot run; "
        "install the torchvision build that matches this torch"
    )
