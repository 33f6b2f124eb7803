"""`EvalDataset`: an opened evaluation set, of which each part is read once, when a task first needs it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from mmclip.config import config
from mmclip.errors import UserError
from mmclip_eval.captioned import Captioned, read_captioned
from mmclip_eval.choices import Choices, read_choices
from mmclip_eval.fields import parse_field
from mmclip_eval.groups import Groups, read_groups
from mmclip_eval.labelled import Labelled, read_labelled
from mmclip_eval.multilabelled import Multilabelled, read_multilabelled
from mmclip_eval.picture_rows import PictureRows
from mmclip_eval.prompts.packaged import ENGLISH
from mmclip_eval.prompts.prompt_set import ClassTexts
from mmclip_eval.prompts.reading import load_prompts
from mmclip_eval.samples import Samples

T = TypeVar("T")
Part = Literal["labelled", "prompts", "multilabelled", "multilabel_prompts", "captioned", "choices", "groups"]
"""What a task may need to know of a set; each is a property of `EvalDataset`."""


@config
class SetConfig:
    """Where the samples of an evaluation set lie, and where each keeps what is known of it."""

    name: str
    """Stands in results and file names; unique within a suite."""
    path: str
    """A folder in CLIP_benchmark's layout, shards (a folder, a pattern, `embedded:emoji/...`), or a JSON file of instances."""
    image_folder: str | None = None
    """Where the pictures lie that a file of instances names (SugarCrepe, Winoground, ARO); None: images/ beside it."""
    split: str = "test"
    """Which split of a CLIP_benchmark folder; other shards have no splits."""
    label: str = "cls"
    """Where the class of a sample stands: `cls` (index or name) or `json:FIELD`."""
    captions: tuple[str, ...] = ()
    """Where captions stand: `txt`, `txt:lines`, `json:FIELD`; empty: `txt`, by line in a CLIP_benchmark folder."""
    pictures: tuple[str, ...] = ()
    """Members that hold the pictures of a sample that has several, such as `0.png`, `1.png`; empty: its one picture."""
    class_names: str | tuple[str | tuple[str, ...], ...] | None = None
    """A packaged list, a file, or the names (several of one class as a list); None: the folder's own, else the labels."""
    templates: str | tuple[str, ...] | None = None
    """A packaged prompt set, a file, or the templates ({c} is the class name); None: the folder's own file."""
    language: str = ENGLISH
    """Of class names and templates: packaged ones are taken in it."""
    group: str | None = None
    """Where a sample's category stands, such as `json:category`: for the report and for figures of the worst group."""


@dataclass(frozen=True)
class Declared:
    """What a set says of itself, beside its samples; None where it says nothing."""

    dataset_type: str | None = None
    """CLIP_benchmark's word for the task: classification, retrieval, multilabel."""
    class_names: str | None = None
    """A file with one name a line."""
    templates: str | None = None
    """A file with one template a line."""
    pictures: tuple[str, ...] = ()
    """Members that hold the pictures of a sample that has several."""
    captions: tuple[str, ...] = ("txt",)
    """Where captions stand unless the configuration says otherwise."""


class EvalDataset:
    """Samples with what their configuration and their folder say of them."""

    def __init__(self, settings: SetConfig, samples: Samples, declared: Declared) -> None:
        self.config = settings
        self.samples = samples
        self.declared = declared
        self.rows = PictureRows(samples, settings.pictures or declared.pictures)
        """What is encoded: a row a picture."""
        self._parts: dict[str, Any] = {}

    def read(self, parts: Sequence[Part]) -> None:
        """Read and check parts, so that nothing about them can fail once pictures are encoded.

        Raises:
            UserError: something declared is missing or contradicts the samples; names the file or the sample.
        """
        for part in parts:
            if getattr(self, part) is None:
                raise UserError(f"{self.config.name}: {part} are needed, and no place is given; set group (--group)")

    @property
    def labelled(self) -> Labelled:
        """The class of each sample."""
        return self._once("labelled", self._read_labelled)

    @property
    def multilabelled(self) -> Multilabelled:
        """The classes of each sample, where it may show several."""
        return self._once("multilabelled", self._read_multilabelled)

    @property
    def prompts(self) -> ClassTexts:
        """What the text tower is told of each class."""
        return self._once("prompts", lambda: self._read_prompts(self.labelled))

    @property
    def multilabel_prompts(self) -> ClassTexts:
        """What the text tower is told of each class, where a sample may show several."""
        return self._once("multilabel_prompts", lambda: self._read_prompts(self.multilabelled))

    @property
    def captioned(self) -> Captioned:
        """The captions of each sample."""
        return self._once("captioned", lambda: read_captioned(self.samples, self.caption_places))

    @property
    def choices(self) -> Choices:
        """The captions that the pictures of each sample choose among."""
        return self._once("choices", lambda: read_choices(self.samples, self.caption_places))

    @property
    def groups(self) -> Groups | None:
        """The category of each sample; None where `group` names no place."""
        place = self.config.group
        return None if place is None else self._once("groups", lambda: read_groups(self.samples, place))

    @property
    def caption_places(self) -> tuple[str, ...]:
        """Where captions stand."""
        return self.config.captions or self.declared.captions

    def has_labels(self) -> bool:
        """Whether any sample has the member that labels are read from."""
        return self._has(self.config.label, "label")

    def has_captions(self) -> bool:
        """Whether any sample has a member that captions are read from."""
        return any(self._has(place, "captions") for place in self.caption_places)

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader of the figures should know, such as classes without a sample."""
        several = self.samples.several_pictures
        notes = (f"samples with several pictures, of which one was taken: {several}",) if several else ()
        parts = [self._parts[name] for name in ("labelled", "multilabelled", "captioned") if name in self._parts]
        return sum((part.notes for part in parts), notes)

    def _has(self, place: str, where: str) -> bool:
        return parse_field(place, f"{self.config.name}.{where}").extension in self.samples.extension_counts()

    def _read_labelled(self) -> Labelled:
        settings = self.config
        class_names = self.declared.class_names if settings.class_names is None else settings.class_names
        return read_labelled(self.samples, settings.label, class_names, settings.language)

    def _read_multilabelled(self) -> Multilabelled:
        settings = self.config
        class_names = self.declared.class_names if settings.class_names is None else settings.class_names
        label = "npy" if settings.label == "cls" else settings.label
        return read_multilabelled(self.samples, label, class_names, settings.language)

    def _read_prompts(self, part: Labelled | Multilabelled) -> ClassTexts:
        name = self.config.name
        templates = self.declared.templates if self.config.templates is None else self.config.templates
        if templates is None:
            sets = "simple, imagenet1k and others"
            raise UserError(f"{name}: no templates; set templates to a packaged set ({sets}), a file or a list")
        self._refuse_unknown_language()
        if not part.is_named:
            raise UserError(
                f"{name}: labels are indices but there are no class names; set class_names to a file or list"
            )
        texts = ClassTexts(part.classes, load_prompts(templates, name, self.config.language, dataset=name))
        texts.check()
        return texts

    def _refuse_unknown_language(self) -> None:
        """The files of a folder do not say in what language they are, and hardly anybody writes but English ones."""
        fields = ("class_names", "templates")
        left = [field for field in fields if getattr(self.config, field) is None and getattr(self.declared, field)]
        if self.config.language != ENGLISH and left:
            raise UserError(
                f"{self.config.name}: language={self.config.language!r}, but {' and '.join(left)} would be those of "
                f"{self.config.path}, whose language is not known: set {' and '.join(left)} (to the folder's own files, "
                "where they are in it)"
            )

    def _once(self, name: str, read: Callable[[], T]) -> T:
        if name not in self._parts:
            self._parts[name] = read()
        return self._parts[name]
