"""Evaluate one model on several data sets: one pass over the pictures of each, shared by all of its tasks."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial

from mmclip.errors import UserError
from mmclip_data.features.encode import CHUNK_SIZE
from mmclip_data.features.encoder import Encoder
from mmclip_data.features.model import Towers, ZeroShotModel
from mmclip_data.features.tower_threads import one_thread
from mmclip_eval.datasets import EvalDatasetConfig, Measured, OpenedDataset, open_dataset
from mmclip_eval.encode_set import encode_set
from mmclip_eval.eval_dataset import EvalDataset
from mmclip_eval.evidence import Evidence
from mmclip_eval.metrics.estimate import Estimate
from mmclip_eval.results.result import EvalResult, ModelIdentity
from mmclip_eval.results.subject import subject_of
from mmclip_eval.tasks.base import Encoded, TaskContext

SuiteProgress = Callable[[str, int, int], None]
"""Called with the data set's name, the pictures done and the pictures in all."""
Keep = Callable[[Evidence], None]
"""Called once a data set with what its pass saw, after its last result."""
IsThere = Callable[[str], bool]
"""Called with the name of a result's file."""


def evaluate(
    model: ZeroShotModel,
    datasets: Sequence[EvalDatasetConfig],
    identity: ModelIdentity,
    *,
    chunk_size: int = CHUNK_SIZE,
    seed: int = 0,
    progress: SuiteProgress | None = None,
    keep: Keep | None = None,
    is_there: IsThere | None = None,
) -> Iterator[EvalResult]:
    """Yield one result per data set and task, each as soon as it is known.

    Every data set is opened and checked before the first picture is encoded. `chunk_size` is part of the result:
    another one moves the last digits. `keep` takes the embeddings, which a report draws without a second pass. A result
    whose file `is_there` already is neither worked out nor yielded; a set all of whose results are there is not encoded.

    Raises:
        UserError: two data sets share a name, one is unsound, or an embedding is not finite.
    """
    names = [settings.name for settings in datasets]
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"data set name {name!r} is given {names.count(name)} times; names must differ")
    encoder = Encoder(Towers(model, chunk_size=chunk_size))
    opened = [open_dataset(settings, datasets) for settings in datasets]
    yield from evaluate_opened(encoder, opened, identity, seed=seed, progress=progress, keep=keep, is_there=is_there)


def evaluate_opened(
    encoder: Encoder,
    opened: Sequence[OpenedDataset],
    identity: ModelIdentity,
    *,
    seed: int = 0,
    progress: SuiteProgress | None = None,
    keep: Keep | None = None,
    is_there: IsThere | None = None,
) -> Iterator[EvalResult]:
    """`evaluate` of sets that were opened before, with an encoder that may span several processes and keep features.

    Raises:
        UserError: a picture cannot be read, or an embedding is not finite.
    """
    one_pass = _Pass(encoder, progress)
    for one in opened:
        wanted = [_Asked(one, measured, identity, seed, one_pass) for measured in one.measured]
        wanted = [asked for asked in wanted if is_there is None or not is_there(asked.file_name)]
        for asked in wanted:
            yield asked.result()
        if wanted and keep is not None and (evidence := _evidence(one_pass, one)) is not None:
            keep(evidence)


class _Pass:
    """Encodes each set once, when a task first asks for it."""

    def __init__(self, encoder: Encoder, progress: SuiteProgress | None) -> None:
        self.encoder = encoder
        self.model = encoder.towers.model
        self.chunk_size = encoder.towers.chunk_size
        self.progress = progress
        self._encoded: dict[EvalDataset, Encoded] = {}

    def __call__(self, dataset: EvalDataset) -> Encoded:
        if dataset not in self._encoded:
            report = partial(self.progress, dataset.config.name) if self.progress else None
            self._encoded[dataset] = encode_set(self.encoder, dataset, report)
        return self._encoded[dataset]


@dataclass(frozen=True)
class _Asked:
    """One task of one set, of which the name of the result's file is known before anything is encoded."""

    opened: OpenedDataset
    measured: Measured
    identity: ModelIdentity
    seed: int
    one_pass: _Pass

    @property
    def file_name(self) -> str:
        return self._bare({}, 0.0).file_name

    def result(self) -> EvalResult:
        started, one_pass = time.perf_counter(), self.one_pass
        own, related = one_pass(self.opened.dataset), self.measured.related
        model = one_pass.model
        head = getattr(model, "class_head", None)
        context = TaskContext(own, logit_scale_of(model), self.seed, head, lambda role: one_pass(related[role]))
        with one_thread(model.device):
            outcome = self.measured.task.run(context)
        bare = self._bare(outcome.metrics, time.perf_counter() - started)
        return replace(
            bare,
            settings=outcome.settings,
            details=outcome.details,
            tables=outcome.tables,
            notes=(*self.opened.dataset.notes, *outcome.notes),
        )

    def _bare(self, metrics: Mapping[str, Estimate], seconds: float) -> EvalResult:
        task, dataset, model = self.measured.task, self.opened.dataset, self.one_pass.model
        return EvalResult(
            dataset=dataset.config.name,
            task=task.type,
            public_task=task.public_name,
            task_version=task.version,
            options={name: value for name, value in asdict(task).items() if name != "type"},
            metrics=metrics,
            identity=self.identity,
            num_samples=len(dataset.samples),
            num_skipped=len(dataset.skipped),
            num_expected=dataset.num_expected,
            dataset_fingerprint=dataset.samples.fingerprint,
            preprocess=asdict(model.spec),
            device=str(model.device),
            chunk_size=self.one_pass.chunk_size,
            language=dataset.config.language,
            split=dataset.config.split,
            wall_seconds=round(seconds, 3),
            subject=subject_of(
                self.identity,
                task,
                dataset,
                self.measured.related,
                model.spec,
                model.device.type,
                self.one_pass.chunk_size,
                self.seed,
            ),
        )


def logit_scale_of(model: ZeroShotModel) -> float:
    """The inverse temperature of a model; that of CLIP's end, 100, where it has none of its own."""
    found = getattr(model, "logit_scale", None)
    return 100.0 if found is None else float(found.detach().exp())


def _evidence(one_pass: _Pass, opened: OpenedDataset) -> Evidence | None:
    """What a report shows of a set; None where no task gave its texts an embedding."""
    needed = {part for task in opened.tasks for part in task.needs}
    own = one_pass(opened.dataset)
    class_embed = own.class_embed if {"labelled", "prompts"} <= needed else None
    caption_embed = own.caption_embed if "captioned" in needed else None
    if class_embed is None and caption_embed is None:
        return None
    return Evidence(opened.dataset, own.image_embed, class_embed, caption_embed)
