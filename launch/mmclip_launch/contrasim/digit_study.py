"""The study: does the learned similarity find layers across seeds, and what do its controls say of that?"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from mmclip.config import config
from mmclip.errors import UserError
from mmclip_eval.contrasim.closed_form import MEASURES, Measure
from mmclip_eval.contrasim.match import match_pairs
from mmclip_eval.contrasim.matching import PairMatching
from mmclip_eval.contrasim.predict import Progress, contrasim_of
from mmclip_eval.contrasim.prediction import LayerPrediction
from mmclip_eval.contrasim.settings import ContraSimConfig
from mmclip_eval.contrasim.splits import LEAST_MODELS, LEAST_TESTED
from mmclip_launch.contrasim.digit_models import Digits, layers_of_digits, trained, zero_shot_accuracy

Say = Callable[[str], None]


@config
class DigitsConfig:
    """How many models, how long each learns, and how ContraSim does."""

    seeds: int = 6
    """Models, of the seeds 0, 1, ..."""
    steps: int = 200
    """Of the training of each model, in batches of 64; after 200 a model names 98 % of the digits."""
    contrasim: ContraSimConfig = ContraSimConfig(steps=300)

    def __post_init__(self) -> None:
        if self.seeds < LEAST_MODELS:
            raise UserError(
                f"seeds={self.seeds}: expected {LEAST_MODELS} or more, of which {LEAST_TESTED} are held out"
            )
        if self.steps < 1:
            raise UserError(f"steps={self.steps}: expected 1 or more")


@dataclass(frozen=True)
class DigitsStudy:
    """What was found."""

    accuracies: tuple[float, ...]
    """Of each model: the share of the digits that it names rightly."""
    layers: LayerPrediction
    pairs: PairMatching
    """Which pictures the embeddings of one model and of another stand for."""
    seconds: Mapping[str, float]
    """Wall time of the parts."""

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "study": "digits",
            "accuracies": self.accuracies,
            "layer_prediction": self.layers.to_json(),
            "pair_matching": self.pairs.to_json(),
            "seconds": dict(self.seconds),
        }


def study_digits(
    settings: DigitsConfig,
    measures: Mapping[str, Measure] = MEASURES,
    progress: Progress | None = None,
    say: Say = lambda line: None,
) -> DigitsStudy:
    """Train the models, take their layers, and run both tasks with all controls.

    The embeddings of two seeds are the sides of the second task: digits have ten captions, of which no set of 64 can be made.
    """
    digits, started = Digits.load(), time.perf_counter()
    layers, accuracies = [], []
    for seed in range(settings.seeds):
        towers = trained(digits, seed, settings.steps, progress and partial(progress, f"model of seed {seed}"))
        accuracies.append(zero_shot_accuracy(towers, digits))
        layers.append(layers_of_digits(towers, digits))
        say(f"model of seed {seed}: {accuracies[-1]:.1%} of the digits")
    models_at = time.perf_counter()
    names = [f"seed {seed}" for seed in range(settings.seeds)]
    found = contrasim_of(layers, names, settings.contrasim, measures=measures, progress=progress)
    layers_at = time.perf_counter()
    sides = layers[0]["embedding"], layers[1]["embedding"]
    pairs = match_pairs(*sides, (names[0], names[1]), settings.contrasim, progress=progress)
    ended = time.perf_counter()
    seconds = {"models": models_at - started, "layers": layers_at - models_at, "pairs": ended - layers_at}
    return DigitsStudy(tuple(accuracies), found, pairs, seconds)
