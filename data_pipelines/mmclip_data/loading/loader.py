"""The training loader: a `webdataset.DataPipeline` whose first stage reads what the plan says.

    planned samples (webdataset dicts) -> picture, caption, user's own maps -> ImageTextBatch

Every rank builds the same plan and takes its slice of each batch; every worker takes every w-th batch of its rank. The
stream never ends and is the same for any number of either.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any

import torch
from jaxtyping import Int
from PIL import Image
from pydantic import Field
from torch import Tensor
from torch.utils.data import DataLoader
from webdataset.pipeline import DataPipeline

from mmclip.batch import DataPosition, ImageTextBatch, Replacement
from mmclip.config import config
from mmclip.preprocess import ImageSpec
from mmclip.randomness import Stream, words
from mmclip_data.loading.augment import AugmentConfig, augment
from mmclip_data.loading.captions import captions_of, choose_caption, members_of
from mmclip_data.loading.decode import decode_image
from mmclip_data.loading.plan import Plan, PlanConfig
from mmclip_data.loading.planned import Layout, PlannedSource, Prepare, SampleMap
from mmclip_data.loading.sources import IndexedTarsConfig, Source, SyntheticConfig, picture_of

Tokenize = Callable[[Sequence[str]], Int[Tensor, "batch token"]]


@config
class DataConfig:
    """What a run trains on."""

    source: Annotated[IndexedTarsConfig | SyntheticConfig, Field(discriminator="type")]
    """Where the samples come from."""
    captions: tuple[str, ...] = ("txt",)
    """Members that hold captions: `txt`, or `json:KEY` for one text or a list; a field is drawn, then one of its texts."""
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    """What happens to a training picture."""
    plan: PlanConfig = field(default_factory=PlanConfig)
    """How strongly the order is shuffled."""
    workers: int = 2
    """Loader processes of each rank; 0 loads in the training process."""
    prefetch_batches: int = 2
    """Batches that each worker keeps ready."""
    timeout_seconds: int = 300
    """A worker that hands nothing over for so long is an error, not a hang."""
    max_bad_fraction: float = 0.01
    """Share of bad samples above which the run stops; below, each is replaced, counted and named."""


@dataclass(frozen=True)
class Decode:
    """A map: the picture's bytes become augmented `pixels`, and one of its captions becomes `caption`."""

    spec: ImageSpec
    config: DataConfig
    seed: int

    def __call__(self, sample: dict[str, Any]) -> dict[str, Any]:
        position = sample["__position__"]
        caption = choose_caption(captions_of(sample, self.config.captions), self.seed, position)
        raw = sample.get("pixels")  # the synthetic source has nothing to decode
        image = decode_image(picture_of(sample)) if raw is None else Image.fromarray(raw)
        pixels = augment(image, self.spec, self.config.augment, self.seed, position)
        return {**sample, "pixels": pixels, "caption": caption}


@dataclass(frozen=True)
class Assemble:
    """Last stage: a rank's samples of one step become one `ImageTextBatch`."""

    layout: Layout
    tokenize: Tokenize
    seed: int

    def __call__(self, samples: Iterator[dict[str, Any]]) -> Iterator[ImageTextBatch]:
        while True:
            chosen = [next(samples) for _ in range(self.layout.batch_size)]
            keys = [int(words(self.seed, Stream.SAMPLE_KEY, s["__position__"], 1)[0]) >> 1 for s in chosen]
            yield ImageTextBatch(
                # Decoders write channels last: so stacked, each picture is one copy, and convolutions like it so.
                images=torch.stack([sample["pixels"].permute(1, 2, 0) for sample in chosen]).permute(0, 3, 1, 2),
                tokens=self.tokenize([sample["caption"] for sample in chosen]),
                keys=torch.tensor(keys, dtype=torch.int64),
                ids=tuple(sample["__id__"] for sample in chosen),
                position=DataPosition(chosen[0]["__batch_start__"] + self.layout.global_batch_size),
                replaced=tuple(
                    Replacement(sample["__position__"], *sample["__replaced__"], replaced_by=sample["__id__"])
                    for sample in chosen
                    if "__replaced__" in sample
                ),
            )


class TrainLoader:
    """Endless batches of a run from any position; its whole state is that position.

    `tokenize` turns captions into ids (trimmed where the text tower allows); `maps` are the user's own functions from
    sample to sample, run after decoding (`pixels` uint8 and `caption` are there) and free to raise `BadSampleError`.

    Raises:
        UserError: the source or the layout cannot work.
    """

    def __init__(
        self,
        config: DataConfig,
        spec: ImageSpec,
        tokenize: Tokenize,
        layout: Layout,
        seed: int,
        maps: Sequence[SampleMap] = (),
    ) -> None:
        self.config = config
        self.layout = layout
        self.source: Source = config.source.build(members_of(config.captions))
        self.plan = Plan(config.plan, seed, self.source.shard_sizes)
        self.maps = (Decode(spec, config, seed), *maps)
        self.assemble = Assemble(layout, tokenize, seed)
        self.fingerprint = self.plan.fingerprint(self.source.fingerprint)
        """Names the order of samples: a resumed run must find the same one."""

    @property
    def samples_per_epoch(self) -> int:
        """Samples of the source."""
        return self.plan.samples_per_epoch

    def pipeline(self, start: DataPosition) -> DataPipeline:
        """The stages themselves, for those who add some of their own."""
        planned = PlannedSource(self.source, self.plan, self.layout, start)
        return DataPipeline(planned, Prepare(planned, self.maps), self.assemble)

    def batches(self, start: DataPosition) -> Iterator[ImageTextBatch]:
        """Batches from `start` on, in order, loaded ahead by the workers."""
        pipeline = self.pipeline(start)
        if self.config.workers == 0:
            return iter(pipeline)
        return iter(
            DataLoader(
                pipeline,  # pyright: ignore[reportArgumentType]  # an IterableDataset, which webdataset's types do not say
                batch_size=None,
                num_workers=self.config.workers,
                prefetch_factor=self.config.prefetch_batches,
                pin_memory=torch.cuda.is_available(),
                timeout=self.config.timeout_seconds,
            )
        )
