"""`Comparison`: all that was found out about two models, and the verdict."""

from dataclasses import dataclass

from mmclip_eval.compare.behaviour.behaviour import Behaviour
from mmclip_eval.compare.behaviour.seen import Seen
from mmclip_eval.compare.maps import TwinMaps
from mmclip_eval.compare.readings import Reading
from mmclip_eval.compare.representation.panel import Panel
from mmclip_eval.compare.verdict import Verdict
from mmclip_eval.contrasim.prediction import LayerPrediction
from mmclip_eval.sparse.comparison import UnitComparison


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
    panels: tuple[Panel, ...]
    """Of the image tower, then of the text tower."""
    notes: tuple[str, ...] = ()
    """What a reader should know: few samples, layers that say nothing."""
    maps: TwinMaps | None = None
    """Of the first set's pictures; None where there are too few, or one model has collapsed."""
    units: UnitComparison | None = None
    """Of sparse autoencoders over the first set's picture embeddings, where they were asked for."""
    contrasim: LayerPrediction | None = None
    """The learned similarity, where it was asked for: commentary, which no verdict hangs on."""
