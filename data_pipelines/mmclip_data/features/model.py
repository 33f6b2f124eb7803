"""What the encode pass asks of a model, and what it takes to know one model's features from another's."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from typing import Any, Protocol, runtime_checkable

import torch
import xxhash
from jaxtyping import Float, UInt8
from torch import Tensor

from mmclip.preprocess import ImageSpec
from mmclip.towers.embedding import evaluating
from mmclip.towers.two_tower import TwoTower
from mmclip.training.precision import Precision, autocast
from mmclip_data.features.cache import FeatureKey, state_hash
from mmclip_data.features.encode import CHUNK_SIZE
from mmclip_data.features.tower_threads import tower_threads

DECODERS = ("pillow", "simplejpeg")
NO_TOWER = ("logit_scale", "logit_bias")
"""Entries of a model's weights that no embedding depends on."""


@runtime_checkable
class ZeroShotModel(Protocol):
    """What an evaluation may ask of a model: two callables, and the preprocessing that belongs to them."""

    @property
    def spec(self) -> ImageSpec: ...

    @property
    def device(self) -> torch.device: ...

    def embed_uint8(self, images: UInt8[Tensor, "batch 3 height width_px"]) -> Float[Tensor, "batch embed"]: ...

    def embed_texts(self, texts: Sequence[str]) -> Float[Tensor, "batch embed"]: ...


@dataclass(frozen=True)
class Towers:
    """A model at a precision, in chunks of one size."""

    model: ZeroShotModel
    precision: Precision = "fp32"
    chunk_size: int = CHUNK_SIZE

    def embed_images(self, images: UInt8[Tensor, "batch 3 height width_px"]) -> Float[Tensor, "batch embed"]:
        """Embeddings on the CPU, of pixels before normalisation."""
        with autocast(self.precision, self.model.device):
            return self.model.embed_uint8(images)

    def prepare(self, texts: Sequence[str]) -> Any:
        """Tokens where the model has them: a tokenizer works in one thread, its tower may in several."""
        return self.model.tokenizer(texts) if isinstance(self.model, TwoTower) else list(texts)

    def embed_prepared(self, prepared: Any) -> Float[Tensor, "batch embed"]:
        """Embeddings on the CPU of what `prepare` made."""
        with autocast(self.precision, self.model.device):
            if isinstance(self.model, TwoTower):
                return self.model.embed_tokens(prepared)
            return self.model.embed_texts(prepared)

    def threads(self, batch_size: int | None) -> int:
        """Chunks that are encoded at once, so that about `batch_size` rows are: only towers of ours are known to bear it."""
        together = None if batch_size is None else max(1, batch_size // self.chunk_size)
        model = self.model
        return tower_threads(model.device, together) if isinstance(model, TwoTower) and not model.is_compiled else 1

    @contextmanager
    def working(self) -> Iterator[None]:
        """Evaluation mode for all threads of a pass."""
        with evaluating(self.model) if isinstance(self.model, TwoTower) else nullcontext():
            yield

    def image_key(self, source: str, rows: int) -> FeatureKey | None:
        """What the features of pictures are of; None for models whose weights are not known, which are never kept."""
        return self._key("image", self.model.spec, source, rows, DECODERS)

    def text_key(self, texts: Sequence[str]) -> FeatureKey | None:
        """As `image_key`, of texts in their order: their tokens are what counts, whoever made them."""
        if not isinstance(self.model, TwoTower):
            return None
        tokens = self.prepare(texts)
        source = xxhash.xxh3_128_hexdigest(tokens.numpy().tobytes(), seed=tokens.shape[1])
        return self._key("text", None, source, len(texts), ())

    def width(self, tower: str) -> int:
        """Of the embeddings of towers of ours."""
        assert isinstance(self.model, TwoTower), "others tell it by their first embedding"
        return int(self.model.model_cfg["embed_dim"])

    def normalises(self, tower: str) -> bool:
        """Whether what comes out has length 1."""
        return True

    @cached_property
    def hashes(self) -> dict[str, str]:
        """Of the weights and the architecture of each tower, by `image` and `text`; equal for equal weights anywhere."""
        if not isinstance(self.model, TwoTower):
            return {}
        state = self.model.backbone.state_dict()
        return {
            tower: state_hash(
                {name: tensor for name, tensor in state.items() if self.owns(tower, name)},
                json.dumps(self.table(tower), sort_keys=True),
            )
            for tower in ("image", "text")
        }

    def owns(self, tower: str, name: str) -> bool:
        """Whether a weight of this name decides what a tower makes."""
        return name not in NO_TOWER and name.startswith("visual.") == (tower == "image")

    def table(self, tower: str) -> list[Any]:
        """What of the architecture does, in plain values."""
        assert isinstance(self.model, TwoTower), "of others nothing is known"
        table = self.model.model_cfg
        shared = {name: value for name, value in table.items() if name not in ("vision_cfg", "text_cfg")}
        return [tower, shared, table["vision_cfg" if tower == "image" else "text_cfg"]]

    def _key(
        self, tower: str, spec: ImageSpec | None, source: str, rows: int, packages: Sequence[str]
    ) -> FeatureKey | None:
        if not isinstance(self.model, TwoTower):
            return None
        return FeatureKey(
            tower=self.hashes[tower],
            precision=self.precision,
            spec=spec,
            source=source,
            rows=rows,
            embed_dim=self.width(tower),
            block_rows=self.chunk_size,
            made_with=(
                tower,
                f"torch {torch.__version__}",
                kind_of(self.model.device),
                *(f"{name} {version(name)}" for name in packages),
            ),
        )


def kind_of(device: torch.device) -> str:
    """What may compute other last digits than another: the kind of a device, not its number."""
    if device.type == "cuda":
        return f"cuda {torch.cuda.get_device_name(device)}"
    return f"cpu {torch.backends.cpu.get_cpu_capability()}" if device.type == "cpu" else device.type
