"""A page over the models between two: how every score goes from one to the other."""

from pathlib import Path

from mmclip_data.shards.atomic import atomic_file
from mmclip_eval.report.cards import Card
from mmclip_eval.report.environment import environment, stylesheet
from mmclip_eval.report.figures import Line, Mark, Reference, curve
from mmclip_eval.results.alpha_curve import AlphaCurve, rows_of
from mmclip_eval.results.headline import Headline, mean_of
from mmclip_eval.results.names import task_words
from mmclip_eval.results.result import recorded_versions

PAGE = Path("report") / "interpolation.html"
X_LABEL = "alpha: 0 is A, 1 is B"


def write_alpha_page(path: Path, found: AlphaCurve, command: str, machine: str) -> int:
    """Put the page at `path`, atomically; its size in bytes is returned."""
    data = render_alpha_page(found, command, machine).encode("utf-8")
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(path) as handle:
        handle.write(data)
    return len(data)


def render_alpha_page(found: AlphaCurve, command: str, machine: str) -> str:
    """The page as text, the same for the same curve."""
    versions = recorded_versions()
    best, ends = found.best, found.ends
    tiles = [("best", best), ("A", ends[0]), ("B", ends[1])]
    return (
        environment()
        .get_template("alpha.html.j2")
        .render(
            curve=found,
            tiles=[
                (name, point.alpha, f"{point.mean.value:.4f}", f"{point.mean.low:.4f} to {point.mean.high:.4f}")
                for name, point in tiles
            ],
            columns=_columns(found),
            rows=[
                (row, point.alpha == best.alpha) for row, point in zip(rows_of(found.points), found.points, strict=True)
            ],
            cards=cards(found),
            command=command,
            machine=machine,
            version=versions["mmclip"],
            stylesheet=stylesheet(),
        )
    )


def cards(found: AlphaCurve) -> list[Card]:
    """The mean first, then each set and task."""
    means = [mean_of(point.figures) for point in found.points]
    title = f"Mean of {len(found.names)} figures" if len(found.names) > 1 else "Mean (of one figure)"
    drawn = [_card(title, found, means, "The alpha of the upright line is the best by this mean")]
    for name in found.names:
        figures = found.of(name)
        words = f"{figures[0].dataset}: {task_words(figures[0].task)}"
        drawn.append(_card(words, found, figures, figures[0].metric))
    return drawn


def _card(title: str, found: AlphaCurve, figures: list[Headline], caption: str) -> Card:
    alphas = [point.alpha for point in found.points]
    line = Line("", alphas, [f.value for f in figures], low=[f.low for f in figures], high=[f.high for f in figures])
    by_alpha = dict(zip(alphas, figures, strict=True))
    ends = [Reference(by_alpha[0.0].value, "A"), Reference(by_alpha[1.0].value, "B")]
    marks = [Mark(found.best.alpha, f"best: {found.best.alpha:g}")]
    return Card(
        curve(title, [line], x_label=X_LABEL, reference=ends, marks=marks), f"{caption}; shaded: 95 % interval."
    )


def _columns(found: AlphaCurve) -> list[str]:
    first = found.points[0].figures
    return ["alpha", *(f"{f.dataset}, {task_words(f.task)}, {f.metric}" for f in first), "mean", "sum"]
