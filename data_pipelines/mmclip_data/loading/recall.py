"""Captions with features that were computed before the run: in place of pixels, which are neither read nor decoded."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray

from mmclip_data.loading.captions import captions_of, choose_caption


@runtime_checkable
class FeatureRows(Protocol):
    """Features of all samples of a source, in its order."""

    def row(self, number: int) -> Float[np.ndarray, " embed"]:
        """The L2-normalised features of one sample.

        Raises:
            BadSampleError: its picture could not be encoded.
        """
        ...


@dataclass(frozen=True)
class Recall:
    """A map: the sample's features become `image_features`, one of its captions `caption`; its pixels are none."""

    features: FeatureRows
    first_rows: NDArray[np.int64]
    """Of each shard, the place of its first sample in the source."""
    captions: Sequence[str]
    seed: int

    def __call__(self, sample: dict[str, Any]) -> dict[str, Any]:
        shard, row = sample["__place__"]
        features = self.features.row(int(self.first_rows[shard]) + row)
        fields = sample.get("__captions__", self.captions)
        caption = choose_caption(captions_of(sample, fields), self.seed, sample["__position__"])
        no_pixels = torch.empty((3, 0, 0), dtype=torch.uint8)
        return {**sample, "pixels": no_pixels, "image_features": features, "caption": caption}
