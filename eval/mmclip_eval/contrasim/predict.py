"""Layer prediction across models, the first of the two published tasks, with all of its controls.

Two layers are alike as the mean cosine of their encoded rows says, or as a closed-form measure does.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mmclip_data.features.layers import LayerFeatures
from mmclip_eval.contrasim import prediction as cases
from mmclip_eval.contrasim.accuracy import (
    Hits,
    accuracy_of,
    all_pairs,
    difference_of,
    found_layers,
    held_out_pairs,
)
from mmclip_eval.contrasim.closed_form import CKA, PLAIN, Measure, cka_of, similarity_of
from mmclip_eval.contrasim.controls import right_correspondence, rotated, unpaired, wrong_correspondence
from mmclip_eval.contrasim.encoder import Encoders
from mmclip_eval.contrasim.fit import Model, fit_layers, layer_similarity
from mmclip_eval.contrasim.layers import ModelLayers, Tokens, layers_of, scaled
from mmclip_eval.contrasim.prediction import LayerPrediction, Row
from mmclip_eval.contrasim.settings import ContraSimConfig
from mmclip_eval.contrasim.splits import Fold, split_models, split_rows

Progress = Callable[[str, int, int], None]
"""Called with what is trained, the steps done and the steps in all."""
Labels = Int[Tensor, "model layer"]


def contrasim_of(
    models: Sequence[LayerFeatures],
    names: Sequence[str],
    settings: ContraSimConfig | None = None,
    *,
    held_out: Sequence[int] | None = None,
    tokens: Tokens = "mean",
    measures: Mapping[str, Measure] = PLAIN,
    device: torch.device | str = "cpu",
    progress: Progress | None = None,
) -> LayerPrediction:
    """Layer prediction over the features of one tower of several models, on the same rows of one source.

    `held_out` are the models that are tested and not trained on, by number; by default the two halves take turns. Debiased
    CKA is always measured; `measures` are further ones.

    Raises:
        UserError: there are fewer than five models or too few rows, or the models' layers do not correspond.
    """
    settings = settings or ContraSimConfig()
    layers = layers_of(models, names, tokens)
    folds = split_models(len(layers), settings.seed, None if held_out is None else tuple(held_out))
    return predict_layers([model.to(device) for model in layers], folds, settings, measures, progress)


def predict_layers(
    models: Sequence[ModelLayers],
    folds: Sequence[Fold],
    settings: ContraSimConfig,
    measures: Mapping[str, Measure] = PLAIN,
    progress: Progress | None = None,
) -> LayerPrediction:
    """Train, test and control.

    Raises:
        UserError: there are too few rows.
    """
    rows = split_rows(models[0].layers.shape[1], settings)
    ready = scaled(models, rows)
    test = _Test(
        [model.at(rows.train) for model in ready], [model.at(rows.test) for model in ready], folds, settings, progress
    )
    learned, own, wrong = test.learned()
    selectivity, interval = difference_of(own, wrong)
    return LayerPrediction(
        models=tuple(model.name for model in models),
        layers=models[0].layer_names,
        train_rows=len(rows.train),
        test_rows=len(rows.test),
        held_out=tuple(tuple(models[number].name for number in fold.test) for fold in folds),
        learned=tuple(learned),
        closed_form=tuple(test.closed_form(measures, [model.at(rows.test) for model in models])),
        selectivity=selectivity,
        selectivity_interval=interval,
        settings=asdict(settings),
    )


@dataclass(frozen=True)
class _Test:
    """Features of both kinds of examples, scaled, and which models are held out."""

    train: list[Float[Tensor, "layer train_row _"]]
    test: list[Float[Tensor, "layer test_row _"]]
    folds: Sequence[Fold]
    settings: ContraSimConfig
    progress: Progress | None

    @property
    def every(self) -> Bool[Tensor, "model model"]:
        return all_pairs(len(self.test))

    @property
    def true(self) -> Labels:
        return right_correspondence(len(self.test), len(self.test[0]))

    def learned(self) -> tuple[list[Row], Hits, Hits]:
        """A row a case; and the hits on seen models, of the true labels and of the control on its own."""
        seed, true, every = self.settings.seed, self.true, self.every
        encoders = self._fit(cases.SEEN, range(len(self.train)), true)
        seen = found_layers(_scores(encoders, self.test), true, every)
        turned = found_layers(_scores(encoders, rotated(self.test, seed)), true, every)
        alone = found_layers(_scores(encoders, unpaired(self.test, seed)), true, every)
        labels = wrong_correspondence(len(true), true.shape[1], seed)
        wrong = _scores(self._fit("wrong correspondence", range(len(self.train)), labels), self.test)
        own = found_layers(wrong, labels, every)
        hits = {
            cases.SEEN: seen,
            cases.HELD_OUT: self._held_out(),
            cases.WRONG_OWN: own,
            cases.WRONG_TRUE: found_layers(wrong, true, every),
            cases.ROTATED: turned,
            cases.UNPAIRED: alone,
        }
        return [Row("ContraSim", case, accuracy_of(found)) for case, found in hits.items()], seen, own

    def closed_form(self, measures: Mapping[str, Measure], raw: list[Model]) -> list[Row]:
        """CKA in every case, and the other measures, on features as they are, of all models."""
        seed, held_out = self.settings.seed, held_out_pairs(len(self.test), self.folds)
        found = []
        for case, models, asked in (
            (cases.SEEN, self.test, self.every),
            (cases.HELD_OUT, self.test, held_out),
            (cases.ROTATED, rotated(self.test, seed), self.every),
            (cases.UNPAIRED, unpaired(self.test, seed), self.every),
        ):
            hits = found_layers(cka_of([model.cpu() for model in models]), self.true, asked)
            found.append(Row(CKA, case, accuracy_of(hits)))
        for name, measure in measures.items():
            if measure.same_width and len({model.shape[2] for model in raw}) > 1:
                continue
            scores = similarity_of([model.cpu() for model in raw], measure)
            for case, asked in ((cases.SEEN, self.every), (cases.HELD_OUT, held_out)):
                found.append(Row(name, case, accuracy_of(found_layers(scores, self.true, asked))))
        return found

    def _held_out(self) -> Hits:
        """Of each fold, the pairs of models that its training did not see."""
        hits = torch.full((len(self.test), *self.true.shape), torch.nan, dtype=torch.float64)
        for number, fold in enumerate(self.folds):
            encoders = self._fit(f"{cases.HELD_OUT}, fold {number + 1}", fold.train, self.true)
            asked = held_out_pairs(len(self.test), [fold])
            found = found_layers(_scores(encoders, self.test), self.true, asked)
            hits = torch.where(asked[:, :, None], found, hits)
        return hits

    def _fit(self, name: str, models: Sequence[int], labels: Labels) -> Encoders:
        chosen, advance = list(models), None if self.progress is None else partial(self.progress, name)
        return fit_layers([self.train[model] for model in chosen], labels[chosen], self.settings, advance)


@torch.inference_mode()
def _scores(encoders: Encoders, models: Sequence[Model]) -> Float[Tensor, "model layer model layer"]:
    layers = len(models[0])
    return layer_similarity(encoders, models).cpu().view(len(models), layers, len(models), layers)
