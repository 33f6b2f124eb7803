"""Turns what a person writes for "these shards" into a list of files, and says so when nothing is there."""

import glob
import os
import re
import shlex
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

from braceexpand import braceexpand

import mmclip_data
from mmclip.errors import UserError
from mmclip.near import nearest

MAX_EXPANSIONS = 1_000_000
EMBEDDED = "embedded:"
VARIABLE = re.compile(r"\$(\w+|\{\w+\})")
COMPRESSED = {
    ".tar.gz": "gunzip *.tar.gz",
    ".tgz": "gunzip *.tgz",
    ".tar.zst": "zstd -d --rm *.tar.zst",
    ".tar.bz2": "bunzip2 *.tar.bz2",
    ".tar.xz": "unxz *.tar.xz",
}
"""What makes plain tars of compressed ones."""
RANGE = re.compile(r"\{(-?\d+)\.\.(-?\d+)(?:\.\.-?(\d+))?\}")


def expand_shards(spec: str | Sequence[str]) -> list[Path]:
    """The shards that `spec` names, in the order it names them; a pattern's own matches are sorted.

    A part is a file, a folder (its `*.tar`), a pattern with `*`, `?`, `[...]` and brace ranges such as `{000..127}`,
    or one of these after `embedded:` for data that comes with mmclip. Parts are joined by `::` or given as a list.
    A `~` at the beginning of a part is the user's folder, since no shell expands one in a file or between the quotes that
    braces need; environment variables are left alone.

    Raises:
        UserError: a part matches nothing, a shard of a brace range is missing, a shard is named twice,
            or the part is a URL or a pipe.
    """
    parts = [part for text in ([spec] if isinstance(spec, str) else spec) for part in text.split("::")]
    shards = [shard for part in parts for shard in _expand_part(part)]
    if not shards:
        raise UserError(
            f"shards={spec!r} names no shard; expected a file, a folder, "
            "or a pattern such as data/train-{000..127}.tar"
        )
    seen: set[Path] = set()
    for shard in shards:
        if shard in seen:
            raise UserError(
                f"shards={spec!r} names {shard} twice; give each shard once, and weight sources by a mixture"
            )
        seen.add(shard)
    return shards


def _expand_part(part: str) -> list[Path]:
    if not part:
        raise UserError("an empty name among the shards; expected a file, a folder or a pattern on both sides of '::'")
    if part.startswith(EMBEDDED):
        return _expand_below(Path(mmclip_data.__file__).parent / "embedded", part.removeprefix(EMBEDDED), part)
    if part.startswith("pipe:"):
        raise UserError(
            f"shards={part!r}: a pipe would run a shell, and is not read; give the URL itself (s3://..., https://...), "
            "or copy the shards to a folder and name that"
        )
    if "://" in part:
        raise UserError(
            f"shards={part.partition('?')[0]!r}: URLs are not read here, only where a run trains and by `mmclip shards "
            "index`; copy the shards to a folder and name that"
        )
    return _expand_below(Path(), home(part), part)


def home(path: str) -> str:
    """`path` with the user's folder for a `~` that it begins with, as a shell would have it.

    Raises:
        UserError: it begins with `~NAME`, and there is no such user.
    """
    if not path.startswith("~") or Path(path).exists():
        return path
    expanded = os.path.expanduser(path)
    if expanded.startswith("~"):
        raise UserError(f"{path}: no user {path[1:].partition('/')[0]!r} on this machine: write the whole path")
    return expanded


def _expand_below(root: Path, pattern: str, part: str) -> list[Path]:
    if (root / pattern).is_file():  # a file whose own name holds braces or brackets
        return [root / pattern]
    shards: list[Path] = []
    missing: list[Path] = []
    for name in braces(part, pattern):
        found = _matches(root, name)
        shards.extend(found)
        if not found:
            missing.append(root / name)
    if missing:
        if missing[0].is_dir():
            raise UserError(f"shards={part!r}: {_without_tars(missing[0])}")
        count = "" if len(missing) == 1 else f" and {len(missing) - 1} more"
        raise UserError(f"shards={part!r}: nothing at {missing[0]}{count}; {_unset(pattern)}{_beside(missing[0])}")
    return shards


def _matches(root: Path, name: str) -> list[Path]:
    if glob.has_magic(name):
        return [root / match for match in sorted(glob.glob(name, root_dir=root)) if (root / match).is_file()]
    path = root / name
    if path.is_dir():
        return sorted(path.glob("*.tar"))
    return [path] if path.is_file() else []


def braces(part: str, pattern: str) -> Iterator[str]:
    """Expand brace ranges; the count is bounded first, because the library holds a range's every name in memory."""
    bound = _expansion_bound(pattern)
    if bound > MAX_EXPANSIONS:
        raise UserError(
            f"shards={part!r}: the braces name about {bound} shards, at most {MAX_EXPANSIONS} are allowed; "
            "use a folder or a pattern with *"
        )
    try:
        return islice(braceexpand(pattern), MAX_EXPANSIONS)
    except ValueError as error:
        raise UserError(f"shards={part!r}: a brace without its partner; write a range as {{000..127}}") from error


def _expansion_bound(pattern: str) -> int:
    """An upper bound of the number of names: the product of every range's length and every list's number of entries."""
    bound = 1
    for start, end, step in RANGE.findall(pattern):
        bound *= abs(int(end) - int(start)) // max(int(step or 1), 1) + 1
    entries: list[int] = []
    for character in pattern:
        if character == "{":
            entries.append(1)
        elif character == "," and entries:
            entries[-1] += 1
        elif character == "}" and entries:
            bound *= entries.pop()
    return bound


def _without_tars(folder: Path) -> str:
    """What a folder holds in place of shards."""
    entries = sorted(islice(folder.iterdir(), 10_000))
    inside = [entry.name for entry in entries if entry.is_dir() and any(entry.glob("*.tar"))]
    if inside:
        return f"no .tar in {folder} itself, but in {', '.join(f'{name}/' for name in inside[:5])}: name one of those"
    names = ", ".join(entry.name for entry in entries[:4]) + (", ..." if len(entries) > 4 else "")
    compressed = next(
        (command for entry in entries for end, command in COMPRESSED.items() if entry.name.endswith(end)), None
    )
    how = "`mmclip shards make --help` tells how to make shards of it"
    if compressed:
        how = f"members can be reached in plain tars only: `cd {shlex.quote(str(folder))} && {compressed}` unpacks them to .tar"
    return f"no .tar in the folder {folder}: it holds {f'{names}; {how}' if entries else 'nothing'}"


def _unset(pattern: str) -> str:
    """What to say of `$NAME` in a path that is not there."""
    name = VARIABLE.search(pattern)
    return f"{name[0]} is not replaced by what the environment holds: write the path out; " if name else ""


def _beside(path: Path) -> str:
    """What stands in the deepest folder of `path` that exists, the most similar names first."""
    folder = next((parent for parent in path.parents if parent.is_dir()), None)
    if folder is None:
        return "no folder of that name either"
    child = path.relative_to(folder).parts[0]
    existing = sorted(
        entry.name for entry in islice(folder.iterdir(), 10_000) if entry.is_dir() or entry.suffix == ".tar"
    )
    close = nearest(child, existing) or existing[:3]
    return f"nearest in {folder}: {', '.join(close)}" if close else f"{folder} holds no .tar"
