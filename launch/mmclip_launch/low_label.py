"""The low-label curve: a recipe at 1, 2, 4, ... labels a class and several draws of them, beside zero-shot and a probe.

mmclip finetune few_shot --init SOURCE --data data/leaves/train --test data/leaves --shots 1 2 4 8 16 --seeds 0 1 2
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from mmclip.errors import GuardError, UserError
from mmclip.release import load
from mmclip.towers.two_tower import TwoTower
from mmclip_data.features.encoder import Encoder
from mmclip_data.features.model import Towers
from mmclip_data.features.store import FeatureStore
from mmclip_data.loading.chosen import name_in_source
from mmclip_data.shards.atomic import atomic_file
from mmclip_eval.datasets import EvalDatasetConfig, OpenedDataset, open_dataset
from mmclip_eval.metrics.confusion import rank_and_prediction
from mmclip_eval.probes.logistic import Examples
from mmclip_eval.report.pages.run_page import PAGE
from mmclip_eval.results.low_label import LowLabelCurve, Point, low_label_table, point
from mmclip_eval.tasks.zero_shot_classification import ZeroShotClassification
from mmclip_eval.zero_shot import class_weights, rank_and_predict
from mmclip_launch.run.beginning.folder import CONFIG
from mmclip_launch.run.config import RunConfig
from mmclip_launch.run.peers import refuse_several
from mmclip_launch.run.recipe.chosen import choose_samples, examples_set, training_set
from mmclip_launch.run.recipe.heads import encoded_examples, fit_on
from mmclip_launch.run.recipe.retained import FORGETTING
from mmclip_launch.run.scoring.drawing import Pass, draw_or_warn, subject_of
from mmclip_launch.run.scoring.identity import identity_of
from mmclip_launch.run.tables import to_toml
from mmclip_launch.screen import Screen
from mmclip_launch.train import train

LOW_LABEL = "low_label.json"
TUNED, ZERO_SHOT, PROBE = "fine-tuned", "zero-shot", "linear probe"


@dataclass(frozen=True)
class Draws:
    """Which numbers of labels, and which draws of them."""

    shots: tuple[int, ...]
    seeds: tuple[int, ...]

    def __post_init__(self) -> None:
        if not self.shots or not self.seeds or min(self.shots) < 1 or len(set(self.shots)) < len(self.shots):
            raise UserError(
                f"--shots {list(self.shots)} --seeds {list(self.seeds)}: expected different numbers of labels from 1 on and at "
                "least one seed, such as --shots 1 2 4 8 16 --seeds 0 1 2"
            )


def low_label_curve(config: RunConfig, test: str | None, draws: Draws, screen: Screen) -> LowLabelCurve:
    """Train at each point, or take what an earlier call has trained; print, write and draw the curve.

    Raises:
        UserError: the recipe does not learn from classes, or a class has too few samples.
        GuardError: a run has forgotten more than `retained.max_forgetting`, after all is measured.
    """
    refuse_several("a curve over --shots is drawn by one")
    opened = open_dataset(test_set(config, test))
    folder = Path(config.output)
    for shots in draws.shots:  # too few samples of a class are told before anything is trained
        choose_samples(_at(config, shots, draws.seeds[0]).data)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / CONFIG).write_text(to_toml(config), encoding="utf-8")
    start = load(str(config.model.init))
    points = list(_baselines(config, start, opened, draws, screen))
    drops: dict[str, float] = {}
    for shots in draws.shots:
        found = []
        for seed in draws.seeds:
            run = _at(config, shots, seed)
            screen.say(f"{shots} labels a class, draw {seed}")
            path = train(run, resume=(Path(run.output) / CONFIG).is_file())
            found.append(_correct(load(path), opened, screen))
            drops[f"{shots} labels, draw {seed}"] = json.loads((path / FORGETTING).read_text())["mean"]["drop"]
        points.append(point(shots, TUNED, torch.stack(found)))
    labelled = opened.dataset.labelled
    curve = LowLabelCurve(
        dataset=opened.dataset.config.path,
        num_samples=len(labelled.labels),
        chance=1 / len(labelled.classes),
        seeds=draws.seeds,
        methods=(TUNED, PROBE, ZERO_SHOT),
        points=tuple(points),
        drops=drops,
    )
    _publish(curve, config, start, screen)
    return curve


def test_set(config: RunConfig, test: str | None) -> EvalDatasetConfig:
    """The set that is measured: the `test` split of the folder where the training split lies, unless another is named.

    Raises:
        UserError: the recipe does not learn from classes, or no set is named and none is evident.
    """
    labels = config.data.labels
    if labels.place is None:
        raise UserError("--shots counts labels: expected a recipe that learns from classes, such as few_shot or flyp")
    train_settings = training_set(config.data).config
    if test is None and train_settings.split == "test":
        raise UserError(
            "--shots measures on a test set: expected --test PATH (shards, or a folder in CLIP_benchmark's layout)"
        )
    return EvalDatasetConfig(
        name="test",
        path=test or train_settings.path,
        label=labels.place,
        class_names=training_set(config.data).labelled.classes,
        templates=labels.templates,
        language=labels.language,
        tasks=(ZeroShotClassification(),),
    )


def _at(config: RunConfig, shots: int, seed: int) -> RunConfig:
    labels = replace(config.data.labels, shots=shots, shots_seed=seed)
    return replace(
        config,
        output=str(Path(config.output) / f"{shots:02d}-labels" / f"draw-{seed}"),
        seed=seed,
        data=replace(config.data, labels=labels),
        evaluation=replace(config.evaluation, report=False),
        retained=replace(config.retained, max_forgetting=None),
    )


def _baselines(
    config: RunConfig, start: TwoTower, opened: OpenedDataset, draws: Draws, screen: Screen
) -> Iterator[Point]:
    """The start as it is, and a probe on its features of the very samples that fine-tuning learns from."""
    store = FeatureStore(warn=screen.warn)
    encoder = Encoder(Towers(start), store=store)
    test = encoded_examples(encoder, opened.dataset, screen)
    classes = len(opened.dataset.labelled.classes)
    zero_shot = _zero_shot(encoder, opened, test)
    probed: dict[int, list[Tensor]] = {shots: [] for shots in draws.shots}
    for seed in draws.seeds:
        data = _at(config, max(draws.shots), seed).data
        most, names = examples_set(data), list(choose_samples(data).classes)  # pyright: ignore[reportOptionalMemberAccess]
        examples = encoded_examples(encoder, most, screen)
        ids = [name_in_source(most.samples.sample_id(place)) for place in range(len(most.samples))]
        assert ids == names, "both are in the order of the set"
        for shots in draws.shots:
            chosen = choose_samples(_at(config, shots, seed).data)
            assert chosen is not None, "there are labels"
            few = examples.at(torch.tensor([place for place, name in enumerate(ids) if name in chosen.classes]))
            probe, _ = fit_on(few, classes, seed)
            probed[shots].append(_right(probe.scores(test.embed), test))
    store.close()
    for shots in draws.shots:
        yield point(shots, ZERO_SHOT, zero_shot[None])
        yield point(shots, PROBE, torch.stack(probed[shots]))


def _correct(model: TwoTower, opened: OpenedDataset, screen: Screen) -> Bool[Tensor, " sample"]:
    """Which samples of the test set the fine-tuned weights get right: by their head where they have one, else by prompts."""
    encoder = Encoder(Towers(model))
    test = encoded_examples(encoder, opened.dataset, screen)
    if model.class_head is None:
        return _zero_shot(encoder, opened, test)
    with torch.inference_mode():
        return _right(model.class_head(test.embed.to(model.class_head.weight)).double(), test)


def _zero_shot(encoder: Encoder, opened: OpenedDataset, test: Examples) -> Bool[Tensor, " sample"]:
    weights = class_weights(opened.dataset.prompts, encoder.texts)
    return rank_and_predict(test.embed, test.labels, weights)[0] < 1


def _right(scores: Float[Tensor, "sample class"], test: Examples) -> Bool[Tensor, " sample"]:
    return rank_and_prediction(scores, test.labels)[0] < 1


def _publish(curve: LowLabelCurve, config: RunConfig, start: TwoTower, screen: Screen) -> None:
    folder = Path(config.output)
    screen.show(low_label_table(curve))
    with atomic_file(folder / LOW_LABEL) as handle:
        handle.write((json.dumps(curve.to_json(), indent=1, allow_nan=False) + "\n").encode())
    screen.say(f"written: {folder / LOW_LABEL}")
    subject = subject_of(start, identity_of(str(config.model.init)), folder)
    draw_or_warn(Pass(subject, [], [], folder / "results", folder), folder / PAGE, screen)
    most = config.retained.max_forgetting
    beyond = {name: drop for name, drop in curve.drops.items() if most is not None and drop > most}
    if beyond:
        told = ", ".join(f"{name}: {drop:+.4f}" for name, drop in beyond.items())
        raise GuardError(f"{folder}: more was forgotten than retained.max_forgetting={most}: {told}")


def read_draws(words: Sequence[str]) -> tuple[Draws | None, str | None, list[str]]:
    """Take `--shots`, `--seeds` and `--test` out of flags; without `--shots` there is no curve.

    Raises:
        UserError: what follows one of them is no number.
    """
    rest: list[str] = []
    taken: dict[str, list[str]] = {}
    here: list[str] = rest
    for word in words:
        if word in ("--shots", "--seeds", "--test"):
            here = taken.setdefault(word, [])
        elif word.startswith("--"):
            here = rest
            rest.append(word)
        else:
            here.append(word)
    if "--shots" not in taken:
        if taken:
            raise UserError(f"{' and '.join(taken)} belong to a curve over --shots, such as --shots 1 2 4 8 16")
        return None, None, list(words)
    try:
        numbers = {name: tuple(map(int, taken.get(name, []))) for name in ("--shots", "--seeds")}
    except ValueError as error:
        raise UserError(f"--shots and --seeds: expected whole numbers: {error}") from error
    test = taken.get("--test", [])
    return Draws(numbers["--shots"], numbers["--seeds"] or (0, 1, 2)), test[0] if test else None, rest
