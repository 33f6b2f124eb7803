"""Multinomial logistic regression on embeddings, its regularisation chosen on held-out samples (CLIP, appendix A.3)."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from threadpoolctl import threadpool_limits
from torch import Tensor

from mmclip_eval.metrics.classification import top_k_accuracy, true_class_rank

MAX_ITERATIONS = 1000
COARSE_EXPONENTS = (-6, -4, -2, 0, 2, 4, 6)
STEPS_PER_DECADE = 8
"""CLIP's sweep: seven strengths two decades apart, then half the distance about the best, down to 1/8 of a decade."""


@dataclass(frozen=True)
class Examples:
    """Embeddings with their classes."""

    embed: Float[Tensor, "example embed"]
    labels: Int[Tensor, " example"]

    def __post_init__(self) -> None:
        if not len(self.labels):
            raise ValueError("a probe needs at least one example")

    def at(self, indices: Int[Tensor, " chosen"]) -> "Examples":
        """Some of them."""
        return Examples(self.embed[indices], self.labels[indices])

    def and_also(self, others: "Examples") -> "Examples":
        """These, then the others."""
        return Examples(torch.cat([self.embed, others.embed]), torch.cat([self.labels, others.labels]))


@dataclass(frozen=True)
class Probe:
    """A linear classifier; a class that it never saw has the lowest score that there is."""

    weight: Float[Tensor, "class embed"]
    bias: Float[Tensor, " class"]
    seen: Int[Tensor, " seen_class"]
    converged: bool
    """Whether the solver came to its end before its limit of iterations."""

    def scores(self, embed: Float[Tensor, "sample embed"]) -> Float[Tensor, "sample class"]:
        """Logits in double precision."""
        logits = embed.double() @ self.weight.T + self.bias
        unseen = torch.ones(len(self.bias), dtype=torch.bool).index_fill_(0, self.seen, False)
        return logits.masked_fill(unseen, torch.finfo(logits.dtype).min)


def fit_probe(examples: Examples, classes: int, strength: float, threads: int = 1) -> Probe:
    """Fit with scikit-learn's L-BFGS; `strength` is the inverse of the L2 penalty, its `C`.

    Sums over several threads differ in their last digits with the number of threads; one is the same on any machine.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    seen = examples.labels.unique()
    weight = torch.zeros(classes, examples.embed.shape[1], dtype=torch.float64)
    bias = torch.zeros(classes, dtype=torch.float64)
    if len(seen) == 1:  # nothing to tell apart, which scikit-learn refuses
        return Probe(weight, bias, seen, converged=True)
    solver = LogisticRegression(C=strength, max_iter=MAX_ITERATIONS)
    with threadpool_limits(threads), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        solver.fit(examples.embed.double().numpy(), examples.labels.numpy())
    rows, offsets = torch.from_numpy(solver.coef_), torch.from_numpy(solver.intercept_)
    if len(seen) == 2:  # scikit-learn keeps one row, for the second class against the first
        rows, offsets = torch.cat([-rows, rows]) / 2, torch.cat([-offsets, offsets]) / 2
    weight[seen], bias[seen] = rows, offsets
    return Probe(weight, bias, seen, not any(issubclass(one.category, ConvergenceWarning) for one in caught))


@dataclass(frozen=True)
class Tried:
    """How one strength did on the held-out samples."""

    strength: float
    accuracy: float
    loss: float


def choose_strength(fit: Examples, held_out: Examples, classes: int, threads: int = 1) -> tuple[float, list[Tried]]:
    """The strength of the highest accuracy on `held_out`, of equals the one of the lowest loss; and all that were tried."""
    tried: dict[int, Tried] = {}

    def best_of(steps: Sequence[int]) -> int:
        for step in steps:
            if step not in tried:
                tried[step] = _try(fit, held_out, classes, 10 ** (step / STEPS_PER_DECADE), threads)
        return max(tried, key=lambda step: (tried[step].accuracy, -tried[step].loss, -step))

    ends = COARSE_EXPONENTS[0] * STEPS_PER_DECADE, COARSE_EXPONENTS[-1] * STEPS_PER_DECADE
    best = best_of([exponent * STEPS_PER_DECADE for exponent in COARSE_EXPONENTS])
    distance = STEPS_PER_DECADE
    while distance:
        best = best_of([max(best - distance, ends[0]), min(best + distance, ends[1])])
        distance //= 2
    return tried[best].strength, [tried[step] for step in sorted(tried)]


def _try(fit: Examples, held_out: Examples, classes: int, strength: float, threads: int) -> Tried:
    scores = fit_probe(fit, classes, strength, threads).scores(held_out.embed)
    loss = float(F.cross_entropy(scores, held_out.labels))
    return Tried(strength, top_k_accuracy(true_class_rank(scores, held_out.labels), 1), loss)
