"""Features that were computed before the run, in place of pixels and of tokens, which are then neither read nor made."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray

from mmclip_data.loading.captions import captions_of, choose_caption
from mmclip_data.loading.opening import Opened
from mmclip_data.loading.sources import Source


@runtime_checkable
class FeatureRows(Protocol):
    """Features of all samples of a source, or of all its distinct captions, in its order."""

    def row(self, number: int) -> Float[np.ndarray, " feature"]:
        """The features of one of them.

        Raises:
            BadSampleError: its picture could not be encoded.
        """
        ...


@runtime_checkable
class CaptionNumbers(Protocol):
    """Which captions the samples of a source have."""

    def choose(self, sample: int, seed: int, position: int) -> int:
        """The number, among the distinct captions, of the one that a sample has at a position.

        Raises:
            BadSampleError: it has none.
        """
        ...


@dataclass(frozen=True)
class TextFeatures:
    """Features of captions, and which of them are a sample's."""

    rows: FeatureRows
    captions: CaptionNumbers


@dataclass(frozen=True)
class Places:
    """Samples counted through the shards of a source."""

    first_rows: NDArray[np.int64]
    """Of each shard, the place of its first sample."""

    @classmethod
    def of(cls, source: Source) -> "Places":
        """Those of a source."""
        sizes = source.shard_sizes
        return cls(np.cumsum(sizes) - sizes)

    def __call__(self, sample: Mapping[str, Any]) -> int:
        """The place of a sample that the plan has chosen."""
        shard, row = sample["__place__"]
        return int(self.first_rows[shard]) + row


@dataclass(frozen=True)
class RecallPicture:
    """A map: the sample's features become `image_features`; its pixels are none."""

    features: FeatureRows
    places: Places

    def __call__(self, sample: dict[str, Any]) -> dict[str, Any]:
        features = self.features.row(self.places(sample))
        return {**sample, "pixels": torch.empty((3, 0, 0), dtype=torch.uint8), "image_features": features}


@dataclass(frozen=True)
class ChooseCaption:
    """A map: one of the captions of a sample that was read becomes its `caption`."""

    opened: Opened
    seed: int

    def __call__(self, sample: dict[str, Any]) -> dict[str, Any]:
        fields = sample.get("__captions__", self.opened.captions)
        return {**sample, "caption": choose_caption(captions_of(sample, fields), self.seed, sample["__position__"])}


@dataclass(frozen=True)
class RecallCaption:
    """A map: the features of one of the sample's captions become `text_features`, its number `caption_number`."""

    texts: TextFeatures
    places: Places
    seed: int

    def __call__(self, sample: dict[str, Any]) -> dict[str, Any]:
        number = self.texts.captions.choose(self.places(sample), self.seed, sample["__position__"])
        features = self.texts.rows.row(number)
        return {**sample, "text_features": features, "caption_number": number, "caption": ""}


class Unread:
    """A source of whose samples nothing is read: all that is asked of them is known."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self.shard_sizes = source.shard_sizes
        self.fingerprint = source.fingerprint

    def sample_id(self, shard: int, row: int) -> str:
        return self._source.sample_id(shard, row)

    def read(self, shard: int, row: int) -> dict[str, Any]:
        return {}
