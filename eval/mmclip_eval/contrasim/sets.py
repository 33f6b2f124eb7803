"""Sets to choose among: the rows that belong to those of a set, and sets that do not."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from mmclip.errors import UserError

ROUNDS = 10
"""Times that the rows are dealt into sets anew: which rows meet in a set is chance."""


@dataclass(frozen=True)
class Questions:
    """Which of the candidates belongs to a set of rows; it is always candidate 0."""

    asked: Int[Tensor, "question member"]
    """Rows of the left side."""
    candidates: Int[Tensor, "question candidate member"]
    """Rows of the right side."""
    disjoint: int
    """Questions that have no row in common: more are not independent."""


def random_questions(rows: int, set_size: int, wrong: int, seed: int) -> Questions:
    """Sets of other rows, drawn at random.

    Raises:
        UserError: there are too few rows.
    """
    asked, generator = _dealt(rows, set_size, seed)
    candidates = []
    for own in asked:
        others = torch.ones(rows, dtype=torch.bool)
        others[own] = False
        left = others.nonzero()[:, 0]
        drawn = [left[torch.randperm(len(left), generator=generator)[:set_size]] for _ in range(wrong)]
        candidates.append(torch.stack([own, *drawn]))
    return Questions(asked, torch.stack(candidates), rows // set_size)


def nearest_questions(right: Float[Tensor, "row width"], set_size: int, wrong: int, seed: int) -> Questions:
    """Sets in which each row is replaced by its k-th nearest of the right side, by cosine: one set for each k.

    Raises:
        UserError: there are too few rows.
    """
    asked, _ = _dealt(len(right), set_size, seed)
    unit = F.normalize(right, dim=1)
    cosine = (unit @ unit.T).fill_diagonal_(-torch.inf)
    neighbours = cosine.topk(wrong, dim=1).indices.cpu()  # [row, k]
    wrong_sets = neighbours[asked].movedim(2, 1)
    return Questions(asked, torch.cat([asked[:, None], wrong_sets], dim=1), len(right) // set_size)


def _dealt(rows: int, set_size: int, seed: int) -> tuple[Int[Tensor, "question member"], torch.Generator]:
    if rows < 2 * set_size:
        raise UserError(
            f"{rows} pairs are held out: expected at least two sets of {set_size}; give more data, or a smaller --set-size"
        )
    generator = torch.Generator().manual_seed(seed)
    used = rows // set_size * set_size
    rounds = [torch.randperm(rows, generator=generator)[:used].view(-1, set_size) for _ in range(ROUNDS)]
    return torch.cat(rounds), generator
