"""Rules over what self-supervised objectives report: their features, prototypes, teachers, queues and gradients.

Names are those behind the last `/`: of several objectives each is watched, and the worst one speaks.
"""

import math
from collections.abc import Mapping

from mmclip_launch.run.records.alarm_rule import Figures, Rule, Verdict
from mmclip_launch.run.records.rank_drop import RankFalls

STD, STD_FINE = 0.1, 0.2
"""Spread of the directions of features; of a whole sphere 1."""
RANK, RANK_FINE = 1.5, 2.0
"""Effective rank of their directions around the origin: 1 where all are one."""
RAW_STD, RAW_STD_FINE = 0.01, 0.02
"""Deviation of the features themselves. VICReg asks for 1."""
DIMENSIONS_LOST, DIMENSIONS_FINE = 8.0, 10.0
"""Effective rank around the mean. Of 64 dimensions SimSiam keeps 3 to 7 without stop-gradient or predictor, VICReg 5.5 to 7
without covariance; healthy ones have 15 and more (tests/end_to_end/collapse_study.py)."""
SHARE_LOST = 0.125
"""Of the dimensions, where these are few: a rank of 6 of 16 is no loss."""
PROTOTYPES_USED, PROTOTYPES_USED_FINE = 0.05, 0.1
"""Perplexity of the mean assignment over the number of prototypes."""
ENTROPY_MARGIN, ENTROPY_FINE = 1e-3, 1e-2
"""Nats by which the entropy of assignments must stay below that of no assignment at all, ln K."""
COSINE, COSINE_FINE = 0.7, 0.8
"""Of a queued key with the same picture's key of now (over that of two drawings of it), and of student and teacher."""
AT_ODDS, AT_ODDS_FINE = -0.3, -0.2
"""Cosine of the gradients of two objectives."""


def ending(figures: Mapping[str, float], *endings: str) -> dict[str, float]:
    """Figures of training with such a name, whatever objective they are of; NaN is no figure."""
    return {
        name: value
        for name, value in figures.items()
        if name.startswith("train/") and name.rpartition("/")[2] in endings and not math.isnan(value)
    }


def objective_of(name: str) -> str:
    """What stands before a figure of an objective: nothing for the main one, `dino/` for one beside it."""
    figure = name.removeprefix("train/")
    return figure[: figure.rfind("/") + 1]


def features_of(figures: Mapping[str, float]) -> list[str]:
    """Names of the features whose health is logged."""
    return [
        name.removeprefix("health/").removesuffix("_raw_std")
        for name in figures
        if name.startswith("health/") and name.endswith("_raw_std")
    ]


class FeatureCollapse(Rule):
    """Different samples get nearly the same features, in direction or in all."""

    name = "feature_collapse"
    patience = 3

    def judge(self, figures: Figures) -> Verdict:
        """Bad by any sign in any features, fine by all of them in all."""
        signs, fine = [], True
        for feature in features_of(figures):
            std, rank, raw = (figures[f"health/{feature}_{n}"] for n in ("std", "effective_rank", "raw_std"))
            if std < STD:
                signs.append(f"{feature} std {std:.2f} (healthy: about 1)")
            elif rank < RANK:
                signs.append(f"{feature} effective rank {rank:.1f}")
            elif raw < RAW_STD:
                signs.append(f"{feature} deviation {raw:.1g} before normalisation")
            fine &= std > STD_FINE and rank > RANK_FINE and raw > RAW_STD_FINE
        message = (
            f"{', '.join(signs)}: collapse, different pictures get nearly the same features; look at what keeps the objective "
            "from it (negatives, predictor, centring, variance), then lower optimizer.lr or lengthen the warmup"
        )
        return Verdict(bool(signs), fine, message)


class DimensionsLost(Rule):
    """Features lie in a few dimensions of many: pictures differ, but in hardly anything."""

    name = "dimensional_collapse"
    patience = 3

    def judge(self, figures: Figures) -> Verdict:
        """Compare the rank around the mean with what the dimensions have room for."""
        signs, fine = [], True
        for feature in features_of(figures):
            if feature.rpartition("/")[2] != "projected":  # a tower's own features stand far from the origin
                continue
            rank, room = (figures[f"health/{feature}_{n}"] for n in ("effective_rank_centred", "dimensions"))
            if rank < min(DIMENSIONS_LOST, SHARE_LOST * room):
                signs.append(f"{feature} effective rank {rank:.1f} of {room:.0f}")
            fine &= rank > min(DIMENSIONS_FINE, SHARE_LOST * DIMENSIONS_FINE / DIMENSIONS_LOST * room)
        message = (
            f"{', '.join(signs)}: the features use few of their dimensions; look at the covariance term, the predictor and the "
            "stop-gradient, then at stronger augmentation"
        )
        return Verdict(bool(signs), fine, message)


class FeatureRankDrop(RankFalls):
    """The tower's features lose dimensions that they had."""

    name = "feature_rank_drop"
    before = "effective rank of the tower's features"
    after = (
        "they use fewer dimensions than before; "
        "if a probe of them falls too, lower optimizer.lr and go back to an earlier checkpoint"
    )

    def rank(self, figures: Figures) -> float:
        """Of what the tower pools."""
        return figures["health/pooled_effective_rank"]


class PrototypesUnused(Rule):
    """All samples are sorted to a few prototypes."""

    name = "prototypes_unused"
    patience = 3

    def judge(self, figures: Figures) -> Verdict:
        """By the objective that uses the smallest share."""
        used = min(ending(figures, "prototype_use").values(), default=math.nan)
        message = (
            f"{used:.1%} of the prototypes are used: nearly all pictures are taken for one kind; look at the centring "
            "(centre_momentum) or at epsilon, or take fewer prototypes"
        )
        return Verdict(used < PROTOTYPES_USED, used > PROTOTYPES_USED_FINE, message)


class NothingAssigned(Rule):
    """Targets say nothing: each sample belongs to all prototypes alike."""

    name = "uniform_assignments"
    patience = 3

    def judge(self, figures: Figures) -> Verdict:
        """Compare the entropy of the targets with ln K."""
        gaps = {
            name: math.log(self.expected.prototypes[prefix]) - value
            for name, value in ending(figures, "teacher_entropy", "assignment_entropy").items()
            if (prefix := objective_of(name)) in self.expected.prototypes
        }
        gap = min(gaps.values(), default=math.nan)
        message = (
            f"the entropy of the targets is within {max(gap, 0):.1g} of ln K: each picture belongs to all prototypes alike, "
            "and nothing is learned; lower teacher_temperature (dino) or epsilon (swav)"
        )
        return Verdict(gap < ENTROPY_MARGIN, gap > ENTROPY_FINE, message)


class TeacherApart(Rule):
    """The teacher is another model than the student."""

    name = "teacher_apart"
    patience = 5

    def judge(self, figures: Figures) -> Verdict:
        """By the cosine of what the two make of the same pictures."""
        cosine = min(ending(figures, "teacher_cosine", "teacher_similarity").values(), default=math.nan)
        message = (
            f"student and teacher agree with a cosine of {cosine:.2f} (healthy: above .9): its targets are out of date; lower "
            "the momentum or optimizer.lr"
        )
        return Verdict(cosine < COSINE, cosine > COSINE_FINE, message)


class QueueStale(Rule):
    """Keys in the queue are not what the teacher would make of their samples now."""

    name = "queue_stale"
    patience = 3

    def judge(self, figures: Figures) -> Verdict:
        """By pictures that came again while their key was queued, beside what two drawings of one picture agree in anyway."""
        found = {
            name: value / figures.get(f"train/{objective_of(name)}view_similarity", 1.0)
            for name, value in ending(figures, "queue_agreement").items()
        }
        cosine = min(found.values(), default=math.nan)
        message = (
            f"queued keys agree with new ones of the same pictures in {cosine:.2f} of what fresh ones would: it is stale; "
            "take a smaller queue_size or a larger momentum"
        )
        return Verdict(cosine < COSINE, cosine > COSINE_FINE, message)


class ObjectivesAtOdds(Rule):
    """Two objectives pull the tower opposite ways."""

    name = "objectives_at_odds"
    patience = 5

    def judge(self, figures: Figures) -> Verdict:
        """By the worst pair."""
        cosines = {n: v for n, v in figures.items() if n.startswith("train/gradient_cosine/") and not math.isnan(v)}
        worst = min(cosines, key=lambda name: cosines[name], default="")
        cosine = cosines.get(worst, math.nan)
        pair = worst.removeprefix("train/gradient_cosine/").replace("/", " and ")
        message = (
            f"the gradients of {pair} have a cosine of {cosine:.2f} in the last image block: they undo each other's work; "
            "lower the auxiliary weight, or let it start later"
        )
        return Verdict(cosine < AT_ODDS, cosine > AT_ODDS_FINE, message)


RULES: tuple[type[Rule], ...] = (
    FeatureCollapse,
    DimensionsLost,
    FeatureRankDrop,
    PrototypesUnused,
    NothingAssigned,
    TeacherApart,
    QueueStale,
    ObjectivesAtOdds,
)
