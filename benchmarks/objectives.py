"""What `slip`, `clip-queue` and `flip` bring beside `clip` at equal time: zero-shot accuracy of a small model.

    make bench NAME=objectives                          # the figures of benchmarks/results/objectives.json
    .venv/bin/python benchmarks/objectives.py --seconds 5 --seeds 1 --output /tmp/o.json   # a look

Equal for all: CPU time of the optimizer steps, loading included (measure/equal_time.py), so a dear objective takes fewer
steps and its schedule still comes to its end; both towers and, for one seed, their weights at the start; the pictures of
the demo (two styles of emoji) and how they are drawn; batch, optimizer, learning rate; one thread, fp32. Not equal: what the
packaged recipes differ in, and what a queue of an epoch of 2,686 pairs asks for (`OWN`).

Measured as the demo is: emoji of a third style, whose names were trained on (chance 1 in 1,343), and of names that were not,
in all three styles. Accuracies are means over the seeds, and their 95 % intervals are bootstrapped over seeds and pictures;
differences to `clip` are those of pictures under the same seed. Three seeds are few: an interval over them is narrow by luck
as often as wide.
"""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from jaxtyping import Float
from measure.document import finish
from measure.equal_time import Trained, Training, laid_over, train_equally
from measure.pictures import correct_by_prompts, opened
from torch import Tensor

from mmclip.release import load
from mmclip_eval.metrics.bootstrap import runs_interval

BASELINE = "clip"
ARCH = {
    "embed_dim": 128,
    "vision_cfg": {"image_size": 48, "patch_size": 8, "width": 96, "layers": 4, "head_width": 32},
    "text_cfg": {"context_length": 24, "vocab_size": 49408, "width": 128, "heads": 4, "layers": 2},
}
# As launch/configs/demo.toml draws what meets a caption.
AUGMENT = {
    "pad": 0.1,
    "crop_area": [0.6, 1.0],
    "crop_aspect": [0.95, 1.05],
    "brightness": 0.1,
    "contrast": 0.1,
    "saturation": 0.1,
}
# On pictures of 48 px colours cost less a batch at once than picture by picture.
ALIKE = {"data": {"augment": AUGMENT, "augment_on": "device"}, "model": {"inline": ARCH}, "optimizer": {"lr": 1e-3}}
OWN: Mapping[str, Mapping[str, Any]] = {BASELINE: {}, "slip": {}, "clip-queue": {}, "flip": {}}
SETS = {
    "unseen style": {"path": "embedded:emoji/unseen-style-fluent.tar"},
    "unseen names": {
        "path": "embedded:emoji/unseen-concept-noto.tar::embedded:emoji/unseen-concept-twemoji.tar"
        "::embedded:emoji/unseen-concept-fluent.tar"
    },
}


def main() -> None:
    """Train, measure, print and keep."""
    parser = argparse.ArgumentParser(description="Objectives over pairs, at equal CPU time.")
    parser.add_argument("--seconds", type=float, default=90.0, help="CPU seconds of each run's steps (default: 90)")
    parser.add_argument("--seeds", type=int, default=3, help="runs of each (default: 3)")
    parser.add_argument("--recipes", nargs="+", choices=list(OWN), default=list(OWN), help="which (default: all)")
    parser.add_argument("--at-once", type=int, default=2, help="runs at a time, one thread each (default: 2)")
    parser.add_argument("--calibration", type=int, default=12, help="steps that tell a recipe's pace (default: 12)")
    parser.add_argument("--output", type=Path, help="JSON file (default: benchmarks/results/objectives.json)")
    options = parser.parse_args()
    recipes = list(dict.fromkeys([BASELINE, *options.recipes]))
    trainings = {(recipe, seed): training_of(recipe, seed) for seed in range(options.seeds) for recipe in recipes}
    with TemporaryDirectory() as folder:
        args = options.seconds, options.at_once, options.calibration
        runs = train_equally(list(trainings.values()), Path(folder), *args)
        by_recipe = {
            recipe: [runs[trainings[recipe, seed].name] for seed in range(options.seeds)] for recipe in recipes
        }
        correct = {recipe: measured(found) for recipe, found in by_recipe.items()}
    figures = [
        figure
        for recipe in recipes
        for figure in figures_of(recipe, by_recipe[recipe], correct[recipe], correct[BASELINE])
    ]
    settings = {
        "wide": True,
        "cpu_seconds": options.seconds,
        "seeds": options.seeds,
        "alike": ALIKE,
        "different": OWN,
        "threads": 1,
        "runs_at_once": options.at_once,
    }
    finish("objectives", [], {}, settings, options.output, figures=figures)


def training_of(recipe: str, seed: int) -> Training:
    """A run of a recipe."""
    return Training(f"{recipe}-{seed}", recipe, laid_over({**ALIKE, "seed": seed}, OWN[recipe]))


def measured(runs: Sequence[Trained]) -> dict[str, Float[Tensor, "run sample"]]:
    """By set, 1 where a run takes a picture for what it shows and 0 elsewhere."""
    sets = {name: opened(place["path"], label="json:name", templates="emoji") for name, place in SETS.items()}
    models = [load(run.folder) for run in runs]
    return {
        name: torch.stack([correct_by_prompts(model, one).float() for model in models]) for name, one in sets.items()
    }


def figures_of(
    recipe: str,
    runs: Sequence[Trained],
    correct: Mapping[str, Float[Tensor, "run sample"]],
    baseline: Mapping[str, Float[Tensor, "run sample"]],
) -> list[dict[str, Any]]:
    """What stands in the line of one recipe."""
    plain = {"steps": runs[0].steps, "CPU seconds": sum(run.seconds for run in runs) / len(runs)}
    figures: list[dict[str, Any]] = [{"case": recipe, "metric": name, "value": value} for name, value in plain.items()]
    for name, hits in correct.items():
        figures.append(with_interval(recipe, name, hits))
        if recipe != BASELINE:
            figures.append(with_interval(recipe, f"{name}, beside {BASELINE}", hits - baseline[name]))
    return figures


def with_interval(recipe: str, metric: str, values: Float[Tensor, "run sample"]) -> dict[str, Any]:
    """The mean over runs and pictures, with the bootstrap's interval over both."""
    low, high = runs_interval(values)
    return {"case": recipe, "metric": metric, "value": float(values.double().mean()), "low": low, "high": high}


if __name__ == "__main__":
    main()
