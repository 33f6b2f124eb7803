"""The rule over an effective rank that falls: of embeddings, and of the features of a tower."""

import math
from collections import deque
from statistics import median

from mmclip_launch.run.records.alarm_rule import Expected, Figures, Rule, Verdict

RANK_KEPT, RANK_KEPT_FINE = 0.7, 0.8
"""Share of its maximum that the effective rank must keep: the alarm at a loss of 30 % was proposed with RankMe."""
RANK_WINDOW = 5
"""Logs whose median stands for the rank: one batch of 128 alone varies by a tenth. Ours."""


class RankFalls(Rule):
    """A space loses dimensions that it had."""

    before, after = "", ""
    """What stands around the figures in the message."""

    def __init__(self, expected: Expected) -> None:
        super().__init__(expected)
        self.recent: deque[float] = deque(maxlen=RANK_WINDOW)
        self.highest = 0.0

    def rank(self, figures: Figures) -> float:
        """Of the space that is watched."""
        raise NotImplementedError

    def judge(self, figures: Figures) -> Verdict:
        """Compare the median of the recent logs with its own maximum."""
        rank = self.rank(figures)
        if math.isfinite(rank):
            self.recent.append(rank)
        if len(self.recent) < RANK_WINDOW:
            return Verdict(bad=False, fine=False)
        now = median(self.recent)
        self.highest = max(self.highest, now)
        message = f"{self.before} {now:.1f}, down from {self.highest:.1f}: {self.after}"
        return Verdict(now < RANK_KEPT * self.highest, now > RANK_KEPT_FINE * self.highest, message)
