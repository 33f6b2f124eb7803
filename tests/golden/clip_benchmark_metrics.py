"""What CLIP_benchmark 1.6.2 makes of embeddings that are written down: run by hand, its output is the file beside it.

pip install --no-deps clip-benchmark==1.6.2 "numpy<2.4"    # its accuracy() fails on a later numpy
python tests/golden/clip_benchmark_metrics.py > tests/golden/clip_benchmark_metrics.json

Its own dependencies are a Java captioning suite and an old webdataset, which is why no test installs it.
"""

import json
from importlib.metadata import version

import torch
from clip_benchmark.metrics import image_caption_selection, zeroshot_classification, zeroshot_retrieval

EMBED, PICTURES, CLASSES, CAPTIONS = 5, 90, 7, 3
TEMPLATES = ["a photo of {c}.", "{c} on a table"]
NAMES = [f"thing {number}" for number in range(CLASSES)]


class Written:
    """A model whose pictures are their embeddings, and whose texts are rows of a table."""

    def __init__(self, table: torch.Tensor) -> None:
        self.table = table

    def encode_image(self, pictures: torch.Tensor) -> torch.Tensor:
        return pictures.flatten(1)

    def encode_text(self, rows: torch.Tensor) -> torch.Tensor:
        return self.table[rows]


class Labels(list):
    """Batches of pictures and labels, with the names that CLIP_benchmark counts."""

    dataset = type("Dataset", (), {"classes": NAMES})


def drawn(*shape: int) -> torch.Tensor:
    """Numbers that four decimals write down exactly."""
    return (torch.randn(*shape) * 1e4).round() / 1e4


def main() -> None:
    torch.manual_seed(0)
    labels = torch.randint(CLASSES, (PICTURES,))
    prompts = [template.format(c=name) for name in NAMES for template in TEMPLATES]
    captions = [[f"caption {k} of {i}" for k in range(CAPTIONS)] for i in range(PICTURES)]
    pairs = [[f"right {i}", f"wrong {i}"] for i in range(PICTURES // 2)]
    texts = prompts + [text for own in captions + pairs for text in own]
    table, images = drawn(len(texts), EMBED), drawn(PICTURES, EMBED)
    images += table[: 2 * CLASSES : 2][labels]  # not all noise: towards the first prompt of its class
    table[2 * CLASSES : 2 * CLASSES + PICTURES * CAPTIONS] += images.repeat_interleave(CAPTIONS, dim=0)
    images, table = (images * 1e4).round() / 1e4, (table * 1e4).round() / 1e4
    positive = torch.rand(PICTURES, CLASSES) < 0.3

    row = {text: number for number, text in enumerate(texts)}
    model, device = Written(table), "cpu"

    def tokenizer(given: list[str]) -> torch.Tensor:
        return torch.tensor([row[text] for text in given])

    def classify(target: torch.Tensor) -> dict[str, float]:
        batches = Labels([(images[:50], target[:50]), (images[50:], target[50:])])
        return zeroshot_classification.evaluate(model, batches, tokenizer, NAMES, TEMPLATES, device, amp=False)

    retrieval = zeroshot_retrieval.evaluate(
        model, [(images[:50], captions[:50]), (images[50:], captions[50:])], tokenizer, device, False, [1, 5, 10]
    )
    two = images.reshape(PICTURES // 2, 2, EMBED, 1, 1)
    one = images[: PICTURES // 2].reshape(PICTURES // 2, EMBED, 1, 1)
    select = image_caption_selection.evaluate
    found = {
        "made_with": {name: version(name) for name in ("clip-benchmark", "numpy", "scikit-learn", "torch")},
        "images": images.tolist(),
        "texts": dict(zip(texts, table.tolist(), strict=True)),
        "labels": labels.tolist(),
        "positive": positive.long().tolist(),
        "templates": TEMPLATES,
        "class_names": NAMES,
        "captions": captions,
        "pairs": pairs,
        "classification": classify(labels),
        "multilabel": classify(positive.long()),
        "retrieval": retrieval,
        "two_pictures": select(model, [(two, pairs)], tokenizer, device, amp=False),
        "one_picture": select(model, [(one, pairs)], tokenizer, device, amp=False),
    }
    print(json.dumps({name: _rounded(value) for name, value in found.items()}, indent=None))


def _rounded(value):
    if isinstance(value, list) and value and isinstance(value[0], list) and isinstance(value[0][0], float):
        return [[round(entry, 4) for entry in row] for row in value]
    if isinstance(value, dict) and all(isinstance(row, list) for row in value.values()):
        return {name: [round(entry, 4) for entry in row] for name, row in value.items()}
    return value


if __name__ == "__main__":
    main()
