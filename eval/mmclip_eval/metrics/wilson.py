"""Wilson's interval of a share: where samples are few, resampling them would call one hit of one certain."""

from math import sqrt
from statistics import NormalDist

from mmclip_eval.metrics.bootstrap import LEVEL, Interval

DEVIATIONS = NormalDist().inv_cdf((1 + LEVEL) / 2)


def wilson_interval(hits: int, trials: int) -> Interval:
    """95 % interval of the share hits / trials (Wilson, 1927).

    Raises:
        ValueError: there is no trial, or there are more hits than trials.
    """
    if not 0 <= hits <= trials or not trials:
        raise ValueError(f"{hits} hits of {trials}: expected at least one trial, and at most as many hits")
    share, weight = hits / trials, DEVIATIONS**2 / trials
    middle = (share + weight / 2) / (1 + weight)
    half = sqrt(weight * (share * (1 - share) + weight / 4)) / (1 + weight)
    # The share lies inside; by rounding 60 of 60 would end two units below 1.
    return min(share, max(0.0, middle - half)), max(share, min(1.0, middle + half))
