"""`Viewer`: one model after another on the same sets, for a comparison: what it embeds, and what its layers represent."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal, get_args

from mmclip.errors import UserError
from mmclip.release import load
from mmclip.towers.two_tower import TwoTower
from mmclip_data.features.encoder import Encoder
from mmclip_data.features.layers import LayerFeatures, LayerTowers, image_layers, text_layers
from mmclip_data.features.model import Towers
from mmclip_eval.analysis.sampling import draw
from mmclip_eval.compare.assemble import Viewed
from mmclip_eval.compare.behaviour.behaviour import refuse_few
from mmclip_eval.compare.behaviour.seen import Seen
from mmclip_eval.compare.some_rows import SomeRows
from mmclip_eval.datasets import OpenedDataset
from mmclip_eval.encode_set import encode_set
from mmclip_eval.eval_dataset import EvalDataset
from mmclip_eval.places import place_of
from mmclip_eval.suite import logit_scale_of
from mmclip_launch.run.scoring.encoding import EncodeOptions, encoder_of
from mmclip_launch.screen import Screen

Layers = Literal["all", "embedding", "none"]
LAYERS: tuple[str, ...] = get_args(Layers)
EMBEDDING = "embedding"
ROW_DRAW = 21
"""Stream of the draw of rows; another than those of the report's drawings."""


class Viewer:
    """Loads models by name; the sets are opened before, and stay the same for all of them."""

    def __init__(
        self,
        opened: Sequence[OpenedDataset],
        how: EncodeOptions,
        layers: Layers,
        rows: int,
        raw: bool,
        screen: Screen,
    ) -> None:
        if rows < 1:
            raise UserError(f"--rows {rows}: expected a number of samples from 1 on")
        self.datasets = [one.dataset for one in opened]
        for dataset in self.datasets:
            _refuse_silent(dataset)
        self.how, self.layers, self.rows, self.raw, self.screen = how, layers, rows, raw, screen

    def view(self, name: str, check: Callable[[TwoTower], object] = lambda model: None) -> Viewed:
        """Load a model and show it all sets; `check` may refuse it first.

        Raises:
            UserError: the model cannot be loaded or is refused, a picture cannot be read, an embedding is not finite.
        """
        model = load(name, self.how.device, raw=self.raw)
        check(model)
        encoder = encoder_of(Towers(model, self.how.precision), self.how)
        with self.screen.bars("pictures") as advance:
            seen = tuple(self._seen(name, model, encoder, one, partial(advance, name)) for one in self.datasets)
            layers = self._layers(name, model, partial(advance, f"{name}, layers"))
        self.screen.say(f"{name}: {encoder.tally}")
        if self.how.store is not None:
            self.how.store.close()
        return Viewed(name, seen, layers)

    def _seen(
        self, name: str, model: TwoTower, encoder: Encoder, dataset: EvalDataset, advance: Callable[[int, int], None]
    ) -> Seen:
        encoded = encode_set(encoder, dataset, advance)
        return Seen(
            name=name,
            dataset=dataset,
            image_embed=encoded.image_embed,
            class_embed=encoded.class_embed if has_classes(dataset) else None,
            caption_embed=encoded.caption_embed if dataset.has_captions() else None,
            logit_scale=logit_scale_of(model),
        )

    def _layers(self, name: str, model: TwoTower, advance: Callable[[int, int], None]) -> tuple[LayerFeatures, ...]:
        if self.layers == "none":
            return ()
        dataset = self.datasets[0]
        encoder = encoder_of(LayerTowers(model, self.how.precision), self.how)
        total = len(dataset.encoded_rows)
        chosen = SomeRows(dataset.encoded_rows, draw(self.rows, total, ROW_DRAW))
        place: dict[str, Any] = place_of(dataset)  # read by other ranks alone, of which there are none
        images = image_layers(encoder, chosen, place, advance)
        texts = text_layers(encoder, texts_of(dataset, self.rows))
        return tuple(one if self.layers == "all" else _embedding_of(one) for one in (images, texts))


def has_classes(dataset: EvalDataset) -> bool:
    """Whether the set has labels, and names to ask a model for."""
    return dataset.has_labels() and dataset.labelled.is_named


def texts_of(dataset: EvalDataset, most: int) -> list[str]:
    """A fixed draw of the set's different captions, else all prompts of its classes."""
    if dataset.has_captions():
        distinct = list(dict.fromkeys(dataset.captioned.captions))
        return [distinct[place] for place in draw(most, len(distinct), ROW_DRAW)]
    prompts = dataset.prompts
    distinct = list(dict.fromkeys(text for index in range(len(prompts)) for text in prompts[index]))
    return [distinct[place] for place in draw(most, len(distinct), ROW_DRAW)]


def _embedding_of(layers: LayerFeatures) -> LayerFeatures:
    return LayerFeatures(layers.tower, (EMBEDDING,), (layers[EMBEDDING],), layers.kept)


def _refuse_silent(dataset: EvalDataset) -> None:
    refuse_few(dataset.config.name, len(dataset.samples))
    if len(dataset.rows) != len(dataset.samples):
        raise UserError(
            f"{dataset.config.name}: {len(dataset.rows):,} pictures of {len(dataset.samples):,} samples: expected one "
            "picture a sample; leave the set out"
        )
    if not dataset.has_captions() and not has_classes(dataset):
        raise UserError(
            f"{dataset.config.name}: samples have neither captions nor classes with names: give --label, --class-names or "
            "captions, so that there is something to ask both models"
        )
