"""Class names that are given for a set that has names of its own, such as folders: which is which."""

from collections.abc import Sequence

from mmclip.errors import UserError
from mmclip_eval.text_lines import Lines


def classes_of_own(
    labels: Sequence[int | str], own: Lines, classes: Sequence[Sequence[str]], source: str, where: str
) -> tuple[list[int | str], list[str]]:
    """Labels that count by the set's own names, counted by `classes` instead; and what is to be noted of that.

    Where all own names are among those of `classes` (of which each may have several), a class keeps its name, whatever its
    place. Where they are as many and no name stands at two places, they are the same classes in other words (`n01440764`
    and `tench`), one by one.

    Raises:
        UserError: it cannot be told which is which.
    """
    own_names, place = own.lines, {name: index for index, names in enumerate(classes) for name in names}
    if all(name in place for name in own_names):
        moves = [place[name] for name in own_names]
        return [moves[label] if isinstance(label, int) and label < len(moves) else label for label in labels], []
    moved = [name for index, name in enumerate(own_names) if place.get(name, index) != index]
    if len(classes) != len(own_names) or moved:
        missing = next(name for name in own_names if name not in place)
        why = f"{moved[0]!r} stands at another place" if moved else f"they are {len(classes)}, its own {len(own_names)}"
        raise UserError(
            f"{where}: the class names from {source} cannot be matched with those of {own.source}: {missing!r} is not "
            f"among them, and {why}: give the set's own names, or one new name for each of them in the same order "
            f"({', '.join(own_names[:5])}{', ...' if len(own_names) > 5 else ''})"
        )
    return list(labels), [f"classes of {own.source} are called by {source}, in the same order"]
