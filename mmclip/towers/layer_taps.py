"""Listens to the layers of a tower while it runs, and keeps two rows of each sequence: its pooled token and its mean.

Both are taken inside the hook, so that no more than one layer's tokens are held at a time.
"""

import inspect
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from mmclip.towers.block import Groups, RowBlock

ROW_ARGUMENTS = inspect.signature(RowBlock.forward)


@dataclass
class Seen:
    """What layers have given in one run of a tower, by their number."""

    column: Int[Tensor, " sequence"] | None = None
    """The pooled token of each sequence, in the order in which they run; from the end where it is negative."""
    valid: Int[Tensor, " sequence"] | None = None
    """Tokens of each before its padding; None: there is none."""
    pooled: dict[int, list[Tensor]] = field(default_factory=dict)
    means: dict[int, list[Tensor]] = field(default_factory=dict)
    has_maps: bool = False

    def rows(self, layer: int) -> int:
        """Sequences that a layer has seen."""
        return sum(map(len, self.means.get(layer, ())))

    def take(self, layer: int, output: Tensor, channels_last: bool) -> None:
        """The next sequences [sequence token width], or maps of features [picture width row column], that a layer makes."""
        part = slice(self.rows(layer), self.rows(layer) + len(output))
        if output.ndim == 3:
            mean = mean_token(output.float(), None if self.valid is None else self.valid[part])
            if self.column is not None:
                column = self.column[part] % output.shape[1]
                rows = torch.arange(len(output), device=output.device)
                self.pooled.setdefault(layer, []).append(output[rows, column].float())
        elif output.ndim == 4:
            self.has_maps, mean = True, output.float().mean(dim=(1, 2) if channels_last else (2, 3))
        else:  # nothing with a mean: who asks sees that rows are missing
            return
        self.means.setdefault(layer, []).append(mean)


def mean_token(
    tokens: Float[Tensor, "sequence token width"], valid: Int[Tensor, " sequence"] | None
) -> Float[Tensor, "sequence width"]:
    """The mean over the first `valid` tokens of each sequence, or over all."""
    if valid is None:
        return tokens.mean(dim=1)
    behind = torch.arange(tokens.shape[1], device=tokens.device) >= valid[:, None]
    return tokens.masked_fill(behind[..., None], 0).sum(dim=1) / valid[:, None]


@dataclass(frozen=True)
class Tap:
    """Layers of a tower, heard by the thread that asks alone; several threads may run the tower while it is `open`."""

    word: str
    """What a layer is called: block or stage."""
    layers: Sequence[nn.Module]
    channels_last: bool = False
    """Whether maps of features have their width at the end."""
    _own: threading.local = field(default_factory=threading.local)
    _lock: Any = field(default_factory=threading.Lock)
    _handles: list[RemovableHandle] = field(default_factory=list)
    _uses: list[None] = field(default_factory=list)

    @contextmanager
    def open(self) -> Iterator[None]:
        """Hooks are there within: one that came or went beside a running forward would break it."""
        with self._lock:
            if not self._uses:
                for number, layer in enumerate(self.layers):
                    self._handles.append(layer.register_forward_hook(partial(self._hear, number), with_kwargs=True))
            self._uses.append(None)
        try:
            yield
        finally:
            with self._lock:
                self._uses.pop()
                while self._handles and not self._uses:
                    self._handles.pop().remove()

    @contextmanager
    def hearing(self, seen: Seen) -> Iterator[Seen]:
        """What the tower makes within, in this thread, goes to `seen`."""
        with self.open():
            self._own.seen = seen
            try:
                yield seen
            finally:
                self._own.seen = None

    def _hear(self, number: int, layer: nn.Module, inputs: Any, named: dict[str, Any], output: Any) -> None:
        seen: Seen | None = getattr(self._own, "seen", None)
        if seen is not None:
            for part in sequences(layer, inputs, named, output):
                seen.take(number, part, self.channels_last)


def sequences(layer: nn.Module, inputs: Sequence[Any], named: dict[str, Any], output: Any) -> Iterator[Tensor]:
    """What a layer has made, group by group."""
    groups: Groups | None = None
    if isinstance(layer, RowBlock):
        given = ROW_ARGUMENTS.bind(layer, *inputs, **named).arguments
        groups = given.get("groups")
        if (
            given.pop("pooled", None) is not None
        ):  # of the last block an embedding needs one row alone: here all of them
            given.pop("self")
            output = layer.forward(**given)
    whole: Tensor = output[0] if isinstance(output, tuple) else output
    if groups is None:
        yield whole
        return
    for (count, tokens), part in zip(groups, whole.split([count * tokens for count, tokens in groups]), strict=True):
        yield part.unflatten(0, (count, tokens))
