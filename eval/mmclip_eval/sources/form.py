"""What opening a set gives, and what a form of sets has to offer for that."""

from collections.abc import Callable
from dataclasses import dataclass

from mmclip_eval.samples import Samples
from mmclip_eval.sources.config import SourceConfig
from mmclip_eval.text_lines import Lines


@dataclass(frozen=True)
class Declared:
    """What a set says of itself, beside its samples; None where it says nothing."""

    dataset_type: str | None = None
    """CLIP_benchmark's word for the task: classification, retrieval, multilabel."""
    class_names: str | Lines | None = None
    """A file with one name a line, or its lines."""
    templates: str | Lines | None = None
    """A file with one template a line, or its lines."""
    captions: tuple[str, ...] = ("txt",)
    """Where captions stand unless the configuration says otherwise."""
    pictures: tuple[str, ...] = ()
    """Members that hold the pictures of a sample that has several, unless the configuration says otherwise."""
    own_classes: Lines | None = None
    """The names that the indices in `cls` stand for where they are the set's own, such as its folders; in their order."""
    num_samples: int | None = None
    """How many samples the set says it has."""
    counted_by: str = ""
    """What says so."""
    notes: tuple[str, ...] = ()
    """What was chosen for the user."""


@dataclass(frozen=True)
class OpenedSamples:
    """The samples of a set, and what it says of itself."""

    samples: Samples
    declared: Declared


@dataclass(frozen=True)
class Form:
    """One form of evaluation sets."""

    name: str
    looks: str
    """What such a set looks like, for the message that lists what is accepted."""
    recognises: Callable[[SourceConfig], bool]
    """Whether a set is of this form, by its path and a look at it."""
    open: Callable[[SourceConfig], OpenedSamples]
    """Index it; raises `UserError` where it cannot be read."""
    options: tuple[str, ...] = ()
    """Options of `SourceConfig` that have a meaning for this form and not for all."""
