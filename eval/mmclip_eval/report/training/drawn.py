"""The figures of a run that have been drawn so far, so that none is drawn twice and none is forgotten."""

from collections.abc import Callable, Mapping, Sequence

from mmclip_eval.report.cards import Card
from mmclip_eval.report.figures import Line, Mark, Reference, curve
from mmclip_eval.report.training.history import History, Points

STEP = "optimizer step"


class Drawn:
    """Cards so far, and the figures that they show."""

    def __init__(self, history: History, marks: Sequence[Mark], draw: Callable[..., str] = curve) -> None:
        self.history, self.marks, self.draw = history, marks, draw
        self.cards: list[Card] = []
        self.known: set[str] = set()

    def one(
        self,
        name: str,
        title: str,
        caption: str,
        reference: Sequence[Reference] = (),
        log: bool = False,
        zero: bool = False,
    ) -> None:
        """A card of one figure, if it was logged."""
        self.known.add(name)
        if name in self.history.figures:
            self.add(title, {"": self.history.figures[name]}, caption, reference, log, zero)

    def pair(self, suffix: str, title: str, caption: str) -> None:
        """A card of the figure of both towers, if either was logged."""
        self.several({tower: f"health/{tower}_{suffix}" for tower in ("image", "text")}, title, caption)

    def several(self, names: Mapping[str, str], title: str, caption: str) -> None:
        """A card of the figures of these names, each under the word before it, if any was logged."""
        self.known.update(names.values())
        lines = {word: self.history.figures[name] for word, name in names.items() if name in self.history.figures}
        if lines:
            self.add(title, lines, caption)

    def add(
        self,
        title: str,
        lines: Mapping[str, Points],
        caption: str,
        reference: Sequence[Reference] = (),
        log: bool = False,
        zero: bool = False,
    ) -> None:
        """A card of these lines, if any of them has a point."""
        series = [Line(name, *points) for name, points in lines.items() if points[0]]
        if series:
            svg = self.draw(title, series, x_label=STEP, reference=reference, marks=self.marks, log_y=log, y_zero=zero)
            self.cards.append(Card(svg, caption))
