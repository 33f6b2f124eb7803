"""`EvalDataset`: an opened evaluation set, of which each part is read once, when a task first needs it."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Literal, TypeVar

import torch
from jaxtyping import Int
from torch import Tensor

from mmclip.config import config
from mmclip.errors import UserError
from mmclip_eval.captioned import Captioned, read_captioned
from mmclip_eval.fields import parse_field
from mmclip_eval.groups import Groups, read_groups
from mmclip_eval.labelled import Labelled, read_labelled
from mmclip_eval.picture_rows import PictureRows, without_picture
from mmclip_eval.prompt_sets import PromptSet, load_prompts, packaged_sets
from mmclip_eval.samples import Samples
from mmclip_eval.skipped import Skipped
from mmclip_eval.sources.config import SourceConfig
from mmclip_eval.sources.counts import refuse_other_count
from mmclip_eval.sources.form import Declared

T = TypeVar("T")
Part = Literal["labelled", "prompts", "captioned", "groups"]
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
    pictures: tuple[str, ...] = ()
    """Members that hold the pictures of a sample that has several, such as `0.png`, `1.png`; empty: its one picture."""
    class_names: str | tuple[str, ...] | None = None
    """A file with one name a line, or the names; None: the set's own (classnames.txt, folders), else the sorted labels."""
    templates: str | tuple[str, ...] | None = None
    """A packaged prompt set, a file, or the templates ({c} is the class name); None: the folder's own file."""
    language: str = "en"
    """Recorded in the result."""
    group: str | None = None
    """Where a sample's category stands, such as `json:category`: for the report and for figures of the worst group."""


class EvalDataset:
    """Samples with what their configuration and their folder say of them.

    Raises:
        UserError: there are more samples or fewer than are declared, or some are of no use and none may be.
    """

    def __init__(self, settings: SetConfig, samples: Samples, declared: Declared) -> None:
        self.config = settings
        self.declared = declared
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
        self.samples = self.skipped.leave_out(bad)
        self.rows = PictureRows(self.samples, self._places)
        """What is encoded: a row a picture."""
        self._parts.clear()

    def leave_out_rows(self, bad: Mapping[int, str]) -> Int[Tensor, " row"]:
        """Leave out the samples of rows whose picture is of no use; returns which rows are left.

        Raises:
            UserError: there are more of them than may be.
        """
        sample_of_row = self.rows.sample_of_row
        samples: dict[int, str] = {}
        for row, reason in sorted(bad.items()):
            samples.setdefault(int(sample_of_row[row]), reason)
        self.leave_out(samples)
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
        class_names = declared.class_names if settings.class_names is None else settings.class_names
        own = declared.own_classes if settings.label == "cls" else None
        return self._once(
            "labelled", partial(read_labelled, label=settings.label, class_names=class_names, own_classes=own)
        )

    @property
    def prompts(self) -> PromptSet:
        """The templates that its class names are put into."""
        if "prompts" not in self._parts:
            self._parts["prompts"] = self._read_prompts()
        return self._parts["prompts"]

    @property
    def captioned(self) -> Captioned:
        """The captions of each sample."""
        escapes = self.config.newline_escapes
        return self._once("captioned", partial(read_captioned, places=self.caption_places, newline_escapes=escapes))

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
        parts = [self._parts[name] for name in ("labelled", "captioned") if name in self._parts]
        return sum((part.notes for part in parts), notes)

    def _has(self, place: str, where: str) -> bool:
        return parse_field(place, f"{self.config.name}.{where}").extension in self.samples.extension_counts()

    def _read_prompts(self) -> PromptSet:
        name = self.config.name
        templates = self.declared.templates if self.config.templates is None else self.config.templates
        if templates is None:
            sets = ", ".join(packaged_sets())
            raise UserError(f"{name}: no templates; set templates to a packaged set ({sets}), a file or a list")
        if not self.labelled.is_named:
            raise UserError(
                f"{name}: labels are indices but there are no class names; set class_names to a file or list"
            )
        return load_prompts(templates, where=name)

    def _once(self, name: str, read: Callable[..., T]) -> T:
        """A part, read when it is first asked for; samples that lack it are left out where they may be."""
        if name not in self._parts:
            bad: dict[int, str] | None = None if self.skipped.budget is None else {}
            part = read(self.samples, bad=bad)
            if bad:
                self.leave_out(bad)
            self._parts[name] = part  # positions in it are those of the samples that are left
        return self._parts[name]
