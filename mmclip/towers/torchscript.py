"""Tensors of a TorchScript archive, which OpenAI's released models are, without running what stands in it.

An archive describes its modules in the opcodes of a pickle. Here they are read as data: every class is a name, every call
is noted and none is made.
"""

import math
import pickletools
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mmclip.errors import UserError

DTYPES = {
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "DoubleStorage": torch.float64,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "BoolStorage": torch.bool,
    "ByteStorage": torch.uint8,
}
REBUILD = "torch._utils _rebuild_tensor_v2"
MARK = object()
CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
VALUES = ("BINUNICODE", "SHORT_BINUNICODE", "BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINSTRING")


@dataclass
class Described:
    """Something that a pickle would make: here it is only what would be made, from what."""

    name: str
    arguments: Any = ()
    state: dict[str, Any] = field(default_factory=dict)


def is_torchscript(path: Path) -> bool:
    """Whether a file is an archive that holds code beside its weights."""
    if not path.is_file() or not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
    return any("/code/" in name for name in names) and any(name.endswith("/data.pkl") for name in names)


def read_torchscript(path: Path) -> dict[str, Tensor]:
    """Parameters and buffers by their names in the module.

    Raises:
        UserError: the archive is damaged, or describes its tensors in a way that no release of torch did.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            (root,) = (name for name in archive.namelist() if name.endswith("/data.pkl"))
            found: dict[str, Tensor] = {}
            _collect(described(archive.read(root)), "", found, _Storages(archive, root.removesuffix("data.pkl")), [])
    except (zipfile.BadZipFile, ValueError, KeyError, IndexError, RuntimeError, TypeError, EOFError) as error:
        reason = " ".join(str(error).split())[:160]
        raise UserError(
            f"{path} cannot be read as a TorchScript archive ({type(error).__name__}: {reason}): cut short or damaged; "
            "copy it again from where it is whole"
        ) from error
    return found


def uses_quick_gelu(path: Path) -> bool | None:
    """Which activation the code in an archive names, read as text; None where it names neither."""
    with zipfile.ZipFile(path) as archive:
        codes = [archive.read(name).decode("utf-8", "replace") for name in archive.namelist() if name.endswith(".py")]
    if any("torch.gelu(" in code for code in codes):
        return False
    return True if any("torch.sigmoid(" in code for code in codes) else None


class _Storages:
    def __init__(self, archive: zipfile.ZipFile, root: str) -> None:
        self.archive, self.root = archive, root
        self.read: dict[str, Tensor] = {}

    def tensor(self, arguments: tuple[Any, ...]) -> Tensor:
        (_, kind, key, _, count), offset, size, stride = arguments[0].arguments, *arguments[1:4]
        if key not in self.read:
            dtype = DTYPES[kind.name.rpartition(" ")[2]]
            raw = bytearray(self.archive.read(f"{self.root}data/{key}"))
            if len(raw) != count * dtype.itemsize:
                raise ValueError(f"storage {key} has {len(raw)} bytes, expected {count * dtype.itemsize}")
            self.read[key] = torch.frombuffer(raw, dtype=dtype) if raw else torch.empty(0, dtype=dtype)
        last = offset + sum((length - 1) * step for length, step in zip(size, stride, strict=True))
        if offset < 0 or min((*stride, 0)) < 0 or (math.prod(size) and last >= count):
            raise ValueError(f"a tensor reaches beyond storage {key}")
        return self.read[key].as_strided(size, stride, offset).clone()


def _collect(part: Any, prefix: str, found: dict[str, Tensor], storages: _Storages, above: list[int]) -> None:
    if not isinstance(part, Described) or id(part) in above:
        return
    if part.name == REBUILD:
        found[prefix] = storages.tensor(part.arguments)
        return
    for name, value in part.state.items():
        _collect(value, f"{prefix}.{name}" if prefix else name, found, storages, [*above, id(part)])


def described(pickled: bytes) -> Any:
    """What the opcodes of a pickle would build, with every class and call as `Described`.

    Raises:
        ValueError: an opcode has no meaning in an archive of tensors.
    """
    stack: list[Any] = []
    memo: dict[int, Any] = {}
    for opcode, argument, _ in pickletools.genops(pickled):
        name = opcode.name
        if name in CONSTANTS or name in VALUES:
            stack.append(CONSTANTS.get(name, argument))
        elif name in ("PROTO", "FRAME"):
            continue
        elif name == "STOP":
            return stack.pop()
        elif name in ("BINPUT", "LONG_BINPUT", "MEMOIZE"):
            memo[len(memo) if argument is None else int(argument)] = stack[-1]  # pyright: ignore
        elif name in ("BINGET", "LONG_BINGET"):
            stack.append(memo[int(argument)])  # pyright: ignore
        elif name == "GLOBAL":
            stack.append(Described(str(argument)))
        else:
            _build(name, stack)
    raise EOFError("the description ends early")


def _build(name: str, stack: list[Any]) -> None:
    """Opcodes that take from the stack what stands on it."""
    if name == "MARK":
        stack.append(MARK)
    elif name.startswith("EMPTY_"):
        stack.append({"EMPTY_DICT": dict, "EMPTY_LIST": list, "EMPTY_TUPLE": tuple}[name]())
    elif name == "TUPLE":
        stack.append(tuple(_to_mark(stack)))
    elif name in ("TUPLE1", "TUPLE2", "TUPLE3"):
        count = int(name[-1])
        stack[-count:] = [tuple(stack[-count:])]
    elif name == "BINPERSID":
        stack.append(Described("storage", stack.pop()))
    elif name in ("REDUCE", "NEWOBJ"):
        arguments = stack.pop()
        stack.append(Described(stack.pop().name, arguments))
    elif name == "BUILD":
        state = stack.pop()
        stack[-1].state = state if isinstance(state, dict) else {}
    elif name in ("SETITEM", "SETITEMS"):
        pairs = _to_mark(stack) if name == "SETITEMS" else [stack.pop(-2), stack.pop()]
        if isinstance(stack[-1], dict):  # an OrderedDict is a call here, and holds no tensors that are wanted
            stack[-1].update(zip(pairs[::2], pairs[1::2], strict=True))
    elif name in ("APPEND", "APPENDS"):
        values = _to_mark(stack) if name == "APPENDS" else [stack.pop()]
        if isinstance(stack[-1], list):
            stack[-1].extend(values)
    else:
        raise ValueError(f"opcode {name} has no place in an archive of tensors")


def _to_mark(stack: list[Any]) -> list[Any]:
    place = len(stack) - 1 - next(number for number, value in enumerate(reversed(stack)) if value is MARK)
    values = stack[place + 1 :]
    del stack[place:]
    return values
