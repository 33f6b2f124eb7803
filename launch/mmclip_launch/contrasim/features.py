"""Features of all layers of models over one set of pictures, with captions where they are asked for."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from mmclip.release import load
from mmclip_data.features.encode import refuse_bad
from mmclip_data.features.encoder import Encoder
from mmclip_data.features.layers import LayerFeatures, LayerTowers, image_layers, text_layers
from mmclip_eval.datasets import EvalDatasetConfig, open_samples
from mmclip_eval.eval_dataset import EvalDataset
from mmclip_eval.places import place_of
from mmclip_launch.run.beginning.preflight import refuse_unwritable
from mmclip_launch.run.peers import refuse_several
from mmclip_launch.run.scoring.encoding import EncodeOptions, encoder_of, options_of_flags
from mmclip_launch.screen import Screen


@dataclass(frozen=True)
class Layers:
    """Takes the layers of one model after another."""

    dataset: EvalDataset
    how: EncodeOptions
    raw: bool
    screen: Screen

    @classmethod
    def of_flags(cls, options: argparse.Namespace, screen: Screen) -> "Layers":
        """Of `add_data_flags`; the set is opened before a model is loaded.

        Raises:
            UserError: the set is unsound, or several processes were started.
        """
        refuse_several("contrasim runs on one")
        how = options_of_flags(options, screen.warn)
        if options.output is not None:
            refuse_unwritable(options.output)
        name = Path(options.data).name.removesuffix(".tar") or options.data
        settings = EvalDatasetConfig(
            name=name, path=options.data, split=options.split, captions=tuple(options.captions)
        )
        return cls(open_samples(settings), how, options.raw, screen)

    def images(self, model: str) -> LayerFeatures:
        """Of the pictures.

        Raises:
            UserError: a picture cannot be read, or a feature is not finite; names the sample.
        """
        rows = self.dataset.encoded_rows
        with self.screen.bars("pictures") as advance:
            return image_layers(
                self._encoder(model), rows, place_of(self.dataset), partial(advance, model), partial(refuse_bad, rows)
            )

    def texts(self, model: str, texts: Sequence[str]) -> LayerFeatures:
        """Of texts.

        Raises:
            UserError: a feature is not finite; quotes the text.
        """
        return text_layers(self._encoder(model), texts)

    def one_caption_each(self) -> tuple[torch.Tensor, list[str]]:
        """Rows of pictures, and the first caption of each; of pictures with one caption the first is taken.

        Raises:
            UserError: a sample has no caption.
        """
        captioned = self.dataset.captioned
        row_of_sample = {int(sample): row for row, sample in reversed([*enumerate(self.dataset.rows.sample_of_row)])}
        first: dict[int, str] = {}
        for caption, sample in zip(captioned.captions, captioned.image_of_caption.tolist(), strict=True):
            first.setdefault(sample, caption)
        by_caption: dict[str, int] = {}
        for sample, caption in sorted(first.items()):
            by_caption.setdefault(caption, row_of_sample[sample])
        return torch.tensor([*by_caption.values()]), [*by_caption]

    def close(self) -> None:
        """Close the store and the set."""
        if self.how.store is not None:
            self.how.store.close()
        self.dataset.samples.close()

    def _encoder(self, model: str) -> Encoder:
        return encoder_of(LayerTowers(load(model, self.how.device, raw=self.raw), self.how.precision), self.how)
