"""Results as a table for the terminal, each figure beside its interval and what guessing would score."""

from collections.abc import Iterable

from rich.table import Table
from rich.text import Text

from mmclip_eval.metrics.estimate import Estimate
from mmclip_eval.result import EvalResult

COLUMNS = ("data set", "task", "metric", "value", "95 % interval", "chance", "n")


def results_table(results: Iterable[EvalResult]) -> Table:
    """One row a metric; a figure whose interval reaches chance is dimmed."""
    table = Table(title="evaluation")
    for number, column in enumerate(COLUMNS):
        table.add_column(column, justify="left" if number < 3 else "right", no_wrap=number >= 2)
    for result in results:
        for number, (name, estimate) in enumerate(result.metrics.items()):
            heads = (result.dataset, result.task) if number == 0 else ("", "")
            # Text, not str: rich would read a data set's "[name]" as markup.
            table.add_row(*map(Text, (*heads, *_cells(name, estimate, result.num_samples))), style=_style(estimate))
        table.add_section()
    return table


def notes_of(results: Iterable[EvalResult]) -> list[str]:
    """The results' notes, once each, to print under the table."""
    return list(dict.fromkeys(f"{result.dataset}: {note}" for result in results for note in result.notes))


def _cells(name: str, estimate: Estimate, samples: int) -> tuple[str, ...]:
    low, high = estimate.interval
    return name, f"{estimate.value:.4f}", f"{low:.4f} to {high:.4f}", f"{estimate.chance:.4f}", f"{samples:,}"


def _style(estimate: Estimate) -> str:
    return "dim" if estimate.interval[0] <= estimate.chance else ""
