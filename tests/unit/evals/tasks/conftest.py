"""A small suite for every task: the sets that it needs, and the one that it is measured on; and models to measure."""

import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from mmclip.preprocess import ImageSpec
from mmclip.towers.class_head import ClassHead
from mmclip_eval.datasets import EvalDatasetConfig
from mmclip_eval.results.result import EvalResult, ModelIdentity
from mmclip_eval.suite import evaluate
from mmclip_eval.tasks.registry import TASKS

CLASSES = ("red", "green", "blue", "olive", "teal", "plum")
TEMPLATES = ("a {c} thing", "something {c}")
TONES = torch.tensor([[220, 40, 40], [40, 200, 60], [50, 60, 220], [120, 130, 30], [30, 130, 140], [150, 60, 150]])
Sample = Mapping[str, bytes]
WriteTar = Callable[[Path, Sequence[Sample]], None]


class ToneModel:
    """Embeds what little there is in a picture: its pixels, through a fixed matrix; a text is the tones that it names."""

    spec = ImageSpec(size=(6, 6))
    device = torch.device("cpu")
    logit_scale = torch.tensor(3.0)  # its logarithm, as in a tower

    def __init__(self) -> None:
        self.matrix = torch.randn(108, 24, generator=torch.Generator().manual_seed(0)) / 108**0.5
        self.class_head = self.head()

    def head(self) -> ClassHead:
        """The tones themselves as weights."""
        tones = self.embed_uint8(TONES[:, :, None, None].expand(6, 3, 6, 6))
        head = ClassHead(CLASSES, 24)
        head.fill(F.normalize(tones, dim=1), torch.zeros(6))
        return head

    def embed_uint8(self, images: Tensor) -> Tensor:
        # Row by row and in double precision: no chunk moves a digit.
        rows = [(image.double().flatten() / 255 - 0.4) @ self.matrix.double() for image in images]
        return torch.stack(rows).float()

    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        tones = [[i for i, name in enumerate(CLASSES) if name in text] or range(len(CLASSES)) for text in texts]
        pictures = [TONES[list(found)].double().mean(dim=0)[:, None, None].expand(3, 6, 6) for found in tones]
        # A little of the text itself, so that no two texts are alike.
        own = torch.tensor([[len(text) * 0.001, sum(map(ord, text)) % 97 * 1e-4] for text in texts])
        return torch.cat([self.embed_uint8(torch.stack(pictures))[:, :22], own], dim=1)


class ConstantModel(ToneModel):
    """A collapsed model: one embedding for everything."""

    def head(self) -> ClassHead:
        return ClassHead(CLASSES, 37)

    def embed_uint8(self, images: Tensor) -> Tensor:
        return torch.full((len(images), 37), 37**-0.5)

    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        return torch.full((len(texts), 37), 37**-0.5)


class NanModel(ToneModel):
    """A model whose third picture it sees is not a number."""

    seen = -6  # the tones of its head come first

    def embed_uint8(self, images: Tensor) -> Tensor:
        embeds = super().embed_uint8(images)
        rows = torch.arange(self.seen, self.seen + len(images))
        self.seen += len(images)
        return embeds.masked_fill((rows >= 2)[:, None], torch.nan)


def picture(label: int, seed: int, noise: float = 90.0) -> bytes:
    """PNG bytes of a noisy tone."""
    generator = np.random.default_rng([label, seed])
    pixels = TONES[label].numpy() + generator.normal(0, noise, (6, 6, 3)) + generator.normal(0, noise / 2, 3)
    buffer = io.BytesIO()
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(buffer, format="PNG")
    return buffer.getvalue()


@dataclass(frozen=True)
class Setup:
    """Sets of a suite; the first is measured."""

    sets: tuple[EvalDatasetConfig, ...]

    @property
    def measured(self) -> str:
        return self.sets[0].name


def labelled_samples(count: int, first: int, **more: Callable[[int], bytes]) -> list[Sample]:
    """Samples of the six classes in turn; `more` adds members."""
    return [
        {"cls": b"%d" % (i % 6), "png": picture(i % 6, i)} | {name: make(i) for name, make in more.items()}
        for i in range(first, first + count)
    ]


def folder(root: Path, write_tar: WriteTar, splits: Mapping[str, Sequence[Sample]], kind: str | None = None) -> Path:
    """A folder in CLIP_benchmark's layout."""
    for split, samples in splits.items():
        write_tar(root / split / "0.tar", samples)
        (root / split / "nshards.txt").write_text("1")
    (root / "classnames.txt").write_text("\n".join(CLASSES))
    (root / "zeroshot_classification_templates.txt").write_text("\n".join(TEMPLATES))
    if kind is not None:
        (root / "dataset_type.txt").write_text(kind)
    return root


def with_task(root: Path, task: Any, *others: EvalDatasetConfig, **settings: Any) -> Setup:
    """A task is a name, a table, or a task."""
    made = TASKS[task["type"]](**{k: v for k, v in task.items() if k != "type"}) if isinstance(task, dict) else task
    return Setup((EvalDatasetConfig(name="measured", path=str(root), tasks=(made,), **settings), *others))


def plain(root: Path, write_tar: WriteTar, task: str | Mapping[str, Any]) -> Setup:
    return with_task(folder(root, write_tar, {"test": labelled_samples(48, 0)}), task)


def trained(root: Path, write_tar: WriteTar, task: str | Mapping[str, Any]) -> Setup:
    splits = {"test": labelled_samples(48, 0), "train": labelled_samples(60, 1000)}
    return with_task(folder(root, write_tar, splits), task)


def retrieval(root: Path, write_tar: WriteTar, task: str) -> Setup:
    samples = [
        {"png": picture(i % 6, i), "txt": b"%s no %d\nthe %d" % (CLASSES[i % 6].encode(), i, i)} for i in range(30)
    ]
    return with_task(folder(root, write_tar, {"test": samples}, "retrieval"), task)


def multilabel(root: Path, write_tar: WriteTar, task: str) -> Setup:
    def vector(i: int) -> bytes:
        buffer = io.BytesIO()
        np.save(buffer, np.eye(6, dtype=np.int64)[[i % 6, (i * i) % 6]].max(axis=0))
        return buffer.getvalue()

    samples = [{"png": picture(i % 6, i), "npy": vector(i)} for i in range(48)]
    return with_task(folder(root, write_tar, {"test": samples}, "multilabel"), task)


def selection(root: Path, write_tar: WriteTar, task: str) -> Setup:
    samples = []
    for i in range(24):
        names = CLASSES[i % 6], CLASSES[(i + 1 + i // 6) % 6]
        pictures = {"png": picture(i % 6, i)}
        if i % 2:  # every other instance has two pictures, as in Winoground
            pictures = {"0.png": picture(i % 6, i), "1.png": picture((i + 1 + i // 6) % 6, i)}
        else:
            pictures = {"0.png": picture(i % 6, i)}
        captions = [f"a {name} one, {i}" for name in names]
        samples.append({**pictures, "json": json.dumps({"captions": captions, "kind": f"kind {i % 3}"}).encode()})
    write_tar(root / "pairs.tar", samples)
    settings = {"captions": ("json:captions",), "pictures": ("0.png", "1.png"), "group": "json:kind"}
    return with_task(root / "pairs.tar", task, **settings)


def grouped(root: Path, write_tar: WriteTar, task: str | Mapping[str, Any]) -> Setup:
    def region(i: int) -> bytes:
        return json.dumps({"region": "small" if i >= 44 else f"region {i % 3}"}).encode()

    made = folder(root, write_tar, {"test": labelled_samples(48, 0, json=region)})
    return with_task(made, task, group="json:region")


def beside(root: Path, write_tar: WriteTar, task: Mapping[str, Any], noise: float) -> Setup:
    """Another set of the suite, of other pictures."""
    other = [{"cls": b"%d" % (i % 6), "png": picture(i % 6, i, noise)} for i in range(500, 560)]
    made = folder(root / "own", write_tar, {"test": labelled_samples(48, 0)})
    path = folder(root / "other", write_tar, {"test": other})
    return with_task(made, task, EvalDatasetConfig(name="other", path=str(path)))


SETUPS: dict[str, Callable[[Path, WriteTar], Setup]] = {
    "zero_shot_classification": lambda root, write: plain(root, write, "zero_shot_classification"),
    "classifier": lambda root, write: plain(root, write, "classifier"),
    "zero_shot_retrieval": lambda root, write: retrieval(root, write, "zero_shot_retrieval"),
    "multilabel_classification": lambda root, write: multilabel(root, write, "multilabel_classification"),
    "image_caption_selection": lambda root, write: selection(root, write, "image_caption_selection"),
    "worst_group": lambda root, write: grouped(root, write, {"type": "worst_group", "min_group_size": 10}),
    "linear_probe": lambda root, write: trained(root, write, {"type": "linear_probe", "strength": 1.0}),
    "few_shot": lambda root, write: trained(root, write, {"type": "few_shot", "shots": (1,), "draws": 2}),
    "tip_adapter": lambda root, write: trained(root, write, {"type": "tip_adapter", "shots": 4}),
    "knn": lambda root, write: trained(root, write, "knn"),
    "calibration": lambda root, write: plain(root, write, "calibration"),
    "robustness": lambda root, write: beside(root, write, {"type": "robustness", "clean": "other"}, noise=20.0),
    "ood_detection": lambda root, write: beside(
        root, write, {"type": "ood_detection", "outside": ("other",)}, noise=250.0
    ),
}


@pytest.fixture
def setup_of(tmp_path, write_tar) -> Callable[[str], Setup]:
    """The suite of a task."""

    def made(task: str) -> Setup:
        assert task in SETUPS, f"a task needs a set that it can be tested on: add {task} to SETUPS in {__file__}"
        return SETUPS[task](tmp_path, write_tar)

    return made


@pytest.fixture(name="folder")
def folder_fixture() -> Callable[..., Path]:
    return folder


@pytest.fixture(name="labelled_samples")
def labelled_samples_fixture() -> Callable[[int, int], list[Sample]]:
    """Samples of the six classes in turn: how many, and the number of the first."""
    return labelled_samples


@pytest.fixture
def picture_of_tone() -> Callable[[int, int], bytes]:
    """A noisy picture of a class, by its number and a seed."""
    return picture


@pytest.fixture
def setup_with() -> Callable[..., Setup]:
    """A suite of a path and a task, other sets of it, and settings of the first."""
    return with_task


@pytest.fixture
def tone_pixels() -> Callable[[bytes], Tensor]:
    """What the model sees of a picture, which has its size already."""
    return lambda data: torch.from_numpy(np.array(Image.open(io.BytesIO(data)))).permute(2, 0, 1)


@pytest.fixture
def class_embed(tone_model) -> Tensor:
    """The classifier of a folder's prompts, made the naive way."""
    texts = [[template.format(c=name) for template in TEMPLATES] for name in CLASSES]
    rows = [F.normalize(tone_model.embed_texts(own), dim=1).mean(dim=0) for own in texts]
    return F.normalize(torch.stack(rows), dim=1)


@pytest.fixture
def result_of() -> Callable[..., EvalResult]:
    """The result of the set that is measured; others of the suite run the task that they ask for."""

    def found(model: ToneModel, setup: Setup, **settings: Any) -> EvalResult:
        results = list(
            evaluate(model, setup.sets, ModelIdentity(model="tones", precision="fp32", weights_sha256="00"), **settings)
        )
        (result,) = (result for result in results if result.dataset == setup.measured)
        return result

    return found


@pytest.fixture
def tone_model() -> ToneModel:
    return ToneModel()


@pytest.fixture
def collapsed_model() -> ConstantModel:
    return ConstantModel()


@pytest.fixture
def nan_model() -> NanModel:
    return NanModel()
