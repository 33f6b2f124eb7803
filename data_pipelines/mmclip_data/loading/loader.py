"""The training loader: a `webdataset.DataPipeline` whose first stage reads what the plan says.

    planned samples (webdataset dicts) -> picture, caption, user's own maps -> a row of an ImageTextBatch

Every rank builds the same plan and takes its slice of each batch; every worker takes every w-th batch of its rank. The
stream never ends and is the same for any number of either.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import numpy as np
import torch
from PIL import Image
from pydantic import Field
from webdataset.pipeline import DataPipeline

from mmclip.batch import DataPosition, ImageTextBatch
from mmclip.config import config
from mmclip.errors import UserError
from mmclip.preprocess import ImageSpec
from mmclip_data.loading.assemble import Assemble, Filler, Tokenize, no_tokens
from mmclip_data.loading.augment import AugmentConfig, View, ViewConfig, crop_alone, fill_view, views_of
from mmclip_data.loading.captions import captions_of, choose_caption
from mmclip_data.loading.chosen import ChosenSamples, ClassCaption
from mmclip_data.loading.datasets_source import DatasetsConfig
from mmclip_data.loading.decode import PillowPicture, open_picture
from mmclip_data.loading.describe import describe
from mmclip_data.loading.held_out import HeldOutConfig
from mmclip_data.loading.labels import LabelsConfig
from mmclip_data.loading.mixture import MixtureConfig, order_of
from mmclip_data.loading.opening import SourceConfig, open_source
from mmclip_data.loading.plan import PlanConfig
from mmclip_data.loading.planned import Layout, PlannedSource, Prepare, SampleMap
from mmclip_data.loading.processes import Ahead, Ring, Watch, batches_from_processes
from mmclip_data.loading.recall import (
    ChooseCaption,
    FeatureRows,
    Places,
    RecallCaption,
    RecallPicture,
    TextFeatures,
    Unread,
)
from mmclip_data.loading.scratch import of_thread
from mmclip_data.loading.slots import Shape, Slots, SlotSource
from mmclip_data.loading.sources import LeavesPictures, picture_of
from mmclip_data.loading.threads import ThreadedBatches
from mmclip_data.loading.watchdog import Say, Whereabouts, restarting


@config
class DataConfig:
    """What a run trains on."""

    source: Annotated[SourceConfig, Field(discriminator="type")]
    """Where the samples come from."""
    captions: tuple[str, ...] | None = None
    """Members that hold captions: `txt`, `txt:lines`, or `json:KEY` for one text or a list; a field is drawn, then one of its
    texts. By default `txt`, `text` or `caption`, else a key of `json` of such a name; which one is said at the start."""
    image_only: bool = False
    """Learn from pictures alone: samples need no caption, and no caption is read where there is one."""
    labels: LabelsConfig = field(default_factory=LabelsConfig)
    """Learn from classes: what is written for its class is a sample's caption, and samples of a class are no negatives."""
    held_out: HeldOutConfig = field(default_factory=HeldOutConfig)
    """A share that is not learnt from; it becomes the evaluation set `dev`."""
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    """What happens to a training picture."""
    views: tuple[ViewConfig, ...] = ()
    """Further views of each picture, beside those that objectives need; with the `name` of such, how these are drawn."""
    augment_on: Literal["loader", "device"] = "loader"
    """Where flips, colours, blur and solarising happen: in the loader, sample by sample, or on the model's device, batch by
    batch, with draws of their own. The crop is always the loader's."""
    plan: PlanConfig = field(default_factory=PlanConfig)
    """How strongly the order is shuffled."""
    loader: Literal["threads", "processes"] = "processes"
    """Threads share the samples of each batch; processes take a batch each, and suit maps that are heavy on Python."""
    workers: int = 2
    """Loader threads or processes of each rank; 0 loads in the training process, when a batch is asked for."""
    prefetch_batches: int = 2
    """Batches kept ready: by each process, or by all threads together."""
    timeout_seconds: int = 300
    """When workers hand nothing over for so long, the run ends and names what each is at; 0 waits for ever."""
    restarts: int = 3
    """How often the loader processes of a rank are started again when one was killed; the samples stay the same."""
    max_bad_fraction: float = 0.01
    """Share of bad samples above which the run stops; below, each is replaced, counted and named. Ten are always allowed,
    but for a share of 0."""

    @property
    def caption_fields(self) -> tuple[str, ...] | None:
        """Where captions are; None where they are still to be found, empty where none of a sample's own is wanted.

        A run that learns from classes has read every label before, and writes captions for them.
        """
        return () if self.image_only or self.labels.place is not None else self.captions

    def __post_init__(self) -> None:
        lowest = {"workers": 0, "prefetch_batches": 1, "timeout_seconds": 0, "restarts": 0}
        for name, least in lowest.items():
            if getattr(self, name) < least:
                raise UserError(f"data.{name}={getattr(self, name)}: expected {least} or more")
        if not 0 <= self.max_bad_fraction <= 1:
            raise UserError(f"data.max_bad_fraction={self.max_bad_fraction}: expected a fraction from 0 to 1")
        if self.captions is not None and not self.captions:
            raise UserError(
                "data.captions is empty: expected at least one member, such as txt or json:caption; to learn from pictures "
                "alone set data.image_only = true"
            )
        if self.image_only:
            _refuse_text_beside(self)


def _refuse_text_beside(data: DataConfig) -> None:
    source = data.source
    parts = source.sources if isinstance(source, MixtureConfig) else ()
    datasets = [part for part in (source, *(part.source for part in parts)) if isinstance(part, DatasetsConfig)]
    reasons = {
        "data.captions": data.captions is not None,
        "data.labels.place": data.labels.place is not None,
        "data.source.sources.captions": any(part.captions for part in parts),
        "data.source.caption_columns": any(part.caption_columns for part in datasets),
    }
    refused = [name for name, applies in reasons.items() if applies]
    if refused:
        raise UserError(
            f"data.image_only = true reads no caption, and {', '.join(refused)} says what captions are: remove one of the two"
        )


@dataclass(frozen=True)
class Decode:
    """A map: the picture's bytes become augmented `pixels` (and further `views`), one of its captions `caption`.

    Without any caption fields nothing is sought, and the caption is empty.
    """

    spec: ImageSpec
    captions: Sequence[str]
    seed: int
    views: tuple[View, ...]

    def __call__(self, sample: dict[str, Any]) -> dict[str, Any]:
        position, fields = sample["__position__"], sample.get("__captions__", self.captions)
        caption = choose_caption(captions_of(sample, fields), self.seed, position) if fields else ""
        raw = sample.get("pixels")  # the synthetic source has nothing to decode
        picture = open_picture(picture_of(sample), of_thread()) if raw is None else PillowPicture(Image.fromarray(raw))
        given = sample.get("__out__")
        arrays = given or [np.empty((*view.size, 3), dtype=np.uint8) for view in self.views]
        for view, array in zip(self.views, arrays, strict=True):
            fill_view(array, picture, self.spec, view, self.seed, position)
        pixels, *further = made = tuple(torch.from_numpy(array).permute(2, 0, 1) for array in arrays)
        prepared = {**sample, "pixels": pixels, "caption": caption}
        if further:
            prepared["views"] = tuple(further)
        if given:
            prepared["__made__"] = made
        return prepared


def loader_views(spec: ImageSpec, config: DataConfig) -> tuple[View, ...]:
    """The views that the loader makes; those that a device finishes are only cropped."""
    views = views_of(spec, config.augment, config.views)
    return tuple(views if config.augment_on == "loader" else map(crop_alone, views))


class TrainLoader:
    """Endless batches of a run from any position; its whole state is that position.

    `tokenize` turns captions into ids (trimmed where the text tower allows); `maps` are the user's own functions from
    sample to sample, run after decoding (`pixels` uint8 and `caption` are there) and free to raise `BadSampleError`.
    With threads they run in several at once.

    The pixels of a batch lie in memory that is used again once nothing refers to them.

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
        say: Say = print,
        chosen: ChosenSamples | None = None,
    ) -> None:
        self.say = say
        self.config = config
        self.layout = layout
        self.tokenize = no_tokens if config.image_only else tokenize
        self.seed = seed
        self.opened = open_source(config.source, config.caption_fields, chosen)
        self.class_captions = (ClassCaption(chosen, seed),) if chosen is not None and chosen.texts else ()
        self.source = self.opened.source
        self.plan = order_of(self.source, config.plan, seed)
        self.own_maps = tuple(maps)
        self._images: FeatureRows | None = None
        self._texts: TextFeatures | None = None
        self.take_size(spec)
        self.fingerprint = self.plan.fingerprint(self.source.fingerprint)
        """Names the order of samples: a resumed run must find the same one."""

    def take_size(self, spec: ImageSpec) -> None:
        """Make pictures as `spec` says in batches that are asked for from now on; the samples and their draws stay."""
        self.spec = spec
        no_pixels = (View(0, (0, 0), self.config.augment),)
        self.views = loader_views(spec, self.config) if self._images is None else no_pixels
        self.maps = (*self._prepared_by(), *self.class_captions, *self.own_maps)

    def take_features(self, images: FeatureRows | None = None, texts: TextFeatures | None = None) -> None:
        """Hand on features from now on, in place of pixels and of tokens; nothing is read of what they stand for.

        `images` has a row for each sample of the source, `texts` one for each distinct caption.

        Raises:
            UserError: there are further views, or maps of the user's, which are about pixels.
        """
        if images is not None and (self.config.views or self.own_maps):
            raise UserError(
                "data.views and maps need pixels, of which a batch of computed features has none: remove them"
            )
        self._images, self._texts = images, texts
        if images is not None and isinstance(self.source, LeavesPictures):
            self.source.leave_pictures()
        self.take_size(self.spec)

    @property
    def reads_nothing(self) -> bool:
        """Whether all that a batch holds was computed before the run."""
        return self._images is not None and self._texts is not None

    def _prepared_by(self) -> Iterator[SampleMap]:
        """Picture, then caption, each decoded and chosen now or recalled."""
        places = Places.of(self.source)
        if self._images is None:
            yield Decode(self.spec, self.opened.captions, self.seed, self.views)
        else:
            yield RecallPicture(self._images, places)
        if self._texts is not None:
            yield RecallCaption(self._texts, places, self.seed)
        elif self._images is not None and not self.class_captions:
            yield ChooseCaption(self.opened, self.seed)

    @property
    def samples_per_epoch(self) -> int:
        """Samples of the source."""
        return self.plan.samples_per_epoch

    def fingerprint_at(self, samples_consumed: int) -> str:
        """Names the order up to a position: what a run that resumes there must find."""
        return self.plan.fingerprint(self.source.fingerprint, samples_consumed)

    def describe(self, total_samples: int) -> list[str]:
        """What a run of so many samples reads, in words."""
        return describe(self.opened, self.plan, total_samples)

    def pipeline(self, start: DataPosition) -> DataPipeline:
        """The stages themselves, for those who add some of their own; their samples own their pixels."""
        prepare = self._prepare(start)
        return DataPipeline(prepare.planned, prepare, self._assemble(Slots(self._shapes(), 2)))

    def summary(self) -> list[dict[str, object]]:
        """Nothing: the plan has said what comes."""
        return []

    def batches(self, start: DataPosition) -> Iterator[ImageTextBatch]:
        """Batches from `start` on, in order, loaded ahead by the workers."""
        if self.reads_nothing:  # a worker would take longer to hand a batch over than to make it
            return iter(Filler(self._prepare(start), self._assemble(Slots(self._shapes(), 2))))
        workers, ahead, timeout = self.config.workers, self.config.prefetch_batches, self.config.timeout_seconds
        if workers and self.config.loader == "processes":
            return restarting(self._from_processes, start, self.config.restarts, self.layout.rank, self.say)
        slots = Slots(self._shapes(), ahead + 2, pinned=torch.cuda.is_available())
        filler = Filler(self._prepare(start), self._assemble(slots))
        return ThreadedBatches(filler, start, workers, ahead, timeout, self.say) if workers else iter(filler)

    def _from_processes(self, start: DataPosition) -> Iterator[ImageTextBatch]:
        ahead = Ahead(self.config.workers, self.config.prefetch_batches)
        ring, prepare = Ring(*ahead, self._shapes()), self._prepare(start)
        prepare.planned.watch = whereabouts = Whereabouts(ahead.workers)
        watch = Watch(self.layout.rank, self.config.timeout_seconds, whereabouts, prepare.planned.name, self.say)
        return batches_from_processes(Filler(prepare, self._assemble(ring)), ring, ahead, watch)

    def _prepare(self, start: DataPosition) -> Prepare:
        source = Unread(self.source) if self.reads_nothing else self.source
        return Prepare(PlannedSource(source, self.plan, self.layout, start), self.maps)

    def _assemble(self, slots: SlotSource) -> Assemble:
        return Assemble(self.layout, self.tokenize, self.seed, slots)

    def _shapes(self) -> list[Shape]:
        return [(self.layout.batch_size, *view.size, 3) for view in self.views]
