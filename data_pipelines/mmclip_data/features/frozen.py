"""Features of the frozen parts of two towers, and evaluation that computes them once and the learning heads each time."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from jaxtyping import Float, UInt8
from torch import Tensor

from mmclip.towers.frozen import HEAD_KEYS, FrozenPart, TowerName
from mmclip.towers.two_tower import TwoTower
from mmclip.training.precision import Precision, autocast
from mmclip_data.features.encode import Progress
from mmclip_data.features.encoder import Encoder, Encoding, FingerprintedSource, Recent
from mmclip_data.features.model import Towers
from mmclip_data.features.ranks import ALONE, Ranks


@dataclass(frozen=True)
class FrozenTowers(Towers):
    """Towers of which `parts` give features in place of embeddings; the others are as they are."""

    parts: Mapping[str, FrozenPart] = field(default_factory=dict)

    @property
    def towers(self) -> TwoTower:
        """The model, which has weights of its own."""
        assert isinstance(self.model, TwoTower), "no other has parts"
        return self.model

    def embed_images(self, images: UInt8[Tensor, "batch 3 height width_px"]) -> Float[Tensor, "batch feature"]:
        if "image" not in self.parts:
            return super().embed_images(images)
        with autocast(self.precision, self.model.device):
            return self.towers.image_features(images)

    def embed_prepared(self, prepared: Any) -> Float[Tensor, "batch feature"]:
        if "text" not in self.parts:
            return super().embed_prepared(prepared)
        with autocast(self.precision, self.model.device):
            return self.towers.text_features(prepared)

    def owns(self, tower: str, name: str) -> bool:
        return self.parts[tower].owns(name) if self._has_head(tower) else super().owns(tower, name)

    def table(self, tower: str) -> list[Any]:
        if not self._has_head(tower):
            return super().table(tower)
        table = self.towers.model_cfg["vision_cfg" if tower == "image" else "text_cfg"]
        return ["before its head", tower, {name: value for name, value in table.items() if name not in HEAD_KEYS}]

    def width(self, tower: str) -> int:
        return self.parts[tower].width if tower in self.parts else super().width(tower)

    def normalises(self, tower: str) -> bool:
        return not self._has_head(tower)

    def _has_head(self, tower: str) -> bool:
        return tower in self.parts and self.parts[tower].head is not None


def frozen_towers(towers: TwoTower, precision: Precision = "fp32") -> FrozenTowers:
    """Towers by the parts that were frozen in them (`TwoTower.freeze`)."""
    return FrozenTowers(towers, precision, parts={**towers.frozen_parts})


class HeadEncoder(Encoder):
    """An encoder that lives as long as a run: features of frozen parts are remembered, heads follow as they are by then."""

    def __init__(self, frozen: FrozenTowers, ranks: Ranks = ALONE) -> None:
        super().__init__(frozen, ranks=ranks)
        self.frozen = frozen

    def begin(self) -> None:
        """Forget what has learned since."""
        for tower in ("image", "text"):
            if tower not in self.frozen.parts:
                self._forget(tower)

    def _forget(self, tower: str) -> None:
        if tower == "image":
            self._images = Recent(None)
        else:
            self._texts = Recent(None)

    def images(
        self,
        source: FingerprintedSource,
        place: Mapping[str, Any],
        progress: Progress | None = None,
        refuse: Callable[[Mapping[int, str]], None] | None = None,
    ) -> Encoding:
        encoding = super().images(source, place, progress, refuse)
        embed = self._behind("image", encoding.embed)
        if encoding.bad:
            embed[list(encoding.bad)] = 0  # a head may have a bias
        return replace(encoding, embed=embed)

    def texts(self, texts: Sequence[str]) -> Float[Tensor, "text embed"]:
        return self._behind("text", super().texts(texts))

    def _behind(self, tower: TowerName, features: Float[Tensor, "row feature"]) -> Float[Tensor, "row embed"]:
        part = self.frozen.parts.get(tower)
        if part is None or part.head is None:
            return features
        return self.frozen.towers.embed_features(tower, features).clone()
