"""Weights between weights: WiSE-FT (Wortsman et al., CVPR 2022) and model soups (Wortsman et al., ICML 2022), on state dicts.

Tensors alone, whatever they belong to; `mmclip.release.between` adds what makes two models comparable.
"""

import math
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor

from mmclip.errors import UserError

Weights = Mapping[str, Tensor]
"""A state dict."""

COUNTERS = ("num_batches_tracked",)
"""Buffers of batch norms that no evaluation reads; the largest is kept."""


def interpolate(a: Weights, b: Weights, alpha: float, names: Sequence[str] = ("A", "B")) -> dict[str, Tensor]:
    """(1 - alpha) a + alpha b, tensor by tensor (WiSE-FT, equation 1): 0 gives `a` itself, 1 gives `b`.

    `logit_scale` is the logarithm of the inverse temperature in every state dict of CLIP, and is interpolated as such.
    An `alpha` outside 0 to 1 extrapolates.

    Raises:
        UserError: the two do not have the same keys, shapes and types, or other integers; see `average`.
    """
    return average((a, b), (1 - alpha, alpha), names)


def average(
    states: Sequence[Weights], weights: Sequence[float] | None = None, names: Sequence[str] = ()
) -> dict[str, Tensor]:
    """The weighted mean of state dicts, uniform by default (a uniform soup), summed in fp64 and given the type it had.

    The sum of `weights` must be 1. A tensor that is the same in all comes out as it went in; the result shares no memory
    with what went in. `names` say in messages which state is which.

    Raises:
        UserError: keys, shapes or types differ, integers differ (an index or a mask belongs to an architecture), a tensor
            that differs is not finite, or the weights are not numbers whose sum is 1. The message names the tensor.
    """
    names = list(names) or [f"state {number}" for number in range(1, len(states) + 1)]
    shares = _shares(states, weights)
    for name, state in zip(names[1:], states[1:], strict=True):
        _refuse_other_keys(states[0], state, names[0], name)
    return {key: _mean(key, [state[key] for state in states], shares, names) for key in states[0]}


def _shares(states: Sequence[Weights], weights: Sequence[float] | None) -> Sequence[float]:
    if not states:
        raise UserError("an average of no weights: give at least one source")
    if weights is None:
        return [1 / len(states)] * len(states)
    if len(weights) != len(states):
        raise UserError(f"{len(weights)} weights for {len(states)} sources: give one each")
    total = math.fsum(weights)
    if not all(map(math.isfinite, weights)) or abs(total - 1) > 1e-9:
        raise UserError(f"weights {', '.join(f'{w:g}' for w in weights)} have the sum {total:g}: expected 1")
    return weights


def _refuse_other_keys(first: Weights, other: Weights, first_name: str, name: str) -> None:
    missing, unknown = sorted(first.keys() - other.keys()), sorted(other.keys() - first.keys())
    if missing or unknown:
        found = [f"{name} lacks {_some(missing)}"] if missing else []
        found += [f"{first_name} lacks {_some(unknown)}"] if unknown else []
        raise UserError(f"{first_name} and {name} are of different architectures: {'; '.join(found)}")
    for key, tensor in first.items():
        for what, here, there in (
            ("shape", list(tensor.shape), list(other[key].shape)),
            ("type", tensor.dtype, other[key].dtype),
        ):
            if here != there:
                raise UserError(
                    f"{first_name} and {name} differ in the {what} of {key}: {here} and {there}; "
                    "expected the same architecture, picture size and context length, in one precision"
                )


def _mean(key: str, tensors: Sequence[Tensor], shares: Sequence[float], names: Sequence[str]) -> Tensor:
    first = tensors[0].detach()
    if all(torch.equal(first, other) for other in tensors[1:]):
        return first.clone(memory_format=torch.contiguous_format)
    if key.rpartition(".")[2] in COUNTERS:
        return torch.stack([tensor.detach() for tensor in tensors]).amax(0)
    if not first.is_floating_point():
        others = [name for tensor, name in zip(tensors, names, strict=True) if not torch.equal(first, tensor)]
        raise UserError(
            f"{names[0]} and {others[0]} hold other integers in {key} ({first.dtype}), of which there is no mean: "
            "they are of different architectures"
        )
    total = torch.zeros(first.shape, dtype=torch.float64, device=first.device)
    for tensor, share, name in zip(tensors, shares, names, strict=True):
        if not bool(tensor.isfinite().all()):
            raise UserError(f"{name} is not finite in {key}: take an earlier checkpoint")
        total.add_(tensor.detach().to(torch.float64), alpha=share)
    return total.to(first.dtype)


def _some(keys: Iterable[str]) -> str:
    first, *rest = keys
    return f"{first} and {len(rest)} more" if rest else first
