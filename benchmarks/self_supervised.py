"""What objectives over pictures alone make of a small tower in 90 seconds: effective rank, and a linear probe.

    make bench NAME=self_supervised                     # the figures of benchmarks/results/self_supervised.json
    .venv/bin/python benchmarks/self_supervised.py --seconds 5 --recipes simclr mae --output /tmp/s.json   # a look

Needs Fashion-MNIST (`apt-get install dataset-fashion-mnist`): 60,000 grey pictures of 28 px to learn from, without their
classes, and 10,000 to measure on. Its shards are made once, under `data/fashion-mnist`.

Equal for all: CPU time of the optimizer steps, loading included (measure/equal_time.py), the tower and its weights at the
start, the pictures, one thread, fp32, the packaged recipe of each. Not equal: what a step costs, so their number; and the
settings in `TUNED`, each with its reason.

How the tower and the settings were chosen: by runs of 25 to 30 seconds on shards 0 to 4 of the training split, measured on the
first 200 pictures of each class in shard 5, by both ranks and the probe (`--data` of a folder whose `train` holds the five
and whose `test` the sixth). The random tower was looked at too: two layers give it a lower uncentred rank than four, so a
gain over it says less than it would over four (docs/log.md has both). The test split chose nothing.

Measured on what the tower pools, before its projection: an objective over views trains that, and leaves the projection as
random as it began. The same is measured of the tower that every run starts from, and the probe of the pixels themselves.

- effective rank, and centred: RankMe of the features' directions on the held-out pictures
- probe accuracy: logistic regression on standardised features of some labelled training pictures, its strength chosen on a
  fifth of them; asked for the held-out pictures, with Wilson's 95 % interval. It is of one run each: another seed of the run
  moves it too.
"""

import argparse
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from measure.document import finish
from measure.equal_time import Trained, Training, laid_over, settings_of, train_equally
from measure.fashion_mnist import fashion_mnist
from measure.frozen_probe import Probed, probed, ranks
from measure.pictures import Pictures, opened, pictures_of, pooled_features
from measure.results_page import figure_text

from mmclip.preprocess import ImageSpec
from mmclip.release import load
from mmclip.release.start import create
from mmclip.towers.two_tower import TwoTower
from mmclip_eval.probes.logistic import Examples
from mmclip_launch.run.config import RunConfig
from mmclip_launch.run.tables import from_table

SIDE, CLASSES = 28, 10
ARCH = {
    "embed_dim": 96,
    "vision_cfg": {"image_size": SIDE, "patch_size": 4, "width": 96, "layers": 2, "head_width": 32},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 1, "layers": 1},  # rests
}
# Grey pictures have no hue; of a crop of 8 % of 28 px (SimCLR's smallest) nobody could tell what it shows.
COLOURS = {"flip": 0.5, "colour": 0.8, "brightness": 0.4, "contrast": 0.4}
STRONG = [{"name": "strong", "copies": 2, "augment": {"crop_area": [0.3, 1.0], **COLOURS}}]
CROPS = [
    {"name": "global", "copies": 2, "augment": {"crop_area": [0.4, 1.0], **COLOURS}},
    {"name": "local", "copies": 2, "size": 12, "augment": {"crop_area": [0.15, 0.5], **COLOURS}},
]
# More steps of fewer pictures; a batch at once is recoloured at a fifth of the price of picture by picture at this size.
# Two layers take half as long as four: twice the steps.
ALIKE = {
    "global_batch_size": 64,
    "data": {"augment_on": "device"},
    "model": {"inline": ARCH},
    "optimizer": {"lr": 1e-3, "weight_decay": 0.05},
}
TUNED: Mapping[str, Mapping[str, Any]] = {
    "simclr": {"data": {"views": STRONG}},
    # The teacher keeps the recipe's .99: behind one at .9 queued keys seem to be told by their age, not by their picture, and
    # the rank falls (projections 3 of 128). A queue of 8 batches is young under it; simclr's temperature spreads more than .2.
    "moco": {"data": {"views": STRONG}, "objective": {"queue_size": 512, "temperature": 0.1}},
    # A little more rank than with a teacher at .9 and the rate of all; .99 would stand still for long in some hundred steps.
    "byol": {"data": {"views": STRONG}, "objective": {"momentum": 0.97}, "optimizer": {"lr": 5e-4}},
    "simsiam": {"data": {"views": STRONG}},
    "vicreg": {"data": {"views": STRONG}},
    "swav": {"data": {"views": CROPS}, "objective": {"prototypes": 64, "local_views": 2}},
    # Pictures of an untrained tower have nearly one direction, which batch norm takes off, so that a teacher at .04 can tell
    # them apart. Without it the assignments went to uniform, and behind a teacher at .9 the centre ran after it in circles.
    "dino": {
        "data": {"views": CROPS},
        "objective": {"prototypes": 64, "local_views": 2, "norm": "batch", "momentum": 0.99},
    },
    "mae": {"objective": {"width": 64, "depth": 1}},  # a decoder that is smaller than the tower
}
"""What is not the packaged recipe's, which is meant for longer runs and larger pictures."""


def main() -> None:
    """Train, measure, print and keep."""
    parser = argparse.ArgumentParser(description="Objectives over pictures alone, at equal CPU time.")
    parser.add_argument("--seconds", type=float, default=75.0, help="CPU seconds of each run's steps (default: 75)")
    parser.add_argument("--recipes", nargs="+", choices=list(TUNED), default=list(TUNED), help="which (default: all)")
    parser.add_argument("--at-once", type=int, default=2, help="runs at a time, one thread each (default: 2)")
    parser.add_argument("--calibration", type=int, default=12, help="steps that tell a recipe's pace (default: 12)")
    parser.add_argument("--examples", type=int, default=500, help="labelled pictures of each class (default: 500)")
    parser.add_argument("--held-out", type=int, help="pictures of each class to measure on (default: all, 1,000)")
    parser.add_argument("--data", type=Path, help="shards of Fashion-MNIST (default: data/fashion-mnist)")
    parser.add_argument("--output", type=Path, help="JSON file (default: benchmarks/results/self_supervised.json)")
    options = parser.parse_args()
    data = options.data or fashion_mnist()
    trainings = [training_of(recipe, data) for recipe in options.recipes]
    spec = ImageSpec(size=(SIDE, SIDE))
    learnt = pictures_of(opened(data, split="train"), spec, options.examples)
    asked = pictures_of(opened(data, split="test"), spec, options.held_out)
    found: dict[str, list[dict[str, Any]]] = {}

    def measure(case: str, tower: TwoTower | None, run: Trained | None = None) -> None:
        rank = None if tower is None else ranks(pooled_features(tower, asked.pixels))
        found[case] = figures_of(case, probe_of(learnt, asked, tower), rank, run)
        print(f"  {case}:", ", ".join(f"{f['metric']} {figure_text(f)}" for f in found[case]), flush=True)

    with TemporaryDirectory() as folder:
        lengths = options.seconds, options.at_once, options.calibration
        train_equally(trainings, Path(folder), *lengths, then=lambda name, run: measure(name, load(run.folder), run))
    measure("random tower", start_of(trainings[0]))
    measure("pixels", None)
    figures = [figure for case in ("random tower", *options.recipes, "pixels") for figure in found[case]]
    settings = {
        "wide": True,
        "cpu_seconds": options.seconds,
        "alike": ALIKE,
        "different": TUNED,
        "learnt_by_the_probe": len(learnt.labels),
        "measured_on": len(asked.labels),
        "threads": 1,
        "runs_at_once": options.at_once,
    }
    finish("self_supervised", [], {}, settings, options.output, figures=figures)


def training_of(recipe: str, data: Path) -> Training:
    """The run of a recipe on the training pictures."""
    own = laid_over(ALIKE, {"data": {"source": {"type": "tars", "shards": str(data / "train")}}})
    return Training(recipe, recipe, laid_over(own, TUNED[recipe]))


def start_of(training: Training) -> TwoTower:
    """The towers that every run begins with: a run draws them first, from its seed."""
    config = from_table(RunConfig, settings_of(training, 1, Path("runs/none")), training.name)
    torch.manual_seed(config.seed)
    return create(config.model, needs_logit_bias=False)


def probe_of(learnt: Pictures, asked: Pictures, tower: TwoTower | None) -> Probed:
    """On what the tower pools; without one on the pixels, of which one channel is as good as three."""

    def examples(side: Pictures) -> Examples:
        return Examples(side.grey() if tower is None else pooled_features(tower, side.pixels), side.labels)

    return probed(examples(learnt), examples(asked), CLASSES)


def figures_of(
    case: str, probe: Probed, rank: tuple[float, float] | None = None, run: Trained | None = None
) -> list[dict[str, Any]]:
    """What stands in the line of one case."""
    plain = {} if run is None else {"steps": run.steps, "CPU seconds": run.seconds}
    plain |= {} if rank is None else {"effective rank": rank[0], "effective rank, centred": rank[1]}
    figures: list[dict[str, Any]] = [{"case": case, "metric": name, "value": value} for name, value in plain.items()]
    low, high = probe.interval
    return [*figures, {"case": case, "metric": "probe accuracy", "value": probe.accuracy, "low": low, "high": high}]


if __name__ == "__main__":
    main()
