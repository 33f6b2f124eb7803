"""Rules over the figures that every run of pairs has: its space, its loss, its gradient, its scale and its data.

"Ours" beside a threshold means: chosen on the healthy runs of the launch configs (docs/log.md), which stay clear of it.
"""

import math
from collections import deque
from statistics import median

from mmclip_launch.run.records.alarm_rule import Expected, Figures, Rule, Verdict
from mmclip_launch.run.records.rank_drop import RankFalls

MODALITIES = ("image", "text")

STD_COLLAPSED, STD_FINE = 0.5, 0.6
"""Spread, about 1 for rows all over the sphere. Proposed with the figures themselves; ours: .69 and more once settled."""
TOP_1_NO_COLLAPSE = 0.5
"""A narrow cone that tells half of its pairs apart is no collapse: released CLIP weights on pictures of one kind. Ours."""
RANK_COLLAPSED, RANK_FINE = 1.5, 2.0
"""Uncentred effective rank: 1 where all rows are one; two captions with a cosine of .7 reach 1.8."""
UNIFORMITY_COLLAPSED, UNIFORMITY_FINE = -0.1, -0.3
"""0 where all rows are one; -3.9 on the sphere. -.1 is a spread of .16."""
CHANCE_MARGIN, CHANCE_FINE = 1e-3, 2e-2
"""How far below that of guessing a loss must be."""
CLAMP_SHARE, CLAMP_FINE = 0.999, 0.99
"""Share of the clamp at which the scale counts as clamped; rounding through its logarithm costs the last digits."""
SPIKE, SPIKE_FINE = 10.0, 3.0
"""Gradient norm over its running median. Ours: healthy runs stay below 1.3 once settled."""
SPIKE_WINDOW, SPIKE_HISTORY = 50, 10
"""Logs in that median, and the fewest that make one."""
WAITING, WAITING_FINE = 0.5, 0.3
"""Share of time spent waiting for data. Above a half, more loader processes are the cheapest speed there is."""


class Collapse(Rule):
    """Different samples get nearly the same embedding: by any of three figures, because each misses a case."""

    name = "collapse"
    patience = 3

    def judge(self, figures: Figures) -> Verdict:
        """Bad by any sign in either modality, fine by all of them in both."""
        cone = figures["train/in_batch_top_1"] > TOP_1_NO_COLLAPSE
        signs, fine = [], True
        for modality in MODALITIES:
            std, rank, uniformity = (figures[f"health/{modality}_{n}"] for n in ("std", "effective_rank", "uniformity"))
            if std < STD_COLLAPSED and not cone:
                signs.append(f"{modality} std {std:.2f} (healthy: about 1)")
            elif rank < RANK_COLLAPSED:
                signs.append(f"{modality} effective rank {rank:.1f}")
            elif uniformity > UNIFORMITY_COLLAPSED:
                signs.append(f"{modality} uniformity {uniformity:.2f} (healthy: below -1)")
            fine &= (std > STD_FINE or cone) and rank > RANK_FINE and uniformity < UNIFORMITY_FINE
        message = (
            f"{', '.join(signs)}: collapse, different samples get nearly the same embedding; "
            "look whether pictures and captions differ, then lower optimizer.lr or lengthen the warmup"
        )
        return Verdict(bool(signs), fine, message)


class RankDrop(RankFalls):
    """The space loses dimensions.

    By the smaller rank of the two modalities: with ten different captions the image rank must fall to theirs.
    """

    name = "rank_drop"
    before = "effective rank"
    after = (
        "the embeddings use fewer dimensions than before; "
        "if scores fall too, lower optimizer.lr and go back to an earlier checkpoint"
    )

    def rank(self, figures: Figures) -> float:
        """The smaller one."""
        return min(figures[f"health/{modality}_effective_rank"] for modality in MODALITIES)


class AtChance(Rule):
    """The loss is that of guessing."""

    name = "loss_at_chance"
    patience = 3

    def judge(self, figures: Figures) -> Verdict:
        """Compare the main objective's with the loss of a model that tells no sample from another."""
        loss = figures["train/main/loss" if "train/main/loss" in figures else "train/loss"]
        chance = math.nan if self.expected.chance_loss is None else self.expected.chance_loss
        message = (
            f"loss {loss:.3f} is no better than guessing ({chance:.3f}): nothing is learned; "
            "look whether what should agree (captions and pictures, views of one picture) does, then try another optimizer.lr"
        )
        return Verdict(loss > chance - CHANCE_MARGIN, loss < chance - CHANCE_FINE, message)


class ScaleClamped(Rule):
    """The temperature has reached its limit."""

    name = "logit_scale_clamped"
    patience = 10
    waits_to_settle = False

    def __init__(self, expected: Expected) -> None:
        super().__init__(expected)
        # Weights that come from a finished training may start there, and that is no news.
        self.raised = True

    def judge(self, figures: Figures) -> Verdict:
        """Compare with the clamp of the configuration."""
        scale, clamp = figures["train/logit_scale"], self.expected.max_logit_scale
        message = (
            f"logit scale at its clamp of {clamp:g} for {self.patience} logs: the model may not grow more certain; "
            "normal late in a long run, else look for duplicates or lower optimizer.lr"
        )
        return Verdict(scale >= CLAMP_SHARE * clamp, scale < CLAMP_FINE * clamp, message)


class GradientSpike(Rule):
    """One gradient stands far above the recent ones."""

    name = "gradient_spike"

    def __init__(self, expected: Expected) -> None:
        super().__init__(expected)
        self.recent: deque[float] = deque(maxlen=SPIKE_WINDOW)

    def judge(self, figures: Figures) -> Verdict:
        """Compare with the running median, which the spike itself then joins."""
        norm = figures["train/grad_norm"]
        usual = median(self.recent) if len(self.recent) >= SPIKE_HISTORY else math.nan
        if math.isfinite(norm):
            self.recent.append(norm)
        limit = self.expected.max_grad_norm
        clipped = "it was not clipped, set optimizer.max_grad_norm" if limit is None else f"it was clipped to {limit:g}"
        message = (
            f"gradient norm {norm:.3g}, {norm / usual:.0f} times the usual {usual:.3g}: {clipped}; "
            "if this comes again, lower optimizer.lr or optimizer.beta2"
        )
        return Verdict(norm > SPIKE * usual, norm < SPIKE_FINE * usual, message)


class Starving(Rule):
    """Training waits for data."""

    name = "data_starvation"
    patience = 5
    waits_to_settle = False

    def judge(self, figures: Figures) -> Verdict:
        """Judge the share of time that went into waiting."""
        share = figures["train/data_wait_fraction"]
        message = (
            f"{share:.0%} of the time goes into waiting for data: raise data.workers (now {self.expected.workers}), "
            "or read from a faster disk"
        )
        return Verdict(share > WAITING, share < WAITING_FINE, message)


RULES: tuple[type[Rule], ...] = (Collapse, RankDrop, AtChance, ScaleClamped, GradientSpike, Starving)
