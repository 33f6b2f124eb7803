"""`EvalDataset`: an opened evaluation set, of which each part is read once, when a task first needs it."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import field
from functools import partial
from typing import Any, Literal, TypeVar

import torch
from jaxtyping import Int
from torch import Tensor

from mmclip.config import config
from mmclip.errors import UserError
from mmclip_data.loading.held_out import HeldOutConfig
from mmclip_eval.captioned import Captioned, read_captioned
from mmclip_eval.choices import Choices, read_choices
from mmclip_eval.fields import parse_field
from mmclip_eval.groups import Groups, read_groups
from mmclip_eval.labelled import Labelled, read_labelled
from mmclip_eval.multilabelled import Multilabelled, read_multilabelled
from mmclip_eval.picture_rows import PictureRows, without_picture
from mmclip_eval.prompts.packaged import ENGLISH
from mmclip_eval.prompts.prompt_set import ClassTexts
from mmclip_eval.prompts.reading import Names, load_prompts
from mmclip_eval.samples import Samples
from mmclip_eval.skipped import Skipped
from mmclip_eval.sources.config import SourceConfig
from mmclip_eval.sources.counts import refuse_other_count
from mmclip_eval.sources.form import Declared
from mmclip_eval.text_lines import Lines

T = TypeVar("T")
Part = Literal["labelled", "prompts", "multilabelled", "multilabel_prompts", "captioned", "choices", "groups"]
"""What a task may need to know of a set; each is a property of `EvalDataset`."""


@config
class SetConfig(SourceConfig):
    """Where the samples of an evaluation set lie, and where each keeps what is known of it."""

    label: str = "cls"
    """Where the class of a sample stands: `cls` (index or name), `json:FIELD`, or `npy:INDEX` of a vector."""
    captions: tuple[str, ...] = ()
    """Where captions stand: `txt`, `txt:lines`, `json:FIELD`; empty: where sets of this form have them."""
    newline_escapes: bool = False
    """Read the two characters `\\n` in a caption as a line break: CLIP_benchmark writes it so, and does not read it so."""
    class_names: str | tuple[str | tuple[str, ...], ...] | None = None
    """A packaged list, a file, or the names (several of one class as a list); None: the folder's own, else the labels."""
    templates: str | tuple[str, ...] | None = None
    """A packaged prompt set, a file, or the templates ({c} is the class name); None: the folder's own file."""
    language: str = ENGLISH
    """Of class names and templates: packaged ones are taken in it."""
    group: str | None = None
    """Where a sample's category stands, such as `json:category`: for the report and for figures of the worst group."""
    held_out: HeldOutConfig = field(default_factory=HeldOutConfig)
    """Measure only the samples that a run with the same `data.held_out` did not learn from."""


class EvalDataset:
    """Samples with what their configuration and their folder say of them.

    Raises:
        UserError: there are more samples or fewer than are declared, or some are of no use and none may be.
    """

    def __init__(
        self, settings: SetConfig, samples: Samples, declared: Declared, part_of: "EvalDataset | None" = None
    ) -> None:
        self.config = settings
        self.part_of = part_of
        """The set that these are some samples of: names of classes that only stand in labels are those of all of it."""
        self.declared = declared
        self.whole = samples
        """With those that are left out."""
        self.num_expected = refuse_other_count(settings.name, settings.num_samples, declared, len(samples))
        """How many samples are declared; None where nothing says it."""
        self.skipped = Skipped(samples, settings.max_bad if settings.on_bad == "skip" else None)
        """Samples that no task sees."""
        self._places = settings.pictures or declared.pictures
        self._parts: dict[str, Any] = {}
        self.leave_out(without_picture(samples, self._places))

    def leave_out(self, bad: Mapping[int, str]) -> None:
        """Leave samples, by their index in `samples`, out of all that is read from now on; each with the reason.

        Raises:
            UserError: there are more of them than may be.
        """
        self._leave_out(bad)
        self.encoded_rows = self.rows
        """What goes through the tower: it stays as it is when pictures prove bad there, for every checkpoint alike."""
        self.encoded_samples = self.skipped.kept
        """Whose rows these are, by index in the whole set."""

    def leave_out_of_whole(self, indices: Collection[int]) -> None:
        """Leave samples out by their index in the whole set, as another process has done.

        Raises:
            UserError: there are more of them than may be.
        """
        wanted = set(indices)
        found = {
            place: "the first process leaves it out" for place, index in enumerate(self.skipped.kept) if index in wanted
        }
        self.leave_out(found)

    @property
    def fingerprint(self) -> str:
        """Of the samples that are encoded: known before that, and the same after it."""
        return self.encoded_rows.samples.fingerprint

    def _leave_out(self, bad: Mapping[int, str]) -> None:
        self.samples = self.skipped.leave_out(bad)
        self.rows = PictureRows(self.samples, self._places)
        """What is encoded: a row a picture."""
        self._parts.clear()

    def leave_out_rows(self, bad: Mapping[int, str]) -> Int[Tensor, " row"]:
        """Leave out the samples of encoded rows whose picture is of no use; returns which of these rows are left.

        The same rows, told again for another checkpoint, change nothing.

        Raises:
            UserError: there are more of them than may be.
        """
        sample_of_row = self.encoded_rows.sample_of_row
        samples: dict[int, str] = {}
        for row, reason in sorted(bad.items()):
            samples.setdefault(int(sample_of_row[row]), reason)
        place = {index: place for place, index in enumerate(self.skipped.kept)}
        named = {self.encoded_samples[sample]: reason for sample, reason in samples.items()}
        found = {place[index]: reason for index, reason in named.items() if index in place}
        if found:
            known = [*self._parts]
            self._leave_out(found)
            for part in known:  # again, of what is left: their notes belong to every result of the set
                getattr(self, part)
        return (~torch.isin(sample_of_row, torch.tensor(list(samples), dtype=torch.long))).nonzero()[:, 0]

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
        settings, declared = self.config, self.declared
        own = declared.own_classes if settings.label == "cls" else None
        read = partial(
            read_labelled,
            label=settings.label,
            class_names=self._class_names,
            language=settings.language,
            own_classes=own,
        )
        return self._once("labelled", read)

    @property
    def multilabelled(self) -> Multilabelled:
        """The classes of each sample, where it may show several."""
        settings = self.config
        label = "npy" if settings.label == "cls" else settings.label
        read = partial(read_multilabelled, label=label, class_names=self._class_names, language=settings.language)
        return self._once("multilabelled", read)

    @property
    def prompts(self) -> ClassTexts:
        """What the text tower is told of each class."""
        return self._once("prompts", lambda samples, bad: self._read_prompts(self.labelled))

    @property
    def multilabel_prompts(self) -> ClassTexts:
        """What the text tower is told of each class, where a sample may show several."""
        return self._once("multilabel_prompts", lambda samples, bad: self._read_prompts(self.multilabelled))

    @property
    def captioned(self) -> Captioned:
        """The captions of each sample."""
        escapes = self.config.newline_escapes
        return self._once("captioned", partial(read_captioned, places=self.caption_places, newline_escapes=escapes))

    @property
    def choices(self) -> Choices:
        """The captions that the pictures of each sample choose among."""
        return self._once("choices", partial(read_choices, places=self.caption_places))

    @property
    def groups(self) -> Groups | None:
        """The category of each sample; None where `group` names no place."""
        place = self.config.group
        return None if place is None else self._once("groups", partial(read_groups, place=place))

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
        several = 0 if self._places else self.samples.several_pictures
        notes = (f"samples with several pictures, of which one was taken: {several}",) if several else ()
        notes = (*self.declared.notes, *self.skipped.notes, *notes)
        parts = [self._parts[name] for name in ("labelled", "multilabelled", "captioned") if name in self._parts]
        return sum((part.notes for part in parts), notes)

    def _has(self, place: str, where: str) -> bool:
        return parse_field(place, f"{self.config.name}.{where}").extension in self.samples.extension_counts()

    @property
    def _class_names(self) -> str | Names | Lines | None:
        """Those of the configuration, else those of the set."""
        if self.config.class_names is not None:
            return self.config.class_names
        named = self.declared.class_names or self.declared.own_classes
        if self.part_of is not None and not named and self.part_of.labelled.is_named:
            return self.part_of.labelled.classes
        return self.declared.class_names

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
        own = {
            "class_names": self.declared.class_names or self.declared.own_classes,
            "templates": self.declared.templates,
        }
        left = [field for field in fields if getattr(self.config, field) is None and own[field]]
        if self.config.language != ENGLISH and left:
            raise UserError(
                f"{self.config.name}: language={self.config.language!r}, but {' and '.join(left)} would be those of "
                f"{self.config.path}, whose language is not known: set {' and '.join(left)} (to the folder's own files, "
                "where they are in it)"
            )

    def _once(self, name: str, read: Callable[..., T]) -> T:
        """A part, read when it is first asked for; samples that lack it are left out where they may be."""
        if name not in self._parts:
            bad: dict[int, str] | None = None if self.skipped.budget is None else {}
            part = read(self.samples, bad=bad)
            if bad:
                self.leave_out(bad)
            self._parts[name] = part  # positions in it are those of the samples that are left
        return self._parts[name]
