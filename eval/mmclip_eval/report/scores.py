"""Result files as rows for people: each figure with its interval, beside what guessing would score."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmclip_eval.results.names import task_words
from mmclip_eval.results.result import EvalResult, read_result

TRACK_ENDS = (0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0)
METRIC_WORDS = {
    "acc1": "top\u20111 accuracy",
    "acc5": "top\u20115 accuracy",
    "mean_per_class_recall": "mean recall of the classes",
    "image_retrieval_median_rank": "caption to picture, median rank",
    "text_retrieval_median_rank": "picture to caption, median rank",
}
RETRIEVAL_WORDS = {"image_retrieval_recall": "caption to picture", "text_retrieval_recall": "picture to caption"}
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


def score_groups(results: Sequence[Mapping[str, Any]], weights_sha256: str | None) -> list[ScoreGroup]:
    """The table of the page, in the order of `results`."""
    return [_group(content, weights_sha256) for content in results]


def track_end(groups: Sequence[ScoreGroup]) -> float:
    """Where the line that the scores are drawn on ends: the first round number above everything on it."""
    drawn = (score for group in groups for score in group.scores if score.is_fraction)
    most = max((max(score.high, score.value, score.chance or 0.0) for score in drawn), default=1.0)
    return next((end for end in TRACK_ENDS if most <= end), 1.0)


def words_of(metric: str) -> str:
    """A metric's name as a person says it."""
    stem, at, k = metric.partition("@")
    if at and stem in RETRIEVAL_WORDS:
        return f"{RETRIEVAL_WORDS[stem]}, recall@{k}"
    return METRIC_WORDS.get(metric, metric.replace("_", " "))


def _group(content: Mapping[str, Any], weights_sha256: str | None) -> ScoreGroup:
    prompts = content.get("prompts", {})
    templates = tuple(prompts.get("templates", ()))
    checkpoint = content.get("checkpoint", {})
    other = weights_sha256 is not None and checkpoint.get("weights_sha256") != weights_sha256
    return ScoreGroup(
        dataset=content["dataset"],
        task=task_words(content["task"]),
        num_samples=content["n_seen"],
        about=_about(content),
        scores=tuple(_score(name, content["metrics"][name], content) for name in content["intervals"]),
        templates=templates[:SHOWN_TEMPLATES],
        more_templates=max(0, len(templates) - SHOWN_TEMPLATES),
        prompts_source=prompts.get("source", ""),
        notes=tuple(content.get("notes", ())),
        other_weights=str(checkpoint.get("path") or "unnamed weights") if other else "",
    )


def _score(metric: str, value: float, content: Mapping[str, Any]) -> Score:
    low, high = content["intervals"][metric]
    is_fraction = content.get("units", {}).get(metric, "fraction") == "fraction"
    lower_is_better = metric in content.get("lower_is_better", ())
    return Score(metric, words_of(metric), value, low, high, content["chance"][metric], is_fraction, lower_is_better)


def _about(content: Mapping[str, Any]) -> str:
    parts = [f"{content['n_seen']:,} pictures"]
    parts += [
        f"{content[key]:,} {key.removeprefix('num_')}" for key in ("num_classes", "num_captions") if key in content
    ]
    return ", ".join(parts)
