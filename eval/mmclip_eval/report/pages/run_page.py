"""The page: what was seen and what is on disk, analysed, laid out by the templates and written as one file."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmclip_data.shards.atomic import atomic_file
from mmclip_eval.evidence import Evidence
from mmclip_eval.report.environment import environment, stylesheet
from mmclip_eval.report.pages.overview import overview
from mmclip_eval.report.pages.subject import Subject
from mmclip_eval.report.scores.rows import ScoredSet, gather_results, score_groups, scored_sets, track_end
from mmclip_eval.report.sets.dataset_section import DatasetSection, Extent, dataset_section
from mmclip_eval.report.training.curves import Chapter, chapters
from mmclip_eval.report.training.finetuning import finetuning_chapters
from mmclip_eval.report.training.history import History, read_history
from mmclip_eval.results.result import EvalResult, recorded_versions

PAGE = Path("report") / "index.html"
PICTURE_BYTES = 1_500_000
"""Of all pictures of a page together, before base64 makes a third more of them."""
MOST_SETS = 8
"""Sets that are shown beyond their scores."""
SHOWN_ALARMS = 5


@dataclass(frozen=True)
class Entry:
    """A line of the table of contents."""

    anchor: str
    title: str
    inner: tuple["Entry", ...] = ()


def write_page(
    path: Path,
    subject: Subject,
    run_folder: Path | None,
    results_folder: Path | None,
    results: Sequence[EvalResult] = (),
    evidence: Sequence[Evidence] = (),
) -> int:
    """Draw everything and put the page at `path`, atomically; its size in bytes is returned.

    `run_folder` gives the curves (None for weights without a run), `results_folder` the scores, of which `results` are
    the newest, and `evidence` the pictures. Nothing is encoded here.

    Raises:
        UserError: a file of the run is not what mmclip writes.
    """
    text = render_page(subject, read_history(run_folder), gather_results(results_folder, results), evidence, run_folder)
    path.parent.mkdir(parents=True, exist_ok=True)
    data = text.encode("utf-8")
    with atomic_file(path) as handle:
        handle.write(data)
    return len(data)


def render_page(
    subject: Subject,
    history: History,
    results: Sequence[Mapping[str, Any]],
    evidence: Sequence[Evidence],
    run_folder: Path | None = None,
) -> str:
    """The page as text."""
    shown = list(evidence)[:MOST_SETS]
    classified = [one.dataset.config.name for one in shown if one.class_embed is not None]
    groups = score_groups(results, subject.weights_sha256, classified)
    scored = scored_sets(groups)
    parts = [*finetuning_chapters(history), *chapters(history)]
    sets = [
        dataset_section(one, subject.logit_scale or 1.0, extent_of(len(shown)), i) for i, one in enumerate(shown, 1)
    ]
    versions = recorded_versions()
    return (
        environment()
        .get_template("index.html.j2")
        .render(
            subject=subject,
            overview=overview(subject, history, groups),
            alarms=history.alarms[:SHOWN_ALARMS],
            more_alarms=max(0, len(history.alarms) - SHOWN_ALARMS),
            scored_sets=scored,
            track=track_end(groups),
            chapters=parts,
            sets=sets,
            sets_left_out=[one.dataset.config.name for one in list(evidence)[MOST_SETS:]],
            contents=_contents(scored, parts, sets),
            config_text=_config_text(run_folder),
            bad_samples=Counter(history.bad_samples).most_common(10),
            versions=versions,
            version=versions["mmclip"],
            stylesheet=stylesheet(),
        )
    )


def extent_of(sets: int) -> Extent:
    """How much of each of so many sets is shown, so that a page of usual drawings stays under 3 MB."""
    size = PICTURE_BYTES // max(1, sets)
    if sets <= 3:
        return Extent(wall=24 if sets == 1 else 18, mistakes=9, queries=6, hits=8, thumbnails=60, picture_bytes=size)
    return Extent(wall=12, mistakes=4, queries=4, hits=8, thumbnails=50, picture_bytes=size)


def _contents(scored: Sequence[ScoredSet], parts: Sequence[Chapter], sets: Sequence[DatasetSection]) -> list[Entry]:
    inner = tuple(Entry(one.anchor, one.dataset) for one in scored)
    entries = [Entry("scores", "Scores", inner if len(inner) > 1 else ())] if scored else []
    entries += [Entry(part.anchor, part.title) for part in parts]
    entries += [Entry(one.anchor, one.name, tuple(_inner(one))) for one in sets]
    return [*entries, Entry("about", "About this page")]


def _inner(one: DatasetSection) -> list[Entry]:
    found = [(wall.anchor, wall.short) for wall in (*one.walls, *one.query_walls)]
    found += [("confusion", "Confusions")] if one.confusion or one.pairs else []
    found += [("geometry", "Geometry")] + ([("map", "Map")] if one.maps else [])
    return [Entry(f"{one.anchor}-{anchor}", title) for anchor, title in found]


def _config_text(run_folder: Path | None) -> str:
    path = run_folder / "config.toml" if run_folder is not None else None
    return path.read_text(encoding="utf-8") if path is not None and path.is_file() else ""
