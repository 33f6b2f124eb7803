"""The loader that a run file asks for."""

from collections.abc import Iterator, Sequence
from typing import Protocol, runtime_checkable

from mmclip.batch import DataPosition, ImageTextBatch
from mmclip.preprocess import ImageSpec
from mmclip_data.loading.assemble import Tokenize
from mmclip_data.loading.chosen import ChosenSamples
from mmclip_data.loading.loader import DataConfig, TrainLoader
from mmclip_data.loading.planned import Layout, SampleMap
from mmclip_data.loading.stream_loader import StreamLoader
from mmclip_data.loading.streaming import StreamingConfig
from mmclip_data.loading.watchdog import Say


@runtime_checkable
class Loader(Protocol):
    """What a run needs of its data."""

    @property
    def samples_per_epoch(self) -> int:
        """What `length.epochs` counts."""
        ...

    def fingerprint_at(self, samples_consumed: int) -> str:
        """Names the order up to a position: what a run that resumes there must find."""
        ...

    def describe(self, total_samples: int) -> list[str]:
        """What a run of so many samples reads, in words."""
        ...

    def take_size(self, spec: ImageSpec) -> None:
        """Make pictures as `spec` says, in batches that are asked for from now on."""
        ...

    def batches(self, start: DataPosition) -> Iterator[ImageTextBatch]:
        """Batches from `start` on."""
        ...

    def summary(self) -> list[dict[str, object]]:
        """What was read of each shard, where that is not known beforehand."""
        ...


def build_loader(
    config: DataConfig,
    spec: ImageSpec,
    tokenize: Tokenize,
    layout: Layout,
    seed: int,
    maps: Sequence[SampleMap] = (),
    say: Say = print,
    chosen: ChosenSamples | None = None,
) -> Loader:
    """Open the data, of which only what is `chosen` is learnt from.

    Raises:
        UserError: it cannot be used.
    """
    if isinstance(config.source, StreamingConfig):
        return StreamLoader(config, spec, tokenize, layout, seed, maps, say)
    return TrainLoader(config, spec, tokenize, layout, seed, maps, say, chosen)
