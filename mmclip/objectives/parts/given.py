"""What a context must hold for an objective that declares that it needs it."""

from mmclip.batch import PairLabels, TowerOutput
from mmclip.errors import UserError
from mmclip.objectives.base import ObjectiveContext


def needed_labels(context: ObjectiveContext) -> PairLabels:
    """The ids of captions and pictures.

    Raises:
        UserError: the context has none.
    """
    if context.labels is None:
        raise UserError(
            "the objective needs the ids of captions and pictures: "
            "expected ObjectiveContext(labels=PairLabels(...)), got none"
        )
    return context.labels


def needed_momentum(context: ObjectiveContext) -> TowerOutput:
    """What the momentum towers make of the batch.

    Raises:
        UserError: the context has none.
    """
    if context.momentum is None:
        raise UserError(
            "the objective needs a momentum teacher: expected ObjectiveContext(momentum=TowerOutput(...)), got none"
        )
    return context.momentum
