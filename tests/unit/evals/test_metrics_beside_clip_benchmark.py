"""Our figures are CLIP_benchmark 1.6.2's on the same embeddings, to 1e-6; tests/golden says how its own were made."""

import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from mmclip_eval.metrics.classification import mean_per_class_recall, top_k_accuracy, true_class_rank
from mmclip_eval.metrics.multilabel import average_precision
from mmclip_eval.metrics.selection import select
from mmclip_eval.prompts.prompt_set import ClassTexts, PromptSet
from mmclip_eval.retrieval import zero_shot_retrieval
from mmclip_eval.zero_shot import class_weights

GOLDEN = json.loads((Path(__file__).parents[2] / "golden" / "clip_benchmark_metrics.json").read_text())
IMAGES = F.normalize(torch.tensor(GOLDEN["images"]), dim=1)


def encode_texts(texts):
    return F.normalize(torch.tensor([GOLDEN["texts"][text] for text in texts]), dim=1)


@pytest.fixture
def scores():
    prompts = PromptSet(templates=tuple(GOLDEN["templates"]), source="golden")
    texts = ClassTexts(tuple((name,) for name in GOLDEN["class_names"]), prompts)
    return IMAGES @ class_weights(texts, encode_texts).T


def test_classification(scores):
    labels = torch.tensor(GOLDEN["labels"])
    rank = true_class_rank(scores, labels)
    found = {
        "acc1": top_k_accuracy(rank, 1),
        "acc5": top_k_accuracy(rank, 5),
        "mean_per_class_recall": mean_per_class_recall(rank == 0, labels),
    }
    assert found == pytest.approx(GOLDEN["classification"], abs=1e-6)


def test_labels_that_are_not_exclusive(scores):
    found = float(average_precision(scores, torch.tensor(GOLDEN["positive"]).bool()).mean())
    assert found == pytest.approx(GOLDEN["multilabel"]["mean_average_precision"], abs=1e-6)


def test_retrieval():
    captions = [caption for own in GOLDEN["captions"] for caption in own]
    owner = torch.arange(len(captions)) // len(GOLDEN["captions"][0])
    found = dict(zero_shot_retrieval(IMAGES, encode_texts(captions), owner))
    assert GOLDEN["retrieval"].keys() <= found.keys()
    for name, expected in GOLDEN["retrieval"].items():
        assert found[name].value == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(("kind", "pictures"), [("two_pictures", 2), ("one_picture", 1)])
def test_selection(kind, pictures):
    instances = len(GOLDEN["pairs"])
    images = IMAGES[: instances * pictures].unflatten(0, (instances, pictures))
    captions = encode_texts([text for pair in GOLDEN["pairs"] for text in pair]).unflatten(0, (instances, 2))
    found = select(images @ captions.mT)
    figures = {"image_acc": found.image, "text_acc": found.text, "acc": found.both}
    means = {name: float(right.double().mean()) for name, right in figures.items()}
    assert means == pytest.approx(GOLDEN[kind], abs=1e-6)
