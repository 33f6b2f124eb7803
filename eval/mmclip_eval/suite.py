"""Evaluate one model on several data sets: one pass over the pictures of each, shared by all of its tasks."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from functools import partial

from torch import Tensor

from mmclip.errors import UserError
from mmclip_data.features.encode import CHUNK_SIZE, refuse_bad
from mmclip_data.features.encoder import Encoder
from mmclip_data.features.model import Towers, ZeroShotModel
from mmclip_data.features.tower_threads import one_thread
from mmclip_eval.datasets import EvalDatasetConfig, Measured, OpenedDataset, open_dataset
from mmclip_eval.eval_dataset import EvalDataset
from mmclip_eval.places import place_of
from mmclip_eval.report.evidence import Evidence
from mmclip_eval.result import EvalResult, ModelIdentity
from mmclip_eval.tasks.base import Encoded, TaskContext

SuiteProgress = Callable[[str, int, int], None]
"""Called with the data set's name, the pictures done and the pictures in all."""
Keep = Callable[[Evidence], None]
"""Called once a data set with what its pass saw, after its last result."""


def evaluate(
    model: ZeroShotModel,
    datasets: Sequence[EvalDatasetConfig],
    identity: ModelIdentity,
    *,
    chunk_size: int = CHUNK_SIZE,
    seed: int = 0,
    progress: SuiteProgress | None = None,
    keep: Keep | None = None,
) -> Iterator[EvalResult]:
    """Yield one result per data set and task, each as soon as it is known.

    Every data set is opened and checked before the first picture is encoded. `chunk_size` is part of the result:
    another one moves the last digits. `keep` takes the embeddings, which a report draws without a second pass.

    Raises:
        UserError: two data sets share a name, one is unsound, or an embedding is not finite.
    """
    names = [settings.name for settings in datasets]
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"data set name {name!r} is given {names.count(name)} times; names must differ")
    encoder = Encoder(Towers(model, chunk_size=chunk_size))
    opened = [open_dataset(settings, datasets) for settings in datasets]
    yield from evaluate_opened(encoder, opened, identity, seed=seed, progress=progress, keep=keep)


def evaluate_opened(
    encoder: Encoder,
    opened: Sequence[OpenedDataset],
    identity: ModelIdentity,
    *,
    seed: int = 0,
    progress: SuiteProgress | None = None,
    keep: Keep | None = None,
) -> Iterator[EvalResult]:
    """`evaluate` of sets that were opened before, with an encoder that may span several processes and keep features.

    Raises:
        UserError: a picture cannot be read, or an embedding is not finite.
    """
    one_pass = _Pass(encoder, progress)
    for one in opened:
        for measured in one.measured:
            yield _result(one_pass, one, measured, identity, seed)
        if keep is not None and (evidence := _evidence(one_pass, one)) is not None:
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
            self._encoded[dataset] = Encoded(dataset, self._encode_images(dataset), self.encoder.texts)
        return self._encoded[dataset]

    def _encode_images(self, dataset: EvalDataset) -> Tensor:
        report = partial(self.progress, dataset.config.name) if self.progress else None
        rows = dataset.rows
        return self.encoder.images(rows, place_of(dataset.config), report, partial(refuse_bad, rows)).embed


def _result(
    one_pass: _Pass, opened: OpenedDataset, measured: Measured, identity: ModelIdentity, seed: int
) -> EvalResult:
    dataset, model = opened.dataset, one_pass.model
    own = one_pass(dataset)
    context = TaskContext(own, logit_scale_of(model), seed, lambda role: one_pass(measured.related[role]))
    with one_thread(model.device):
        outcome = measured.task.run(context)
    return EvalResult(
        dataset=dataset.config.name,
        task=measured.task.type,
        task_version=measured.task.version,
        options={name: value for name, value in asdict(measured.task).items() if name != "type"},
        metrics=outcome.metrics,
        identity=identity,
        num_samples=len(dataset.samples),
        dataset_fingerprint=dataset.samples.fingerprint,
        preprocess=asdict(model.spec),
        device=str(model.device),
        chunk_size=one_pass.chunk_size,
        language=dataset.config.language,
        split=dataset.config.split,
        notes=dataset.notes,
        details=outcome.details,
        tables=outcome.tables,
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
