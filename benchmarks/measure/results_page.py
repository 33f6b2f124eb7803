"""`benchmarks/RESULTS.md`: every file of `benchmarks/results` as tables. Each benchmark writes it anew at its end; alone:

PYTHONPATH=benchmarks .venv/bin/python -m measure.results_page
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parents[1] / "results"
PAGE = RESULTS.parent / "RESULTS.md"
HEAD = """# Results

Written from `results/*.json` by the benchmarks themselves: edit nothing here. [README.md](README.md) says how to read a row: a
ratio above 1 means that mmclip is better, whichever way the metric points, and stands with its lowest and highest pair.
"""


def page(folder: Path) -> str:
    """The text, for the results of `folder`."""
    documents = {path.stem: json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))}
    return "\n".join([HEAD, *(line for name, document in documents.items() for line in section(name, document))])


def section(name: str, document: Mapping[str, Any]) -> Iterator[str]:
    """The lines of one benchmark."""
    machine = document["machine"]
    device = document["settings"].get("device", {}).get("name")
    where = [f"{machine['cores']} cores of {machine['cpu']}", f"{machine['memory_gib']:g} GiB"]
    yield f"## {name}\n"
    yield f"{document['date']} · {' · '.join([*([device] if device else []), *where])} · {machine['system']}"
    yield f"{', '.join(f'{package} {found}' for package, found in document['versions'].items())}\n"
    if document["rows"]:
        rows = [
            (row["case"], row["metric"], *_numbers(row["ours"], row["peer"]), row["peer_name"], *_ratios(row))
            for row in document["rows"]
        ]
        yield from table(("case", "metric", "mmclip", "peer", "peer's name", "ratio", "lowest to highest"), rows)
    if found := document.get("figures"):
        if document["settings"].get("wide"):
            yield from table(*wide(found))
        else:
            yield from table(("case", "metric", "value"), [(f["case"], f["metric"], figure_text(f)) for f in found])
    if absent := document["settings"].get("absent"):
        yield from table(("not measured", "because"), [(a["case"], a["reason"]) for a in absent])


def wide(figures: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """Head and lines of a table with a line a case and a column a metric; `-` where a case has no such figure."""
    metrics = list(dict.fromkeys(figure["metric"] for figure in figures))
    lines: dict[str, dict[str, str]] = {}
    for figure in figures:
        lines.setdefault(figure["case"], {})[figure["metric"]] = figure_text(figure)
    return ["case", *metrics], [[case, *(line.get(metric, "-") for metric in metrics)] for case, line in lines.items()]


def figure_text(figure: Mapping[str, Any]) -> str:
    """The value, with its interval where it has one."""
    if "low" not in figure:
        return _numbers(figure["value"])[0]
    value, low, high = (f"{figure[key]:.3g}" for key in ("value", "low", "high"))
    return f"{value} ({low} to {high})"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """A table of Markdown."""
    yield f"| {' | '.join(head)} |"
    yield f"|{'---|' * len(head)}"
    yield from (f"| {' | '.join(row)} |" for row in rows)
    yield ""


def _numbers(*values: float) -> list[str]:
    return [f"{value:.4g}" if abs(value) < 1e4 else f"{value:,.0f}" for value in values]


def _ratios(row: Mapping[str, Any]) -> tuple[str, str]:
    return f"{row['ratio']:.2f}", f"{row['ratio_low']:.2f} to {row['ratio_high']:.2f}"


def main() -> None:
    """Write the page."""
    PAGE.write_text(page(RESULTS))


if __name__ == "__main__":
    main()
