"""An evaluation set: which samples, which tasks, and what the tasks need to know of each sample."""

from dataclasses import dataclass
from pathlib import Path

from mmclip.config import config
from mmclip.errors import UserError
from mmclip_data.shards.expand import expand_shards
from mmclip_eval.captioned import Captioned, read_captioned
from mmclip_eval.clip_benchmark_layout import is_clip_benchmark_folder, read_clip_benchmark_folder
from mmclip_eval.fields import parse_field
from mmclip_eval.groups import Groups, read_groups
from mmclip_eval.labelled import Labelled, read_labelled
from mmclip_eval.prompts.packaged import ENGLISH
from mmclip_eval.sharded_samples import ShardedSamples
from mmclip_eval.tasks import Task


@config
class EvalDatasetConfig:
    """One evaluation set."""

    name: str
    """Stands in results and file names; unique within a suite."""
    path: str
    """A folder in CLIP_benchmark's layout, or shards: a folder, a pattern, `embedded:emoji/...`."""
    split: str = "test"
    """Which split of a CLIP_benchmark folder; other shards have no splits."""
    tasks: tuple[Task, ...] = ()
    """What to measure, all from one pass over the pictures; empty: as the folder says, else labels before captions."""
    label: str = "cls"
    """Where the class of a sample stands: `cls` (index or name) or `json:FIELD`."""
    captions: tuple[str, ...] = ()
    """Where captions stand: `txt`, `txt:lines`, `json:FIELD`; empty: `txt`, by line in a CLIP_benchmark folder."""
    class_names: str | tuple[str | tuple[str, ...], ...] | None = None
    """A packaged list, a file, or the names (several of one class as a list); None: the folder's own, else the labels."""
    templates: str | tuple[str, ...] | None = None
    """A packaged prompt set, a file, or the templates ({c} is the class name); None: the folder's own file."""
    language: str = "en"
    """Of class names and templates: packaged ones are taken in it."""
    group: str | None = None
    """Where a sample's category stands, such as `json:category`: coarser than its class, for the report alone."""


@dataclass(frozen=True)
class EvalDataset:
    """A set that was opened and checked; the parts that its tasks do not need are None."""

    config: EvalDatasetConfig
    samples: ShardedSamples
    tasks: tuple[Task, ...]
    labelled: Labelled | None
    captioned: Captioned | None
    groups: Groups | None = None

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader of the figures should know, such as classes without a sample."""
        several = self.samples.several_pictures
        notes = (f"samples with several pictures, of which one was taken: {several}",) if several else ()
        parts = [part.notes for part in (self.labelled, self.captioned) if part is not None]
        return sum(parts, notes)


def open_dataset(settings: EvalDatasetConfig) -> EvalDataset:
    """Index the shards, read every label and caption, and check all of them before anything is encoded.

    Raises:
        UserError: something declared is missing or contradicts the samples; names the file or the sample.
    """
    place = (Path(settings.path), settings.split)
    folder = read_clip_benchmark_folder(*place) if is_clip_benchmark_folder(*place) else None
    samples = ShardedSamples(settings.name, folder.shards if folder else expand_shards(settings.path))
    captions = settings.captions or (("txt:lines",) if folder else ("txt",))
    tasks = settings.tasks or ((folder.task,) if folder else (_evident_task(samples, settings.label, captions),))
    labelled = captioned = None
    if "zero_shot_classification" in tasks:
        class_names = folder.class_names if settings.class_names is None and folder else settings.class_names
        templates = folder.templates if settings.templates is None and folder else settings.templates
        if folder:
            _refuse_unknown_language(settings)
        labelled = read_labelled(samples, settings.label, class_names, templates, settings.language)
    if "zero_shot_retrieval" in tasks:
        captioned = read_captioned(samples, captions)
    groups = None if settings.group is None else read_groups(samples, settings.group)
    return EvalDataset(settings, samples, tuple(dict.fromkeys(tasks)), labelled, captioned, groups)


def _refuse_unknown_language(settings: EvalDatasetConfig) -> None:
    """The files of a folder do not say in what language they are, and nobody writes but English ones."""
    left = [name for name in ("class_names", "templates") if getattr(settings, name) is None]
    if settings.language != ENGLISH and left:
        raise UserError(
            f"{settings.name}: language={settings.language!r}, but {' and '.join(left)} would be those of {settings.path}, "
            f"whose language is not known: set {' and '.join(left)} (to the folder's own files, where they are in it)"
        )


def _evident_task(samples: ShardedSamples, label: str, captions: tuple[str, ...]) -> Task:
    counts = samples.extension_counts()
    if parse_field(label, f"{samples.name}.label").extension in counts:
        return "zero_shot_classification"
    if any(parse_field(place, f"{samples.name}.captions").extension in counts for place in captions):
        return "zero_shot_retrieval"
    found = ", ".join(f".{extension}" for extension in sorted(counts))
    places = ", ".join(captions)
    raise UserError(f"{samples.name}: no label ({label}) and no captions ({places}); members there: {found}")
