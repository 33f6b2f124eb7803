"""Result files as rows for people: each figure with its interval, beside what guessing would score."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from mmclip_eval.analysis.confusions import Pair
from mmclip_eval.report.cards import Card
from mmclip_eval.report.scores.metric_words import words_of
from mmclip_eval.report.scores.task_drawings import drawn_tables
from mmclip_eval.results.names import task_words
from mmclip_eval.results.result import EvalResult, read_result
from mmclip_eval.tasks.registry import TASKS

TRACK_ENDS = (0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0)
SHOWN_TEMPLATES = 8


@dataclass(frozen=True)
class Score:
    """One figure."""

    metric: str
    words: str
    value: float
    low: float
    high: float
    chance: float | None
    is_fraction: bool = True
    """Whether it lies in [0, 1], and so has a place on the line that is drawn."""
    lower_is_better: bool = False

    @property
    def short_words(self) -> str:
        """The words of the metric below the name of its task."""
        return words_of(self.metric, in_its_task=True)

    @property
    def beats_chance(self) -> bool:
        """Whether the whole interval lies on the better side of chance; also where there is no guessing."""
        if self.chance is None:
            return True
        return self.high < self.chance if self.lower_is_better else self.low > self.chance


@dataclass(frozen=True)
class ScoreGroup:
    """The figures of one data set and task."""

    dataset: str
    task: str
    num_samples: int
    about: str
    """How many classes or captions, in words."""
    scores: tuple[Score, ...]
    templates: tuple[str, ...]
    more_templates: int
    prompts_source: str
    notes: tuple[str, ...]
    other_weights: str
    """Where the figures are of other weights than the page's: of which; else empty."""
    cards: tuple[Card, ...] = ()
    """Drawings of what the task found beside its figures."""
    class_cards: tuple[Card, ...] = ()
    """Drawings of the single classes."""
    pairs: tuple[Pair, ...] = ()


@dataclass(frozen=True)
class ScoredSet:
    """A data set with the figures of each of its tasks."""

    anchor: str
    dataset: str
    groups: tuple[ScoreGroup, ...]


def gather_results(folder: Path | None, fresh: Sequence[EvalResult]) -> list[dict[str, Any]]:
    """The contents of the result files in `folder`, with `fresh` ones in the place of theirs, in the order of names.

    Raises:
        UserError: a file is no result.
    """
    paths = sorted(folder.glob("*.json")) if folder is not None and folder.is_dir() else []
    contents = sorted(map(read_result, paths), key=lambda content: content["run"]["finished"])
    own = {content["checkpoint"]["weights_sha256"] for content in (result.to_json() for result in fresh)}
    # Of several checkpoints the page's own come last, and so win; the order on the page is that of the first.
    contents.sort(key=lambda content: content["checkpoint"]["weights_sha256"] in own)
    first = {_case(content): content for content in (result.to_json() for result in fresh)}
    return [*first.values(), *({key: c for c in contents if (key := _case(c)) not in first}.values())]


def _case(content: Mapping[str, Any]) -> tuple[str, ...]:
    """What was measured, whatever the checkpoint."""
    prompts = content.get("prompts", {}).get("texts_sha256", "")
    return content["dataset"], content["task"], content["split"], content["language"], prompts, str(content["options"])


def score_groups(
    results: Sequence[Mapping[str, Any]], weights_sha256: str | None, shown: Collection[str] = ()
) -> list[ScoreGroup]:
    """The figures and drawings of each result, in the order of `results`.

    Of the sets that are `shown` in a section of their own, what zero-shot classification mixes up is drawn there.
    """
    return [_group(content, results, weights_sha256, shown) for content in results]


def scored_sets(groups: Sequence[ScoreGroup]) -> list[ScoredSet]:
    """The same by data set, in the order in which the sets come first, its tasks in that of the registry.

    Prompts stand where a set has them first.
    """
    order = {task_words(name): place for place, name in enumerate(TASKS)}
    found: dict[str, list[ScoreGroup]] = {group.dataset: [] for group in groups}
    for group in sorted(groups, key=lambda group: order.get(group.task, len(order))):
        own = found[group.dataset]
        said = any((one.templates, one.prompts_source) == (group.templates, group.prompts_source) for one in own)
        own.append(replace(group, templates=(), more_templates=0) if said else group)
    return [ScoredSet(f"scores-{i}", name, tuple(own)) for i, (name, own) in enumerate(found.items(), 1)]


def track_end(groups: Sequence[ScoreGroup]) -> float:
    """Where the line that the scores are drawn on ends: the first round number above everything on it."""
    drawn = (score for group in groups for score in group.scores if score.is_fraction)
    most = max((max(score.high, score.value, score.chance or 0.0) for score in drawn), default=1.0)
    return next((end for end in TRACK_ENDS if most <= end), 1.0)


def _group(
    content: Mapping[str, Any], results: Sequence[Mapping[str, Any]], weights_sha256: str | None, shown: Collection[str]
) -> ScoreGroup:
    prompts = content.get("prompts", {})
    templates = tuple(prompts.get("templates", ()))
    checkpoint = content.get("checkpoint", {})
    other = weights_sha256 is not None and checkpoint.get("weights_sha256") != weights_sha256
    here = content["dataset"] in shown and content["task_type"] == "zero_shot_classification"
    beside = [one for one in results if one is not content and _subject(one) == _subject(content)]
    drawn = drawn_tables(content, beside, with_confusion=not here)
    return ScoreGroup(
        dataset=content["dataset"],
        task=task_words(content["task_type"]),
        num_samples=content["n_seen"],
        about=_about(content),
        scores=tuple(_score(name, content["metrics"][name], content) for name in content["intervals"]),
        templates=templates[:SHOWN_TEMPLATES],
        more_templates=max(0, len(templates) - SHOWN_TEMPLATES),
        prompts_source=prompts.get("source", ""),
        notes=tuple(content.get("notes", ())),
        other_weights=str(checkpoint.get("path") or "unnamed weights") if other else "",
        cards=drawn.cards,
        class_cards=drawn.class_cards,
        pairs=drawn.pairs,
    )


def _subject(content: Mapping[str, Any]) -> tuple[Any, ...]:
    """Two results with the same one may be drawn beside each other."""
    weights = content.get("checkpoint", {}).get("weights_sha256")
    return content["dataset"], content["split"], content["dataset_fingerprint"], weights


def _score(metric: str, value: float, content: Mapping[str, Any]) -> Score:
    low, high = content["intervals"][metric]
    is_fraction = content.get("units", {}).get(metric, "fraction") == "fraction"
    lower_is_better = metric in content.get("lower_is_better", ())
    return Score(metric, words_of(metric), value, low, high, content["chance"][metric], is_fraction, lower_is_better)


def _about(content: Mapping[str, Any]) -> str:
    """Of what the figures are, and the options of the task that are not the usual ones."""
    parts = [f"{content['n_seen']:,} pictures"]
    parts += [
        f"{content[key]:,} {key.removeprefix('num_')}" for key in ("num_classes", "num_captions") if key in content
    ]
    usual = asdict(TASKS[content["task_type"]]()) if content["task_type"] in TASKS else {}
    settings = [
        f"{name} {_plain(value)}"
        for name, value in content["options"].items()
        if _plain(value) != _plain(usual.get(name))
    ]
    return "; ".join([", ".join(parts), *([", ".join(settings)] if settings else [])])


def _plain(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
