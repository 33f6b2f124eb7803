"""What training sees and what only the test sees: of the examples, and of the models."""

from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from mmclip.errors import UserError
from mmclip_eval.contrasim.settings import ContraSimConfig

LEAST_TRAINED, LEAST_TESTED = 3, 2
"""Models: with two there is one pair to learn from, and layers of a single one cannot be compared with anything."""
LEAST_MODELS = LEAST_TRAINED + LEAST_TESTED
LEAST_ROWS = 20
"""Examples on either side; debiased CKA needs as many."""


@dataclass(frozen=True)
class Rows:
    """Examples of either side."""

    train: Int[Tensor, " train_row"]
    test: Int[Tensor, " test_row"]


@dataclass(frozen=True)
class Fold:
    """Models of either side, by their number."""

    train: tuple[int, ...]
    test: tuple[int, ...]


def split_rows(count: int, settings: ContraSimConfig) -> Rows:
    """Draw the examples of the training, and those that it does not see.

    Raises:
        UserError: too few are left on a side.
    """
    used = min(count, settings.most_rows)
    tested = round(used * settings.test_share)
    if min(tested, used - tested) < LEAST_ROWS:
        raise UserError(
            f"{used} examples, {tested} of them held out: expected at least {LEAST_ROWS} on either side; give more data"
        )
    order = torch.randperm(count, generator=torch.Generator().manual_seed(settings.seed))[:used]
    return Rows(order[tested:].sort().values, order[:tested].sort().values)


def split_models(count: int, seed: int, held_out: tuple[int, ...] | None = None) -> tuple[Fold, ...]:
    """Train on some models and test on the others; where both halves are large enough, also the other way round.

    `held_out` says which are tested; then there is one fold. Training sees three models at least.

    Raises:
        UserError: there are too few models, or `held_out` leaves too few on a side.
    """
    if held_out is not None:
        wanted = tuple(dict.fromkeys(held_out))
        _refuse_few(count, count - len(wanted), len(wanted))
        return (Fold(tuple(model for model in range(count) if model not in wanted), wanted),)
    _refuse_few(count, count - LEAST_TESTED, min(count, LEAST_TESTED))
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed)).tolist()
    trained = max(LEAST_TRAINED, count // 2)
    first, second = tuple(sorted(order[:trained])), tuple(sorted(order[trained:]))
    return (Fold(first, second), Fold(second, first)) if len(second) >= LEAST_TRAINED else (Fold(first, second),)


def _refuse_few(count: int, trained: int, tested: int) -> None:
    if trained < LEAST_TRAINED or tested < LEAST_TESTED:
        raise UserError(
            f"{count} models, {max(trained, 0)} to train on and {tested} held out: expected at least {LEAST_TRAINED} and "
            f"{LEAST_TESTED}; add models, such as independent seeds of one recipe"
        )
