"""Features of every layer of both towers, side by side in one row, through the encode pass and store of embeddings.

encoder = Encoder(LayerTowers(towers), store=FeatureStore())
images = image_layers(encoder, source, place)
texts = text_layers(encoder, captions)
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from mmclip.errors import UserError
from mmclip.towers.frozen import TowerName
from mmclip.towers.two_tower import TwoTower
from mmclip.training.precision import autocast
from mmclip_data.features.encode import Progress
from mmclip_data.features.encoder import Encoder, FingerprintedSource
from mmclip_data.features.model import Towers

if TYPE_CHECKING:
    from mmclip.towers.layer_outputs import LayerRecorder

VERSION = 1
"""Of what a layer's features are: another one encodes anew."""


@dataclass(frozen=True)
class LayerFeatures:
    """What the layers of one tower make of the rows of a source, not normalised, fp32, on the CPU."""

    tower: TowerName
    names: tuple[str, ...]
    """`block 1 pooled`, `block 1 mean`, ..., `embedding`; the same order as `features`."""
    features: tuple[Float[Tensor, "row _"], ...]
    """Widths may differ."""
    kept: Int[Tensor, " row"]
    """Which rows of the source these are: those with a bad picture are left out."""

    def __getitem__(self, name: str) -> Float[Tensor, "row width"]:
        return self.features[self.names.index(name)]

    def __len__(self) -> int:
        """Rows."""
        return len(self.kept)

    def rows(self, places: Int[Tensor, " chosen"]) -> "LayerFeatures":
        """Some of these rows, by their place among them, such as those that another model has too."""
        return LayerFeatures(self.tower, self.names, tuple(part[places] for part in self.features), self.kept[places])


@dataclass(frozen=True)
class LayerTowers(Towers):
    """Towers whose rows are the features of all layers, one after the other."""

    @property
    def towers(self) -> TwoTower:
        """The model, which has layers of its own."""
        assert isinstance(self.model, TwoTower), "of others nothing but embeddings is known"
        return self.model

    @cached_property
    def recorder(self) -> "LayerRecorder":
        """What runs the towers; made by a first run on two blank rows."""
        from mmclip.towers.layer_outputs import LayerRecorder  # imports open_clip, which takes seconds

        with autocast(self.precision, self.model.device):
            return LayerRecorder(self.towers)

    def names(self, tower: TowerName) -> tuple[str, ...]:
        """Of the layers whose features stand in a row, in their order."""
        return self.recorder.names(tower)

    def embed_images(self, images: UInt8[Tensor, "batch 3 height width_px"]) -> Float[Tensor, "batch features"]:
        with autocast(self.precision, self.model.device):
            return torch.cat(self.recorder.images(images).outputs, dim=1)

    def embed_prepared(self, prepared: Any) -> Float[Tensor, "batch features"]:
        with autocast(self.precision, self.model.device):
            return torch.cat(self.recorder.texts(prepared).outputs, dim=1)

    @contextmanager
    def working(self) -> Iterator[None]:
        with super().working(), self.recorder.listening():
            yield

    def table(self, tower: str) -> list[Any]:
        assert tower in ("image", "text")
        return ["layers", VERSION, self.names(tower), *super().table(tower)]

    def width(self, tower: str) -> int:
        assert tower in ("image", "text")
        return sum(self.recorder.widths(tower))

    def normalises(self, tower: str) -> bool:
        return False


def image_layers(
    encoder: Encoder,
    source: FingerprintedSource,
    place: Mapping[str, Any],
    progress: Progress | None = None,
    refuse: Callable[[Mapping[int, str]], None] | None = None,
) -> LayerFeatures:
    """The layers of the image tower over a source, by an encoder of `LayerTowers`; arguments are those of `Encoder.images`.

    Raises:
        UserError: no picture can be read, or a layer gives what is not finite; names the sample.
    """
    encoding = encoder.images(source, place, progress, refuse)
    kept = torch.tensor([row for row in range(len(encoding.embed)) if row not in encoding.bad], dtype=torch.long)
    if not len(kept):
        raise UserError(f"sample {source.sample_id(0)} {encoding.bad[0]}, and no other picture can be read")
    rows = encoding.embed[kept] if encoding.bad else encoding.embed
    return _split(encoder, "image", rows, kept)


def text_layers(encoder: Encoder, texts: Sequence[str]) -> LayerFeatures:
    """The layers of the text tower over texts, each row its own text, by an encoder of `LayerTowers`.

    Raises:
        UserError: there is no text, or a layer gives what is not finite; quotes the text.
    """
    rows = encoder.texts(texts)
    return _split(encoder, "text", rows, torch.arange(len(rows)))


def shared_rows(features: Sequence[LayerFeatures]) -> list[LayerFeatures]:
    """The same, of the rows of the source that all of them have: a picture may be bad for one model's preprocessing alone."""
    common = set.intersection(*(set(one.kept.tolist()) for one in features))
    return [
        one.rows(
            torch.tensor([place for place, row in enumerate(one.kept.tolist()) if row in common], dtype=torch.long)
        )
        for one in features
    ]


def _split(encoder: Encoder, tower: TowerName, rows: Tensor, kept: Tensor) -> LayerFeatures:
    towers = encoder.towers
    assert isinstance(towers, LayerTowers), "another encoder gives embeddings alone"
    return LayerFeatures(tower, towers.names(tower), rows.split(towers.recorder.widths(tower), dim=1), kept)
