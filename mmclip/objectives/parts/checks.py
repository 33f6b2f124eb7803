"""Refusals that several objectives share."""

from mmclip.batch import PairLabels, TowerOutput
from mmclip.errors import UserError
from mmclip.objectives.base import ObjectiveContext


def check_temperature(temperature: float) -> None:
    """Refuse what cosines cannot be divided by.

    Raises:
        UserError: it is not above 0.
    """
    if not temperature > 0:
        raise UserError(f"objective.temperature={temperature}: expected a number above 0, such as 0.1")


def check_share(name: str, share: float) -> None:
    """Refuse what is no part of a whole.

    Raises:
        UserError: it is not from 0 to 1.
    """
    if not 0 <= share <= 1:
        raise UserError(f"objective.{name}={share}: expected a share from 0 to 1")


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
