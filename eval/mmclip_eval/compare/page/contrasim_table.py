"""The learned similarity on the page: its cases and controls beside measures that learn nothing."""

from dataclasses import dataclass

from mmclip_eval.contrasim.prediction import LayerPrediction
from mmclip_eval.contrasim.table import LAYER_COLUMNS, layer_rows, selectivity_line


@dataclass(frozen=True)
class ContraSimTable:
    """What `compare.html.j2` shows of it."""

    words: str
    columns: tuple[str, ...]
    rows: list[tuple[str, ...]]


def contrasim_table(found: LayerPrediction) -> ContraSimTable:
    """A row a case, in percent, as the terminal has it."""
    low, high = found.selectivity_interval
    line = selectivity_line(found)
    words = (
        f"Does it find the same layer of another model? {line[0].upper()}{line[1:]}. Selectivity is the accuracy on true "
        f"correspondences less that on invented ones, here with an interval of {100 * low:.1f} to {100 * high:.1f} points."
    )
    return ContraSimTable(words, LAYER_COLUMNS, layer_rows(found))
