"""What a task is, what it gets and what it gives back."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar

from jaxtyping import Float
from torch import Tensor

from mmclip.config import config
from mmclip.towers.class_head import ClassHead
from mmclip_eval.eval_dataset import EvalDataset, Part, SetConfig
from mmclip_eval.metrics.estimate import Estimate
from mmclip_eval.zero_shot import EncodeTexts, class_weights


@dataclass(frozen=True)
class Table:
    """Rows of plain values that a result keeps beside its figures."""

    columns: tuple[str, ...]
    rows: Sequence[Sequence[str | int | float | None]]


@dataclass(frozen=True)
class Outcome:
    """What a task found."""

    metrics: Mapping[str, Estimate]
    """By CLIP_benchmark's names where it has one."""
    details: Mapping[str, Any] = field(default_factory=dict)
    """How the figures came about, for the result file: plain values."""
    tables: Mapping[str, Table] = field(default_factory=dict)
    """Finer figures, such as `per_class` and `confusion`."""
    settings: Mapping[str, int | float | bool] = field(default_factory=dict)
    """What CLIP_benchmark writes beside its figures though it measures nothing, such as `fewshot_k`."""
    notes: tuple[str, ...] = ()
    """What a reader of the figures should know."""


@dataclass(frozen=True)
class Encoded:
    """A set with the embeddings of its pictures; texts are encoded when they are first asked for."""

    dataset: EvalDataset
    image_embed: Float[Tensor, "row embed"]
    """L2-normalised, fp32, on the CPU, in the order of `dataset.rows`: a row a sample unless samples have several pictures."""
    encode_texts: EncodeTexts
    """L2-normalised embeddings of texts, each distinct one encoded once."""

    @cached_property
    def class_embed(self) -> Float[Tensor, "class embed"]:
        """The classifier that the set's prompts make; for tasks that need `labelled` and `prompts`."""
        return class_weights(self.dataset.prompts, self.encode_texts)

    @cached_property
    def caption_embed(self) -> Float[Tensor, "caption embed"]:
        """Of all captions; for tasks that need `captioned`."""
        return self.encode_texts(self.dataset.captioned.captions)


@dataclass(frozen=True)
class TaskContext:
    """What a task may read when it runs."""

    own: Encoded
    """The set that is measured."""
    logit_scale: float
    """Inverse temperature that the model was trained to multiply cosines by."""
    seed: int = 0
    """For everything that is drawn."""
    class_head: ClassHead | None = None
    """The classifier that the weights carry, where they do."""
    encode: Callable[[str], Encoded] | None = None
    """Encodes a related set by its role; see `EvalTask.related`."""

    @property
    def dataset(self) -> EvalDataset:
        """The set that is measured."""
        return self.own.dataset

    @property
    def image_embed(self) -> Float[Tensor, "row embed"]:
        """Of the set that is measured."""
        return self.own.image_embed

    def encode_texts(self, texts: Sequence[str]) -> Float[Tensor, "text embed"]:
        """L2-normalised embeddings of texts."""
        return self.own.encode_texts(texts)

    def related(self, role: str) -> Encoded:
        """A set that the task named in `related`; encoded once, however many tasks ask for it."""
        assert self.encode is not None, f"no task named a set for {role!r}"
        return self.encode(role)


@dataclass(frozen=True)
class Related:
    """Another set whose embeddings a task reads, such as the training split for a probe."""

    settings: SetConfig
    needs: tuple[Part, ...] = ()
    same_classes: bool = False
    """Whether its labels name the classes of the set that is measured, and not classes of its own."""


@config
class EvalTask:
    """Options of a task, and the task; a subclass is frozen, and its `type` is its name in a configuration."""

    type: str = ""
    public_name: ClassVar[str] = ""
    """CLIP_benchmark's spelling."""
    version: ClassVar[int] = 1
    """Of the definition of its figures: another one, and they cannot be compared."""
    needs: ClassVar[tuple[Part, ...]] = ()
    """Parts of the set that are read and checked before anything is encoded."""
    dataset_type: ClassVar[str | None] = None
    """CLIP_benchmark's word for it in `dataset_type.txt`: such a set gets this task unless told otherwise."""

    def fits(self, dataset: EvalDataset) -> bool:
        """Whether a set that declares nothing evidently asks for this task."""
        return False

    def related(self, settings: SetConfig, suite: Mapping[str, SetConfig]) -> Mapping[str, Related]:
        """Other sets that the task reads, by role; `suite` holds those of the suite by name.

        Raises:
            UserError: a set that the options name is not in the suite.
        """
        return {}

    def check(self, dataset: EvalDataset, related: Mapping[str, EvalDataset]) -> None:
        """Refuse what does not fit together, once everything is read and before anything is encoded.

        Raises:
            UserError: naming the set and what is wrong.
        """

    def run(self, context: TaskContext) -> Outcome:
        """The figures."""
        raise NotImplementedError
