"""`Comparison`: all that was found out about two models, and the verdict."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from mmclip_eval.compare.behaviour.behaviour import Behaviour
from mmclip_eval.compare.behaviour.seen import Seen
from mmclip_eval.compare.readings import Reading
from mmclip_eval.compare.representation.panel import LayerPanel
from mmclip_eval.compare.verdict import Verdict


@dataclass(frozen=True)
class ComparedSet:
    """One evaluation set, as both models see it."""

    behaviour: Behaviour
    a: Seen
    b: Seen


@dataclass(frozen=True)
class Comparison:
    """Of A, the model in place, and B, which is to take its place."""

    a: str
    b: str
    against: tuple[str, ...]
    """Independent models, whose distance from A is the floor."""
    readings: tuple[Reading, ...]
    verdict: Verdict
    sets: tuple[ComparedSet, ...]
    panels: tuple[LayerPanel, ...]
    """Of the image tower, then of the text tower."""
    notes: tuple[str, ...] = ()
    """What a reader should know: few samples, layers that say nothing."""
    extras: Mapping[str, Any] = field(default_factory=dict)
    """Commentary that no verdict hangs on, by its name."""
