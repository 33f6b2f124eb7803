"""What the doctor says of one thing, and how a probe that fails becomes such a line."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

State = Literal["ok", "note", "problem"]
GIB = 2**30


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One line: `ok`; `note`, it works but less well than it could; `problem`, it stops training or wastes the machine."""

    name: str
    value: str
    state: State = "ok"
    fix: str = ""
    """What to do; empty where there is nothing to mend."""


Probe = Callable[[], Iterable[Finding]]


def examine(probe: Probe) -> Iterator[Finding]:
    """What `probe` finds; if it fails, a problem that names the exception, after what was found before."""
    try:
        yield from probe()
    # Probes touch drivers, kernels and half-installed packages, which raise every kind there is. On a broken machine the
    # other lines matter most, so nothing may end the examination; the exception is shown and counts as a problem.
    except Exception as error:
        reason = " ".join(str(error).split())[:300]
        yield Finding(
            name=getattr(probe, "__name__", "probe").replace("_", " "),
            value=f"could not be examined: {type(error).__name__}: {reason}",
            state="problem",
            fix="mend what the message names; if it is mmclip's fault, please report it with this line",
        )


def gib(size: float) -> str:
    """Bytes as a person reads them: `24.0 GiB`, `64 MiB`."""
    return f"{size / GIB:,.1f} GiB" if size >= GIB else f"{size / 2**20:,.0f} MiB"
