"""Results as a table for the terminal, each figure beside its interval and what guessing would score."""

from collections.abc import Iterable

from rich.table import Table
from rich.text import Text

from mmclip_eval.metrics.estimate import Estimate
from mmclip_eval.results.names import task_words
from mmclip_eval.results.result import EvalResult

COLUMNS = ("data set and metric", "value", "95 % interval", "chance", "n")


def results_table(results: Iterable[EvalResult]) -> Table:
    """A heading for each result and one row a metric, 80 columns wide; a figure whose interval reaches chance is dimmed."""
    table = Table(title="evaluation")
    for number, column in enumerate(COLUMNS):
        table.add_column(column, justify="left" if number == 0 else "right", no_wrap=number > 0, overflow="fold")
    for result in results:
        # Text, not str: rich would read a data set's "[name]" as markup.
        heading = Text(f"{result.dataset}, {task_words(result.task)}", style="bold")
        table.add_row(heading, "", "", "", f"{result.num_samples:,}")
        for name, estimate in result.metrics.items():
            table.add_row(*map(Text, _cells(name, estimate)), style=_style(estimate))
        table.add_section()
    return table


def notes_of(results: Iterable[EvalResult]) -> list[str]:
    """The results' notes, once each, to print under the table."""
    return list(dict.fromkeys(f"{result.dataset}: {note}" for result in results for note in result.notes))


def _cells(name: str, estimate: Estimate) -> tuple[str, ...]:
    low, high = estimate.interval
    chance = "" if estimate.chance is None else f"{estimate.chance:.4f}"
    return f"  {name}", f"{estimate.value:.4f}", f"{low:.4f} to {high:.4f}", chance, ""


def _style(estimate: Estimate) -> str:
    return "" if estimate.beats_chance else "dim"
