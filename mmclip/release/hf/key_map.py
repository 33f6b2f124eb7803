"""Weights under open_clip's names and under those of transformers: one table of rules that is read both ways."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from mmclip.errors import UserError

Shape = Literal["same", "transposed", "row of one", "scalar"]
"""How one of ours differs from theirs: transposed; with an axis of one before it; of any shape that holds one number."""


@dataclass(frozen=True)
class Rule:
    """Tensors of ours that hold the same numbers as tensors of theirs, laid end to end along their rows."""

    ours: Mapping[str, int]
    """open_clip's names, each with its share of the rows."""
    theirs: Mapping[str, int]
    """Names of transformers, likewise."""
    shape: Shape = "same"


def same(ours: str, theirs: str, shape: Shape = "same") -> Rule:
    """One tensor that has two names."""
    return Rule({ours: 1}, {theirs: 1}, shape)


def affine(ours: str, theirs: str) -> tuple[Rule, ...]:
    """Weight and bias of one module."""
    return tuple(same(f"{ours}.{part}", f"{theirs}.{part}") for part in ("weight", "bias"))


def joined(ours: Sequence[str], theirs: Sequence[str]) -> Rule:
    """Equal shares of `theirs` in one tensor of ours, or the other way round."""
    return Rule(dict.fromkeys(ours, 1), dict.fromkeys(theirs, 1))


def to_ours(rules: Iterable[Rule], tensors: Mapping[str, Tensor], where: str) -> dict[str, Tensor]:
    """Every tensor under open_clip's names.

    Raises:
        UserError: a tensor is missing, or one is there that no rule knows.
    """
    return _converted([(rule.theirs, rule.ours, rule.shape, True) for rule in rules], tensors, where)


def to_theirs(rules: Iterable[Rule], tensors: Mapping[str, Tensor], where: str) -> dict[str, Tensor]:
    """Every tensor under the names of transformers.

    Raises:
        UserError: a tensor is missing, or one is there that no rule knows.
    """
    return _converted([(rule.ours, rule.theirs, rule.shape, False) for rule in rules], tensors, where)


def _converted(
    rules: list[tuple[Mapping[str, int], Mapping[str, int], Shape, bool]], tensors: Mapping[str, Tensor], where: str
) -> dict[str, Tensor]:
    wanted = {name for source, *_ in rules for name in source}
    missing, unknown = sorted(wanted - tensors.keys()), sorted(tensors.keys() - wanted)
    if missing or unknown:
        found = [
            *(f"it lacks {missing[0]} ({len(missing)} in all)" for _ in missing[:1]),
            *(f"it has an unknown {unknown[0]} ({len(unknown)} in all)" for _ in unknown[:1]),
        ]
        raise UserError(f"{where}: the weights are of another architecture than is described: {'; '.join(found)}")
    out: dict[str, Tensor] = {}
    for source, target, shape, inwards in rules:
        rows = torch.cat([tensors[name] for name in source]) if len(source) > 1 else tensors[next(iter(source))]
        rows = _reshaped(rows, shape, inwards)
        if len(target) == 1:
            out[next(iter(target))] = rows
            continue
        share, rest = divmod(len(rows), sum(target.values()))
        if rest:
            raise UserError(f"{where}: {', '.join(source)} has {len(rows)} rows, which is no multiple of {len(target)}")
        parts = rows.split([share * shares for shares in target.values()])
        out |= {name: part.clone() for name, part in zip(target, parts, strict=True)}
    return out


def _reshaped(tensor: Tensor, shape: Shape, inwards: bool) -> Tensor:
    if shape == "transposed":
        return tensor.T.contiguous()
    if shape == "row of one":
        return tensor[None] if inwards else tensor[0]
    return tensor.reshape(1) if shape == "scalar" else tensor
