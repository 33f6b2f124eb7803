"""The curves of objectives over views: what they report of themselves, and the health of their features."""

import math
from collections.abc import Sequence

from mmclip_eval.report.cards import Card
from mmclip_eval.report.figures import Mark, Reference
from mmclip_eval.report.training.drawn import Drawn
from mmclip_eval.report.training.history import History, Points

KINDS = (
    (("loss",), "Losses of the objectives", "Each for itself, before its weight."),
    (
        ("prototype_use",),
        "Prototypes in use",
        "Perplexity of the mean assignment over their number: near 0 all pictures are one.",
    ),
    (
        ("teacher_entropy", "assignment_entropy"),
        "Entropy of the targets",
        "0: each picture has one prototype; ln K: it has all.",
    ),
    (
        ("teacher_divergence",),
        "Divergence from the teacher",
        "What is left of the loss beyond the entropy of its targets.",
    ),
    (("centre_norm",), "Length of the centre", "What the teacher's scores have in common, which is taken off them."),
    (
        ("teacher_cosine", "teacher_similarity"),
        "Student and teacher",
        "Cosine of what the two make of one picture; below .7 the targets are out of date.",
    ),
    (
        ("prediction_cosine", "view_similarity"),
        "Agreement of views",
        "Cosine of two views of a picture: 1 alone is no success.",
    ),
    (("queue_agreement",), "Freshness of the queue", "Cosine of a queued key with a new one of the same picture."),
    (("queue_age",), "Age of the queue", "Steps since its keys were made, on average."),
    (("queue_filled",), "Queue", "Share of it that holds keys."),
)
"""Figures that belong into one drawing, whatever objective they are of; what it is called, and how to read it."""
BETWEEN = {
    "gradient_cosine": (
        "Gradients of two objectives",
        "Their cosine in the last image block: below 0 they are at odds.",
    ),
    "gradient_norm": ("Length of each gradient", "In the last image block, with the weight of the objective."),
}
FEATURES = (
    ("effective_rank", "Features: effective rank", "How many directions they use; one means that they collapsed."),
    (
        "effective_rank_centred",
        "Features: effective rank, centred",
        "The same around their mean: blind to a total collapse.",
    ),
    ("std", "Features: spread", "Of their directions: about 1 fills the sphere, 0 is a collapse."),
    ("raw_std", "Features: deviation", "A dimension's, before normalisation: at 0 they have shrunk to a point."),
    ("mean_norm", "Features: length", "Mean norm before normalisation."),
    ("uniformity", "Features: uniformity", "Near 0 all directions are one; near −4 they fill the sphere."),
)


def is_of_objective(name: str) -> bool:
    """Whether a figure of training is drawn here."""
    return _kind(name) is not None or name.removeprefix("train/").partition("/")[0] in BETWEEN


def draw_objectives(history: History, marks: Sequence[Mark]) -> list[Card]:
    """A card for each kind of figure that was logged, with a line for each objective."""
    drawn = Drawn(history, marks)
    for names, title, caption in KINDS:
        lines = {_owner(name, history): points for name, points in _logged(history, names).items()}
        if lines:
            drawn.add(title, lines, caption, reference=_none_at_all(history, names))
    for start, (title, caption) in BETWEEN.items():
        prefix = f"train/{start}/"
        found = {
            name.removeprefix(prefix).replace("/", " and "): p
            for name, p in history.figures.items()
            if name.startswith(prefix)
        }
        if found:
            drawn.add(title, found, caption)
    return drawn.cards


def draw_features(drawn: Drawn) -> None:
    """A card for each figure of features, with a line for each of these."""
    logged = [name.removeprefix("health/") for name in drawn.history.figures if name.startswith("health/")]
    features = [name.removesuffix("_raw_std") for name in logged if name.endswith("_raw_std")]
    for suffix, title, caption in FEATURES:
        drawn.several({feature: f"health/{feature}_{suffix}" for feature in features}, title, caption)
    drawn.known.update(f"health/{feature}_dimensions" for feature in features)


def _logged(history: History, names: Sequence[str]) -> dict[str, Points]:
    """NaN is no point: a queue that no picture came back to tells nothing."""
    found = {}
    for name, (steps, values) in history.figures.items():
        if _kind(name) == names:
            points = [(step, value) for step, value in zip(steps, values, strict=True) if not math.isnan(value)]
            if points:
                found[name] = tuple(zip(*points, strict=True))
    return found


def _kind(name: str) -> tuple[str, ...] | None:
    figure = name.removeprefix("train/")
    if figure == "loss" or figure == name:
        return None
    return next((names for names, *_ in KINDS if figure.rpartition("/")[2] in names), None)


def _owner(name: str, history: History) -> str:
    owner = name.removeprefix("train/").rpartition("/")[0]
    return owner if owner not in ("", "main") else history.config.get("objective", {}).get("type", "clip")


def _none_at_all(history: History, names: Sequence[str]) -> list[Reference]:
    """The entropy of targets that say nothing, where one objective has prototypes."""
    if "teacher_entropy" not in names:
        return []
    objectives = [
        history.config.get("objective", {}),
        *(a.get("objective", {}) for a in history.config.get("auxiliary", ())),
    ]
    numbers = {o["prototypes"] for o in objectives if "prototypes" in o}
    return [Reference(math.log(number), "ln K: nothing is assigned") for number in sorted(numbers)]
