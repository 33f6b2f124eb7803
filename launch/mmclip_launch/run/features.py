"""Frozen towers whose features are computed once: before the first step they see each picture and caption, after it none.

With `image_features` alone the text tower learns over a locked image tower (LiT); with `text_features` too, two heads learn.
"""

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path

import torch
from accelerate import Accelerator

from mmclip.towers.frozen import TowerName
from mmclip.towers.two_tower import TwoTower
from mmclip_data.features.cache import BLOCK_ROWS, FeatureCache, FeatureKey, Features
from mmclip_data.features.caption_table import CaptionTable, caption_table
from mmclip_data.features.encode import CHUNK_SIZE, CHUNKS_AHEAD, Chunk, finite, image_chunks
from mmclip_data.features.encode_once import SourcePictures, fill, missing_blocks
from mmclip_data.features.frozen import FrozenTowers, frozen_towers
from mmclip_data.features.tower_threads import in_order, tower_threads
from mmclip_data.loading.loader import TrainLoader
from mmclip_data.loading.recall import TextFeatures
from mmclip_launch.run.assembled import Run
from mmclip_launch.run.config import RunConfig
from mmclip_launch.run.precision import settled
from mmclip_launch.screen import Screen


def frozen_names(config: RunConfig) -> tuple[TowerName, ...]:
    """The towers whose features a run computes once."""
    folders: dict[TowerName, str | None] = {"image": config.image_features, "text": config.text_features}
    return tuple(tower for tower, folder in folders.items() if folder is not None)


def freeze(config: RunConfig, towers: TwoTower) -> None:
    """Note which parts of the towers stay as they are, before anything of them is copied.

    Raises:
        UserError: more than a head learns in a tower whose features are to be computed once.
    """
    for tower in frozen_names(config):
        towers.freeze(tower)


def encode_once(config: RunConfig, accelerator: Accelerator, run: Run, screen: Screen) -> None:
    """Encode what the caches lack, each rank its share, and let the loader hand on features.

    Raises:
        UserError: features are not finite, or a cache holds others.
        MachineError: the disk has no room.
    """
    if not frozen_names(config):
        return
    loader = run.loader
    assert isinstance(loader, TrainLoader), "streams were refused"
    once = _Pass(frozen_towers(run.step.module.towers, settled(config)), accelerator, screen)
    images = None if config.image_features is None else once.images(loader, Path(config.image_features))
    texts = None if config.text_features is None else once.texts(loader, Path(config.text_features))
    loader.take_features(images, texts)


class _Pass:
    """One pass of all ranks over what a run trains on."""

    def __init__(self, frozen: FrozenTowers, accelerator: Accelerator, screen: Screen) -> None:
        self.frozen = frozen
        self.accelerator = accelerator
        self.screen = screen
        self.threads = tower_threads(accelerator.device)

    def images(self, loader: TrainLoader, folder: Path) -> Features:
        """Features of each picture of the source."""
        towers = self.frozen.towers
        pictures = SourcePictures(loader.source, towers.spec.to_uint8)

        def encode(chunks: Iterable[range]) -> Iterator[Chunk]:
            name = "row {} of the source".format
            raw = not self.frozen.normalises("image")
            return image_chunks(
                pictures, chunks, partial(_embed, self.frozen), name, towers=self.threads, normalise=not raw
            )

        key = self._key("image", loader.source.fingerprint, len(pictures))
        features = self._filled(FeatureCache(folder, key), folder, "pictures", encode)
        if features.bad:
            row, reason = next(iter(features.bad.items()))
            name = loader.source.sample_id(*pictures.place(row))
            self.screen.warn(
                f"{len(features.bad):,} pictures have no features and are replaced, the first {name}: {reason}"
            )
        return features

    def texts(self, loader: TrainLoader, folder: Path) -> TextFeatures:
        """Features of each distinct caption of the source."""
        table = self._table(loader, folder)

        def encode(chunks: Iterable[range]) -> Iterator[Chunk]:
            return in_order(
                (partial(_caption_chunk, self.frozen, table, rows) for rows in chunks), self.threads, CHUNKS_AHEAD
            )

        key = self._key("text", table.fingerprint, len(table))
        if table.bad:
            self.screen.warn(
                f"{len(table.bad):,} samples have no caption and are replaced: {next(iter(table.bad.values()))}"
            )
        return TextFeatures(self._filled(FeatureCache(folder, key), folder, "captions", encode), table)

    def _table(self, loader: TrainLoader, folder: Path) -> CaptionTable:
        towers = self.frozen.towers

        classes = next((written.chosen for written in loader.class_captions), None)

        def made() -> CaptionTable:
            return caption_table(loader.opened, towers.tokenizer, towers.tokenizer.fingerprint, folder, classes)

        table = made() if self.accelerator.is_main_process else None
        self.accelerator.wait_for_everyone()
        return made() if table is None else table

    def _key(self, tower: TowerName, source: str, rows: int) -> FeatureKey:
        return FeatureKey(
            tower=self.frozen.hashes[tower],
            precision=self.frozen.precision,
            spec=self.frozen.towers.spec if tower == "image" else None,
            source=source,
            rows=rows,
            embed_dim=self.frozen.width(tower),
            block_rows=BLOCK_ROWS,
        )

    def _filled(
        self, cache: FeatureCache, folder: Path, what: str, encode: Callable[[Iterable[range]], Iterator[Chunk]]
    ) -> Features:
        rank, ranks, key = self.accelerator.process_index, self.accelerator.num_processes, cache.key
        others = [path for path in folder.glob("*/key.json") if path.parent.name != key.digest]
        mine = missing_blocks(cache, rank, ranks)
        said = f"{len(mine):,} of {cache.blocks:,} blocks of {key.block_rows:,} to encode" if mine else "all there"
        beside = f"; {len(others)} other keys stand beside it" if others and mine else ""
        self.screen.say(f"features of {key.rows:,} {what} in {cache.folder}: {said}{beside}")
        with self.frozen.working():  # here for all threads, not by each for itself
            for _ in self.screen.track(fill(cache, encode, rank=rank, ranks=ranks), len(mine), f"features of {what}"):
                pass
        self.accelerator.wait_for_everyone()
        return cache.features()


def _embed(frozen: FrozenTowers, images: torch.Tensor) -> torch.Tensor:
    return frozen.embed_images(images)


def _caption_chunk(frozen: FrozenTowers, table: CaptionTable, rows: range) -> Chunk:
    """A full chunk: its last caption is repeated."""
    tokens = table.rows(rows)
    filler = tokens[-1:].expand(CHUNK_SIZE - len(tokens), -1)
    features = frozen.embed_prepared(torch.cat([tokens, filler]))[: len(tokens)]
    return Chunk(rows, finite(features, lambda row: f"caption {rows.start + row} of the distinct ones"), {})
