"""`ClipScorer`: how well picture and caption of each sample fit, as a checkpoint sees them."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from jaxtyping import Float

from mmclip.release import load
from mmclip_data.clip_retrieval.embed import PARTITION_ROWS, encode_rows, weights_of
from mmclip_data.clip_retrieval.pairs import ShardPairs
from mmclip_data.features.cache import BLOCK_ROWS
from mmclip_data.features.model import Towers
from mmclip_data.pipelines.job import Track
from mmclip_data.pipelines.rewrite import Inputs
from mmclip_launch.run.beginning.preflight import check_devices


class ClipScorer:
    """The cosine of the embeddings that `mmclip embed` would write, before they are rounded to half precision."""

    def __init__(
        self,
        checkpoint: str,
        device: str = "cpu",
        features: Path | None = None,
        rows_at_once: int = PARTITION_ROWS,
    ) -> None:
        check_devices(device)
        self.checkpoint = checkpoint
        self.device = device
        self.features = features
        self.rows_at_once = rows_at_once

    def name(self) -> str:
        """Of the weights, and of the arithmetic."""
        return f"{weights_of(self.towers)} {self.towers.precision} {self.towers.model.device.type}"

    @cached_property
    def towers(self) -> Towers:
        """Loaded when the first sample is scored: mistakes in the condition are told before."""
        return Towers(load(self.checkpoint, self.device))

    def __call__(
        self, inputs: Inputs, captions: Sequence[str], track: Track
    ) -> tuple[Float[np.ndarray, " sample"], Mapping[int, str]]:
        """The score of each sample by its first caption, and why some have none."""
        pairs = ShardPairs(inputs, captions)
        scores = np.zeros(len(pairs), dtype=np.float32)
        bad: dict[int, str] = {}
        parts = [
            range(start, min(start + self.rows_at_once, len(pairs)))
            for start in range(0, len(pairs), self.rows_at_once)
        ]
        blocks = sum(-(-len(rows) // BLOCK_ROWS) for rows in parts)
        for _ in track(self._blocks(pairs, parts, scores, bad), blocks, "score"):
            pass
        return scores, bad

    def _blocks(
        self, pairs: ShardPairs, parts: Sequence[range], scores: Float[np.ndarray, " sample"], bad: dict[int, str]
    ) -> Iterator[int]:
        for rows in parts:
            kept = nullcontext(self.features) if self.features else TemporaryDirectory(prefix="mmclip-score-")
            with kept as scratch:
                encoded = yield from encode_rows(pairs, self.towers, rows, Path(scratch))
            bad.update(encoded.bad)
            if encoded.text_embed is not None:
                scores[encoded.kept] = (encoded.image_embed * encoded.text_embed).sum(axis=1)
