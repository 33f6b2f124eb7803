"""The learned similarity on the page: its cases and controls beside measures that learn nothing."""

from dataclasses import dataclass

from mmclip_eval.contrasim.prediction import LayerPrediction
from mmclip_eval.report.words import percent


@dataclass(frozen=True)
class ContraSimTable:
    """What `compare.html.j2` shows of it."""

    words: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def contrasim_table(found: LayerPrediction) -> ContraSimTable:
    """A row a case."""
    low, high = found.selectivity_interval
    verdict = f"{found.verdict[0].upper()}{found.verdict[1:]}"
    points = f"{100 * found.selectivity:.1f} points ({100 * low:.1f} to {100 * high:.1f})"
    words = (
        f"Does it find the same layer of another model? {verdict}. Selectivity, which is the accuracy on true "
        f"correspondences less that on invented ones: {points}; guessing finds {percent(found.chance)}."
    )
    rows = [
        (
            row.measure,
            row.case,
            percent(row.accuracy.value),
            f"{percent(row.accuracy.interval[0])} to {percent(row.accuracy.interval[1])}",
        )
        for row in (*found.learned, *found.closed_form)
    ]
    return ContraSimTable(words, ("measure", "case", "layers found", "95 % interval"), tuple(rows))
