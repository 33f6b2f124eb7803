"""What every kind of image tower gives: pooled features, the features of patches, and the projection into the joint space."""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from jaxtyping import Float, Int
from torch import Tensor

from mmclip.towers.patches import Grid
from mmclip.towers.trunk import Work


@dataclass(frozen=True)
class ImageFeatures:
    """Before the projection; not normalised."""

    pooled: Float[Tensor, "batch width"]
    tokens: Float[Tensor, "batch patch width"] | None = None
    """Of the patches alone, after the tower's last norm, where they were asked for."""


@runtime_checkable
class ImageEncoder(Protocol):
    """Runs one kind of image tower."""

    @property
    def why_whole_last_block(self) -> str | None:
        """Why the last block computes all patches; None where the pooled token is enough."""
        ...

    @property
    def why_all_patches(self) -> str | None:
        """Why no patch can be left out; None where the tower runs on those that are kept."""
        ...

    @property
    def why_no_tokens(self) -> str | None:
        """Why there are no features of single patches; None where there are."""
        ...

    @property
    def why_one_size(self) -> str | None:
        """Why pictures of another size are refused; None where positions are interpolated, or there are none."""
        ...

    @property
    def grid(self) -> Grid:
        """Rows and columns of patches."""
        ...

    @property
    def patch_size(self) -> Grid:
        """Height and width of a patch in pixels."""
        ...

    @property
    def pooled_width(self) -> int:
        """Dimensions of what is pooled."""
        ...

    def features(
        self, pixels: Float[Tensor, "batch 3 height width_px"], work: Work, tokens: bool = False
    ) -> ImageFeatures:
        """Of normalised pixels."""
        ...

    def features_of_patches(
        self,
        patches: Float[Tensor, "batch kept 3 _ _"],
        kept: Int[Tensor, "batch kept"],
        work: Work,
        tokens: bool = False,
    ) -> ImageFeatures:
        """Of pictures of which only some patches, numbered row by row, are there."""
        ...

    def project(self, pooled: Float[Tensor, "batch width"]) -> Float[Tensor, "batch embed"]:
        """From what is pooled to embeddings, not normalised."""
        ...

    def encode(self, pixels: Float[Tensor, "batch 3 height width_px"], work: Work) -> Float[Tensor, "batch embed"]:
        """Embeddings, not normalised."""
        ...
