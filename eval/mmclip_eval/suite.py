"""Evaluate one model on several data sets: one pass over the pictures of each, shared by all of its tasks."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from mmclip.errors import UserError
from mmclip.preprocess import ImageSpec
from mmclip_data.features.encode import CHUNK_SIZE, encode_images, encode_texts
from mmclip_eval.datasets import EvalDataset, EvalDatasetConfig, open_dataset
from mmclip_eval.metrics.estimate import Estimate
from mmclip_eval.prompts.prompt_set import sha256_of
from mmclip_eval.report.evidence import Evidence
from mmclip_eval.result import EvalResult, ModelIdentity
from mmclip_eval.retrieval import zero_shot_retrieval
from mmclip_eval.tasks import Task
from mmclip_eval.zero_shot import EncodeTexts, class_weights, zero_shot_classification

SuiteProgress = Callable[[str, int, int], None]
"""Called with the data set's name, the pictures done and the pictures in all."""
Keep = Callable[[Evidence], None]
"""Called once a data set with what its pass saw, after its last result."""


@runtime_checkable
class ZeroShotModel(Protocol):
    """What an evaluation may ask of a model: two callables, and the preprocessing that belongs to them."""

    @property
    def spec(self) -> ImageSpec: ...

    @property
    def device(self) -> torch.device: ...

    def embed_uint8(self, images: UInt8[Tensor, "batch 3 height width_px"]) -> Float[Tensor, "batch embed"]: ...

    def embed_texts(self, texts: Sequence[str]) -> Float[Tensor, "batch embed"]: ...


def evaluate(
    model: ZeroShotModel,
    datasets: Sequence[EvalDatasetConfig],
    identity: ModelIdentity,
    *,
    chunk_size: int = CHUNK_SIZE,
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
    for dataset in [open_dataset(settings) for settings in datasets]:
        yield from _evaluate_dataset(model, dataset, identity, chunk_size, progress, keep)


def _evaluate_dataset(
    model: ZeroShotModel,
    dataset: EvalDataset,
    identity: ModelIdentity,
    chunk_size: int,
    progress: SuiteProgress | None,
    keep: Keep | None,
) -> Iterator[EvalResult]:
    name = dataset.config.name
    report = partial(progress, name) if progress else None
    try:
        image_embed = encode_images(
            dataset.samples, model.spec.to_uint8, model.embed_uint8, chunk_size=chunk_size, progress=report
        )
    finally:
        dataset.samples.close()
    encode = partial(encode_texts, embed=model.embed_texts, chunk_size=chunk_size)
    text_embed: dict[Task, Tensor] = {}
    for task in dataset.tasks:
        metrics, details, text_embed[task] = _TASKS[task](dataset, image_embed, encode)
        yield EvalResult(
            dataset=name,
            task=task,
            metrics=dict(metrics),
            identity=identity,
            num_samples=len(image_embed),
            dataset_fingerprint=dataset.samples.fingerprint,
            preprocess=asdict(model.spec),
            device=str(model.device),
            chunk_size=chunk_size,
            language=dataset.config.language,
            split=dataset.config.split,
            notes=dataset.notes,
            details=details,
        )
    if keep is not None:
        class_embed, caption_embed = map(text_embed.get, ("zero_shot_classification", "zero_shot_retrieval"))
        keep(Evidence(dataset, image_embed, class_embed, caption_embed))


Outcome = tuple[Iterable[tuple[str, Estimate]], Mapping[str, Any], Tensor]
"""The figures, what the result says of how they came about, and the embeddings of the classes or captions."""


def _classify(dataset: EvalDataset, image_embed: Tensor, encode: EncodeTexts) -> Outcome:
    part = dataset.labelled
    assert part is not None, "open_dataset reads labels for every classification task"
    weights = class_weights(part.texts, encode)
    details = {
        "num_classes": len(part.class_names),
        "class_names": {"source": part.class_names_source, "sha256": sha256_of(part.class_names)},
        "prompts": {**part.texts.prompts.facts(), "texts_sha256": part.texts.sha256},
    }
    return zero_shot_classification(image_embed, part.labels, weights), details, weights


def _retrieve(dataset: EvalDataset, image_embed: Tensor, encode: EncodeTexts) -> Outcome:
    part = dataset.captioned
    assert part is not None, "open_dataset reads captions for every retrieval task"
    details = {"num_captions": len(part.captions), "captions": {"sha256": sha256_of(part.captions)}}
    caption_embed = encode(part.captions)
    return zero_shot_retrieval(image_embed, caption_embed, part.image_of_caption), details, caption_embed


_TASKS: dict[Task, Callable[[EvalDataset, Tensor, EncodeTexts], Outcome]] = {
    "zero_shot_classification": _classify,
    "zero_shot_retrieval": _retrieve,
}
