"""A set of four colours, and models whose answers are written down by the test."""

import io
import json
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from mmclip_eval.compare.behaviour.seen import Seen
from mmclip_eval.datasets import EvalDatasetConfig, open_dataset
from mmclip_eval.eval_dataset import EvalDataset
from mmclip_eval.tasks.registry import read_task

COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255), "white": (255, 255, 255)}
NAMES = tuple(COLOURS)
EACH = 10


@pytest.fixture
def dataset(tmp_path: Path) -> EvalDataset:
    """Ten pictures of each colour, in turns; the first half of each is indoors; two captions each, all different."""
    path = tmp_path / "colours.tar"
    with tarfile.open(path, "w") as archive:
        for number in range(EACH * len(NAMES)):
            name = NAMES[number % len(NAMES)]
            buffer = io.BytesIO()
            Image.new("RGB", (12, 10), COLOURS[name]).save(buffer, format="PNG")
            place = "indoors" if number < EACH * len(NAMES) // 2 else "outdoors"
            members = {
                "png": buffer.getvalue(),
                "cls": str(number % len(NAMES)).encode(),
                "json": json.dumps({"captions": [f"a {name} {number}", f"{name}, {number}"], "place": place}).encode(),
            }
            for extension, data in members.items():
                member = tarfile.TarInfo(f"s{number:04}.{extension}")
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))
    settings = EvalDatasetConfig(
        name="colours",
        path=str(path),
        class_names=NAMES,
        templates=("{c}",),
        captions=("json:captions",),
        group="json:place",
        tasks=tuple(read_task(task, dict) for task in ("zero_shot_classification", "zero_shot_retrieval")),
    )
    return open_dataset(settings).dataset


@pytest.fixture
def says(dataset: EvalDataset) -> Callable[..., Seen]:
    """A model that answers each picture as told, by the number of its class."""

    def made(answers: Sequence[int], name: str = "model", scale: float = 10.0) -> Seen:
        classes = torch.eye(8)[:4]
        own = torch.tensor(list(answers))
        samples = torch.arange(len(own))
        noise = torch.randn(len(own), 8, generator=torch.Generator().manual_seed(0)) * 0.05
        images = F.normalize(classes[own] + noise, dim=-1)
        owner = dataset.captioned.image_of_caption
        captions = F.normalize(images[owner] + 0.01, dim=-1)
        assert len(samples) == len(dataset.samples)
        return Seen(dataset, images, classes, captions, name, scale)

    return made


@pytest.fixture
def truth(dataset: EvalDataset) -> list[int]:
    """The class of each sample."""
    return dataset.labelled.labels.tolist()
