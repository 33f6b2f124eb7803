"""Limits of the fields of an objective's configuration."""

from mmclip.errors import UserError


def at_least(least: int, **fields: int | None) -> None:
    """Refuse a field below `least`; one that is None was left out.

    Raises:
        UserError: it names the field.
    """
    for name, value in fields.items():
        if value is not None and value < least:
            raise UserError(f"objective.{name}={value}: expected at least {least}")


def positive(**fields: float) -> None:
    """Refuse what is not above 0, such as a temperature.

    Raises:
        UserError: it names the field.
    """
    for name, value in fields.items():
        if not value > 0:
            raise UserError(f"objective.{name}={value}: expected a number above 0")


def shares(**fields: float) -> None:
    """Refuse what is no share.

    Raises:
        UserError: it names the field.
    """
    for name, value in fields.items():
        if not 0 <= value <= 1:
            raise UserError(f"objective.{name}={value}: expected a share from 0 to 1")
