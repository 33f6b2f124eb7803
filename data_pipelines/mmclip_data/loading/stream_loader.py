"""The training loader over streams: what `TrainLoader` is, with less promised."""

from collections.abc import Iterator, Sequence
from contextlib import closing
from itertools import islice

import torch
from webdataset.pipeline import DataPipeline

from mmclip.batch import DataPosition, ImageTextBatch
from mmclip.errors import BadSampleError, UserError
from mmclip.preprocess import ImageSpec
from mmclip_data.loading.assemble import Assemble, Tokenize, no_tokens
from mmclip_data.loading.caption_fields import fields_of_sample
from mmclip_data.loading.captions import captions_of
from mmclip_data.loading.decode import decode_image
from mmclip_data.loading.loader import DataConfig, Decode, loader_views
from mmclip_data.loading.planned import Layout, SampleMap
from mmclip_data.loading.processes import Ahead, Ring, Watch, batches_from_processes
from mmclip_data.loading.slots import Shape, Slots, SlotSource
from mmclip_data.loading.sources import picture_of
from mmclip_data.loading.streaming import StreamedSource, StreamingConfig, StreamPrepare, samples_of
from mmclip_data.loading.streams import STDIN
from mmclip_data.loading.watchdog import Say, Whereabouts
from mmclip_data.shards.headers import TarDamage

SAMPLES_LOOKED_AT = 16


class StreamLoader:
    """Endless batches from the front of the streams.

    Raises:
        UserError: the streams cannot be shared among the ranks, or none of the first samples has a caption.
    """

    def __init__(
        self,
        config: DataConfig,
        spec: ImageSpec,
        tokenize: Tokenize,
        layout: Layout,
        seed: int,
        maps: Sequence[SampleMap] = (),
        say: Say = print,
    ) -> None:
        assert isinstance(config.source, StreamingConfig), "other sources have a plan"
        self.config = config
        self.source = config.source
        self.layout = layout
        self.tokenize = no_tokens if config.image_only else tokenize
        self.seed = seed
        self.say = say
        self.streamed = StreamedSource(self.source, layout, DataPosition(0), seed, config.workers)
        fields = config.caption_fields
        self.captions = stream_captions(self.source) if fields is None else fields
        self.own_maps = tuple(maps)
        self.take_size(spec)

    def take_size(self, spec: ImageSpec) -> None:
        """Make pictures as `spec` says, in batches that are asked for from now on."""
        self.views = loader_views(spec, self.config)
        self.maps = (Decode(spec, self.captions, self.seed, self.views), *self.own_maps)

    @property
    def samples_per_epoch(self) -> int:
        """As many as the run file says."""
        return self.source.samples

    def fingerprint_at(self, samples_consumed: int) -> str:
        """Names the streams; what is in them nobody knows."""
        return self.source.fingerprint

    def describe(self, total_samples: int) -> list[str]:
        """What is not promised."""
        resume = (
            "--resume is refused"
            if self.source.on_resume == "refuse"
            else "--resume starts at the front of the streams, in another order"
        )
        workers = self.streamed.workers
        fewer = (
            f"; {workers} loader processes a rank, for more would have no shard"
            if workers < self.config.workers
            else ""
        )
        captions = f"captions from {', '.join(self.captions)}" if self.captions else "no captions"
        return [
            f"streaming {len(self.streamed.names)} shards, {captions}: the order depends on the "
            f"number of ranks and workers, an epoch is {self.source.samples:,} samples as the run file says, whatever comes, "
            f"and {resume}{fewer}; indexed shards (type tars) promise more"
        ]

    def batches(self, start: DataPosition) -> Iterator[ImageTextBatch]:
        """Batches from the front of the streams, counted from `start` on.

        Raises:
            UserError: `start` is not the start of the run, and `on_resume` refuses that.
        """
        refuse_resume(self.source, start.samples_consumed)
        streamed = StreamedSource(self.source, self.layout, start, self.seed, self.config.workers)
        streamed.counts = self.streamed.counts
        workers, ahead = streamed.workers, self.config.prefetch_batches
        if not workers:
            return iter(self._pipeline(streamed, Slots(self._shapes(), ahead + 2, pinned=torch.cuda.is_available())))
        ring = Ring(workers, ahead, self._shapes())
        streamed.watch = whereabouts = Whereabouts(workers)
        names = streamed.counts.names
        watch = Watch(self.layout.rank, self.config.timeout_seconds, whereabouts, names.__getitem__, self.say)
        return batches_from_processes(self._pipeline(streamed, ring), ring, Ahead(workers, ahead), watch)

    def summary(self) -> list[dict[str, object]]:
        """For each shard that this rank has read: how often, how many samples came, and damages."""
        return self.streamed.counts.rows()

    def _pipeline(self, streamed: StreamedSource, slots: SlotSource) -> DataPipeline:
        assemble = Assemble(self.layout, self.tokenize, self.seed, slots)
        return DataPipeline(streamed, StreamPrepare(streamed, self.maps), assemble)

    def _shapes(self) -> list[Shape]:
        return [(self.layout.batch_size, *view.size, 3) for view in self.views]


def refuse_resume(config: StreamingConfig, samples_consumed: int) -> None:
    """Refuse to go on in the middle, where a stream cannot.

    Raises:
        UserError: naming the setting that starts it anew.
    """
    if samples_consumed and config.on_resume == "refuse":
        raise UserError(
            "--resume: a stream has no place to go on from, so the run would see the front of it again: accept that by "
            'data.source.on_resume = "restart", or index the shards and use type = "tars", which resumes exactly'
        )


def stream_captions(config: StreamingConfig) -> tuple[str, ...]:
    """Where the first sample of the first stream has its caption."""
    names = config.names()
    if STDIN in names:
        return ("txt",)  # what is read from it is gone
    try:
        with closing(samples_of(names[0])) as samples:
            return fields_of_sample(next(samples, {}))
    except TarDamage as damage:
        raise UserError(f"shard {names[0]}: {damage}") from damage


def refuse_unusable_stream(config: StreamingConfig, captions: Sequence[str] | None, world_size: int) -> None:
    """Name every stream, and read, decode and caption the first samples of the first; empty `captions`: there are none.

    Raises:
        UserError: there are fewer than ranks, the first is no tar, or none of its first samples can be used.
    """
    names = StreamedSource(config, Layout(world_size, 0, world_size), DataPosition(0), 0).names
    if STDIN in names:
        return
    fields = stream_captions(config) if captions is None else captions
    reasons: list[str] = []
    try:
        with closing(samples_of(names[0])) as samples:
            for sample in islice(samples, SAMPLES_LOOKED_AT):
                try:
                    if fields:
                        captions_of(sample, fields)
                    decode_image(picture_of(sample))
                except BadSampleError as error:
                    members = ", ".join(name for name in sample if not name.startswith("__"))
                    reasons.append(f"{sample['__key__']}: {error} (members: {members})")
                else:
                    return
    except TarDamage as damage:
        raise UserError(f"shard {names[0]}: {damage}") from damage
    raise UserError(
        f"data: none of the first {len(reasons)} samples of {names[0]} can be used"
        + (f", the first being {reasons[0]}" if reasons else ": there is none")
        + ("; name the right member in data.captions" if fields else "")
    )
