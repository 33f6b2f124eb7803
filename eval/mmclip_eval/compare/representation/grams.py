"""Products of rows with rows, of two models: what measures of neighbourhoods and of distances are taken from."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from mmclip_eval.compare.representation.pair import Features, check_rows

Gram = Float[np.ndarray, "row row"]


@dataclass(frozen=True)
class Grams:
    """XX^T and YY^T of the same rows, in fp64, not centred."""

    x: Gram
    y: Gram

    @classmethod
    def of(cls, x: Features, y: Features) -> "Grams":
        """Of features.

        Raises:
            UserError: other rows, fewer than 20, or a value that is not finite.
        """
        check_rows(x, y)
        first, second = x.astype(np.float64), y.astype(np.float64)
        return cls(first @ first.T, second @ second.T)

    def without(self, groups: Sequence[Int[np.ndarray, " _"]]) -> Iterator["Grams"]:
        """For each group of rows those of the others."""
        for group in groups:
            keep = np.setdiff1d(np.arange(len(self.x)), group)
            yield Grams(self.x[np.ix_(keep, keep)], self.y[np.ix_(keep, keep)])


def cosines(gram: Gram) -> Gram:
    """Cosine similarities of rows; a row of zeros is like no other."""
    length = np.sqrt(np.clip(np.diagonal(gram), 0, None))
    scale = np.divide(1, length, out=np.zeros_like(length), where=length > 0)
    return gram * scale[:, None] * scale


def centred(gram: Gram) -> Gram:
    """That of the rows less their mean."""
    means = gram.mean(axis=0)
    return gram - means - means[:, None] + means.mean()
