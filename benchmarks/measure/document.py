"""The end of a benchmark: a table on the terminal, `benchmarks/results/NAME.json` and its tables in `benchmarks/RESULTS.md`."""

import json
import math
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

import mmclip
from measure import results_page
from measure.ratios import Row
from measure.results_page import RESULTS

OUR_PACKAGES = ("torch", "numpy", "pillow")
PIPED = 150
"""Columns of what goes to a file, where a table of many columns would be broken at 80."""
KEYS = {"machine", "versions", "date", "settings", "rows"}
FIGURE_KEYS = {"case", "metric", "value"}
INTERVAL_KEYS = {"low", "high"}


def finish(
    name: str,
    rows: Sequence[Row],
    peer_versions: Mapping[str, str],
    settings: Mapping[str, Any],
    output: Path | None,
    *,
    figures: Sequence[Mapping[str, Any]] = (),
) -> Path:
    """Print the rows and write the file; `settings` says what was equal on both sides and how long it ran.

    `figures` are those that have no other side: `case`, `metric` and `value`, and `low` and `high` where a 95 % interval is
    known; such a one may be a difference, and below 0. With `settings["wide"]` they stand in a line a case.
    """
    document = {
        "machine": machine(),
        "versions": {**our_versions(), **peer_versions},
        "date": datetime.now(UTC).date().isoformat(),
        "settings": dict(settings),
        "rows": [asdict(row) for row in rows],
        **({"figures": [dict(figure) for figure in figures]} if figures else {}),
    }
    check(document)
    path = output or RESULTS / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document, indent=2, allow_nan=False) + "\n")
    for table in ([table_of(name, rows)] if rows else []) + (
        [wide_table(name, figures)] if settings.get("wide") else []
    ):
        Console().print(table)
    print(f"written: {path}")
    if output is None:
        results_page.main()
    return path


def our_versions() -> dict[str, str]:
    """What a reader needs to repeat our side; mmclip may run from a checkout without being installed."""
    packages = {package: version(package) for package in OUR_PACKAGES}
    return {"python": platform.python_version(), "mmclip": mmclip.__version__, **packages}


def table_of(name: str, rows: Sequence[Row]) -> Table:
    """A line a row; the ratio stands with its lowest and highest pair."""
    table = Table(title=f"{name}: a ratio above 1 means that mmclip is better")
    for column in ("case", "metric"):
        table.add_column(column, overflow="fold")
    for column in ("mmclip", "peer", "ratio", "lowest to highest"):
        table.add_column(column, justify="right", no_wrap=True)
    for row in rows:
        spread = f"{row.ratio_low:.2f} to {row.ratio_high:.2f}"
        table.add_row(row.case, row.metric, f"{row.ours:.4g}", f"{row.peer:.4g}", f"{row.ratio:.2f}", spread)
    table.caption = f"peer: {', '.join(dict.fromkeys(row.peer_name for row in rows))}"
    return table


def wide_table(name: str, figures: Sequence[Mapping[str, Any]]) -> Table:
    """A line a case, a column a metric."""
    head, lines = results_page.wide(figures)
    table = Table(title=name)
    for column in head:
        table.add_column(column, justify="left" if column == "case" else "right", overflow="fold")
    for line in lines:
        table.add_row(*line)
    return table


def machine() -> dict[str, str | int | float]:
    """What the figures depend on and a reader cannot know."""
    cpu = next((line.split(":", 1)[1].strip() for line in _lines("/proc/cpuinfo") if "model name" in line), "unknown")
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    cores = len(os.sched_getaffinity(0))
    return {"cpu": cpu, "cores": cores, "memory_gib": round(memory, 1), "system": platform.platform(terse=True)}


def check(document: Mapping[str, Any]) -> None:
    """Hold a document to the form that readers of `benchmarks/results` rely on.

    Raises:
        ValueError: a key is missing or unknown, a figure is not positive, or a ratio or a value lies outside its own spread.
    """
    if set(document) - {"figures"} != KEYS:
        raise ValueError(f"keys {sorted(document)}: expected {sorted(KEYS)}, and figures where there are some")
    if not document["rows"] and not document.get("figures"):
        raise ValueError("no rows and no figures")
    datetime.strptime(document["date"], "%Y-%m-%d")
    for row in document["rows"]:
        if set(row) != {field.name for field in fields(Row)}:
            raise ValueError(f"row {row}: expected the keys {[field.name for field in fields(Row)]}")
        figures = [row[key] for key in ("ours", "peer", "ratio", "ratio_low", "ratio_high")]
        if not all(map(_is_positive, figures)):
            raise ValueError(f"row {row}: expected positive figures")
        if not row["ratio_low"] <= row["ratio"] <= row["ratio_high"]:
            raise ValueError(f"row {row}: the ratio lies outside its spread")
    for figure in document.get("figures", ()):
        _check_figure(figure)


def _check_figure(figure: Mapping[str, Any]) -> None:
    if set(figure) == FIGURE_KEYS | INTERVAL_KEYS:
        low, value, high = (figure[key] for key in ("low", "value", "high"))
        if not (all(map(_is_finite, (low, value, high))) and low <= value <= high):
            raise ValueError(f"figure {figure}: expected a value inside its interval")
    elif set(figure) != FIGURE_KEYS or not _is_positive(figure["value"]):
        keys = f"{sorted(FIGURE_KEYS)} (with {sorted(INTERVAL_KEYS)} where there is an interval)"
        raise ValueError(f"figure {figure}: expected {keys}, and a positive value")


def _is_positive(value: object) -> bool:
    return _is_finite(value) and isinstance(value, int | float) and value > 0


def _is_finite(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _lines(path: str) -> list[str]:
    return Path(path).read_text().splitlines() if Path(path).is_file() else []
