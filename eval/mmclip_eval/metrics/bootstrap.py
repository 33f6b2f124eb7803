"""Percentile bootstrap over the samples of one data set: how far a figure moves with the draw of its samples.

Most figures are a ratio of two sums over samples. Resampling n samples with replacement depends on them only through how
many fall in each distinct kind (numerator, denominator), so the counts of the kinds are drawn from a multinomial: the
same distribution, without n draws per replicate. Any other figure is a function of how often each sample was drawn.
"""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray
from torch import Tensor

REPLICATES = 2000
LEVEL = 0.95
SEED = 0
_BLOCK = 1 << 22  # drawn counts held at a time

Interval = tuple[float, float]
Counts = NDArray[np.int32]
"""[replicate, sample]: how often a sample was drawn."""
Statistic = Callable[[Counts], NDArray[np.float64]]
"""The figure of each replicate; nan where the replicate has none, such as a ranking without a positive."""


def ratio_interval(hits: Int[Tensor, " sample"], trials: Int[Tensor, " sample"]) -> Interval:
    """95 % interval of sum(hits) / sum(trials), where the trials of one sample are drawn together.

    Five captions of one picture are not five independent observations: the picture is the sample.
    """
    return _interval(hits.double(), trials.double())


def accuracy_interval(correct: Bool[Tensor, " sample"]) -> Interval:
    """95 % interval of the fraction of `correct` samples."""
    hits = correct.double()
    return _interval(hits, torch.ones_like(hits))


def mean_per_class_recall_interval(correct: Bool[Tensor, " sample"], labels: Int[Tensor, " sample"]) -> Interval:
    """95 % interval of the mean per-class recall, each sample weighted by one over the size of its class.

    The weights stay those of the whole set. Recomputing each replicate's recall would forget how often a sample of a
    small class was drawn: over simulated sets such intervals held the true recall 90 to 93 % of the time, these 95 %.
    """
    weight = 1 / torch.bincount(labels)[labels].double()
    return _interval(correct.double() * weight, weight)


def median_interval(values: Int[Tensor, " value"], owner: Int[Tensor, " value"]) -> Interval:
    """95 % interval of the median of values of which several may belong to one sample, and are then drawn together."""
    order = values.argsort(stable=True)
    ranked, owners = values[order].numpy(), owner[order].numpy()

    def median(counts: Counts) -> NDArray[np.float64]:
        ends = counts[:, owners].cumsum(axis=1)
        total = ends[:, -1:]
        # The values at the two middle places of what was drawn, which are the same place where the number is odd.
        low, high = ((ends > place).argmax(axis=1) for place in ((total - 1) // 2, total // 2))
        return (ranked[low] + ranked[high]) / 2

    return statistic_interval([int(owner.max()) + 1], median)


def difference_interval(hits: Bool[Tensor, " sample"], others: Bool[Tensor, " other"]) -> Interval:
    """95 % interval of the accuracy of `hits` minus that of `others`, each resampled by itself."""
    generator = np.random.Generator(np.random.Philox(key=SEED))
    first, second = (
        generator.binomial(len(side), float(side.double().mean()), REPLICATES) / len(side) for side in (hits, others)
    )
    return _ends(first - second)


def lowest_interval(hits: Sequence[int], sizes: Sequence[int]) -> Interval:
    """95 % interval of the lowest of several accuracies, each group resampled by itself and the lowest taken anew.

    The replicates are centred on the figure, see `statistic_interval`.
    """
    generator = np.random.Generator(np.random.Philox(key=SEED))
    rates = np.array(hits) / np.array(sizes)
    lowest = (generator.binomial(sizes, rates, (REPLICATES, len(sizes))) / np.array(sizes)).min(axis=1)
    return _ends(_centred(lowest, float(rates.min())))


def runs_interval(values: Bool[Tensor, "run sample"] | Float[Tensor, "run sample"]) -> Interval:
    """95 % interval of a mean over several runs on the same samples, such as an accuracy: both are resampled."""
    generator = np.random.Generator(np.random.Philox(key=SEED))
    runs, samples = values.shape
    drawn_runs = generator.multinomial(runs, np.full(runs, 1 / runs), size=REPLICATES) / runs
    rows = values.numpy().astype(np.float64).T
    means = [counts @ rows / samples for counts in _drawn(generator, [samples])]
    return _ends((np.concatenate(means) * drawn_runs).sum(axis=1))


def statistic_interval(strata: Sequence[int], statistic: Statistic, centre: float | None = None) -> Interval:
    """95 % interval of a figure that is no ratio of sums, such as a median or an area under a curve.

    The samples lie stratum after stratum, each of a fixed size and resampled by itself; usually there is one. A minimum
    or a sum of distances moves one way under resampling alone: `centre` shifts its replicates, in [0, 1], so that their
    median is the figure.
    """
    generator = np.random.Generator(np.random.Philox(key=SEED))
    replicates = np.concatenate([statistic(counts) for counts in _drawn(generator, strata)])
    return _ends(replicates if centre is None else _centred(replicates, centre))


def _drawn(generator: np.random.Generator, strata: Sequence[int]) -> Iterator[Counts]:
    """The counts of all replicates, block by block."""
    if not strata or not all(strata):
        raise ValueError("an interval of no samples is undefined")
    rows = max(1, _BLOCK // sum(strata))
    for start in range(0, REPLICATES, rows):
        size = min(rows, REPLICATES - start)
        yield np.concatenate([_counts(generator, size, samples) for samples in strata], axis=1)


def _counts(generator: np.random.Generator, replicates: int, samples: int) -> Counts:
    place = generator.integers(samples, size=(replicates, samples)) + samples * np.arange(replicates)[:, None]
    return np.bincount(place.ravel(), minlength=replicates * samples).reshape(replicates, samples).astype(np.int32)


def _centred(replicates: NDArray[np.float64], figure: float) -> NDArray[np.float64]:
    return np.clip(replicates + (figure - np.nanmedian(replicates)), 0, 1)


def _ends(replicates: NDArray[np.float64]) -> Interval:
    low, high = np.nanquantile(replicates, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def _interval(numerator: Tensor, denominator: Tensor) -> Interval:
    if not len(numerator):
        raise ValueError("an interval of no samples is undefined")
    kinds, counts = np.unique(torch.stack([numerator, denominator], dim=1).numpy(), axis=0, return_counts=True)
    generator = np.random.Generator(np.random.Philox(key=SEED))
    block = max(1, _BLOCK // len(kinds))
    sizes = [min(block, REPLICATES - start) for start in range(0, REPLICATES, block)]
    draws = [
        _ratios(generator.multinomial(len(numerator), counts / len(numerator), size=size), kinds) for size in sizes
    ]
    return _ends(np.concatenate(draws))


def _ratios(counts: NDArray[np.int64], kinds: NDArray[np.float64]) -> NDArray[np.float64]:
    # The sums run over the kinds in the same order, so a perfect score divides equal numbers: exactly 1.
    numerator, denominator = (counts @ kinds).T
    return np.minimum(numerator / denominator, 1)
