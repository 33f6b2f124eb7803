"""What a run learns from, of the samples of its source, and the evaluation set that the rest becomes."""

from dataclasses import replace
from functools import lru_cache
from pathlib import Path

from mmclip.errors import UserError
from mmclip_data.loading.chosen import ChosenSamples, name_in_source
from mmclip_data.loading.loader import DataConfig
from mmclip_data.loading.sources import IndexedTarsConfig
from mmclip_eval.datasets import EvalDatasetConfig, open_samples
from mmclip_eval.eval_dataset import EvalDataset, SetConfig
from mmclip_eval.held_out import held_out_of
from mmclip_eval.probes.drawing import draw_shots
from mmclip_eval.some_samples import SomeSamples
from mmclip_eval.tasks.classifier import ClassifierTask
from mmclip_eval.tasks.registry import TaskConfig
from mmclip_eval.tasks.zero_shot_classification import ZeroShotClassification
from mmclip_eval.tasks.zero_shot_retrieval import ZeroShotRetrieval

DEV = "dev"
CLASS_NAMES = "classnames.txt"


def choose_samples(data: DataConfig) -> ChosenSamples | None:
    """The samples that are learnt from; None where that is all of them, with captions of their own.

    Raises:
        UserError: a class has fewer samples than `data.labels.shots`, or a label names no class.
    """
    if not data.held_out.share and data.labels.place is None:
        return None
    dataset, kept = training_set(data), _kept(data)
    names = [name_in_source(dataset.samples.sample_id(index)) for index in kept]
    if data.labels.place is None:
        return ChosenSamples(dict.fromkeys(names, -1))
    classes = dict(zip(names, dataset.labelled.labels[list(kept)].tolist(), strict=True))
    texts = dataset.prompts
    return ChosenSamples(classes, tuple(tuple(texts[number]) for number in range(len(texts))))


def examples_set(data: DataConfig) -> EvalDataset:
    """The chosen samples as a set of their own, with their classes."""
    whole = training_set(data)
    declared = replace(whole.declared, num_samples=None)
    return EvalDataset(whole.config, SomeSamples(whole.samples, _kept(data)), declared, whole)


@lru_cache(maxsize=4)
def _kept(data: DataConfig) -> tuple[int, ...]:
    """Indices of the chosen samples in the training set."""
    dataset = training_set(data)
    kept = sorted(set(range(len(dataset.samples))) - set(_held_out(dataset, data)))
    if data.labels.shots is None:
        return tuple(kept)
    try:
        drawn = draw_shots(dataset.labelled.labels[kept], data.labels.shots, data.labels.shots_seed)
    except ValueError as error:
        raise UserError(f"data.labels.shots={data.labels.shots}: {error}") from error
    return tuple(kept[place] for place in drawn.tolist())


@lru_cache(maxsize=4)  # every label is read, and several parts of a start ask
def training_set(data: DataConfig) -> EvalDataset:
    """The samples of the source, as an evaluation reads them.

    Raises:
        UserError: the source is of a kind whose samples have no names to hold some out by.
    """
    dataset = open_samples(_settings(data, "train"))
    if data.labels.place is not None:
        dataset.read(("labelled", "prompts"))
    return dataset


def dev_set(data: DataConfig, has_head: bool = False) -> tuple[EvalDatasetConfig, ...]:
    """The evaluation set `dev` of what is held out; none where nothing is, or where no text says what should be found."""
    if not data.held_out.share or data.image_only:
        return ()
    usual = ZeroShotRetrieval() if data.labels.place is None else ZeroShotClassification()
    tasks: tuple[TaskConfig, ...] = (usual, ClassifierTask()) if has_head else (usual,)
    settings = replace(_settings(data, DEV), held_out=data.held_out)
    return (EvalDatasetConfig(**vars(settings), tasks=tasks),)


def _settings(data: DataConfig, name: str) -> SetConfig:
    source, labels = data.source, data.labels
    if not isinstance(source, IndexedTarsConfig):
        raise UserError(
            f"data.held_out and data.labels need samples with names, of shards: data.source.type={source.type!r} has none; "
            'make shards (mmclip shards make) and use type = "tars"'
        )
    shards = source.shards if isinstance(source.shards, str) else "::".join(source.shards)
    captions = data.captions or ()
    path, split = _of_set(shards) if labels.place is not None else (shards, "test")
    if labels.place is None:
        return SetConfig(name=name, path=path, split=split, captions=captions)
    return SetConfig(
        name=name,
        path=path,
        split=split,
        label=labels.place,
        class_names=labels.class_names,
        templates=labels.templates,
        language=labels.language,
    )


def _of_set(shards: str) -> tuple[str, str]:
    """A split of a set in CLIP_benchmark's layout, whose folder knows the names of the classes; else the shards."""
    folder = Path(shards)
    is_split = "::" not in shards and folder.is_dir() and (folder.parent / CLASS_NAMES).is_file()
    return (str(folder.parent), folder.name) if is_split else (shards, "test")


def _held_out(dataset: EvalDataset, data: DataConfig) -> list[int]:
    return [] if not data.held_out.share else held_out_of(dataset.samples, data.held_out)
