"""Both tasks as tables for the terminal, with the verdict or the reason why there is none."""

from collections.abc import Sequence

from rich.table import Table
from rich.text import Text

from mmclip_eval.contrasim.accuracy import Accuracy
from mmclip_eval.contrasim.matching import PairMatching, Share
from mmclip_eval.contrasim.prediction import LayerPrediction

LAYER_COLUMNS = ("measure", "case", "accuracy", "95 % interval", "n")
PAIR_COLUMNS = ("measure", "trained on", "random sets", "nearest sets")


def layer_rows(found: LayerPrediction) -> list[tuple[str, ...]]:
    """A row a measure and case, in percent."""
    return [
        (row.measure, row.case, *_cells(row.accuracy), str(row.accuracy.questions))
        for row in (*found.learned, *found.closed_form)
    ]


def pair_rows(found: PairMatching) -> list[tuple[str, ...]]:
    """The same of sets, each figure with its 95 % interval."""
    return [
        (row.measure, row.case, *(" (".join(_cells(sets)) + ")" for sets in (row.random, row.nearest)))
        for row in found.rows
    ]


def layer_table(found: LayerPrediction) -> Table:
    """Of layer prediction."""
    title = f"layer prediction, chance {found.chance:.1%}: {found.train_rows:,} examples trained, {found.test_rows:,} tested"
    return _table(title, LAYER_COLUMNS, layer_rows(found))


def pair_table(found: PairMatching) -> Table:
    """Of the matching of sets."""
    pairs = f"{found.train_pairs:,} pairs trained, {found.test_pairs:,} tested"
    title = f"sets of {found.set_size}, chance {found.chance:.1%}: {pairs}"
    return _table(title, PAIR_COLUMNS, pair_rows(found))


def selectivity_line(found: LayerPrediction | PairMatching) -> str:
    """How far true correspondences lie above invented ones, and what follows."""
    return f"selectivity {100 * found.selectivity:.1f} points; {found.verdict}"


def _table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    table = Table(title=title)
    for number, column in enumerate(columns):
        table.add_column(column, justify="left" if number < 2 else "right", overflow="fold")
    for row in rows:
        table.add_row(*map(Text, row))
    return table


def _cells(figure: Accuracy | Share) -> tuple[str, str]:
    low, high = figure.interval
    return f"{100 * figure.value:.1f}", f"{100 * low:.0f} to {100 * high:.0f}"
