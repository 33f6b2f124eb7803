"""Tiny models of other libraries, made here from their configurations, with tokenizers of a few words."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tokenizers
import torch
import transformers
from PIL import Image
from sklearn.datasets import load_sample_images

WORDS = ["a", "red", "cat", "two", "dogs", "on", "sofa", "x", "blue", "apple", "and"]
TEXTS = ["a cat", "two dogs on a red sofa", "x", "a blue apple and a red cat on a sofa"]


@pytest.fixture(scope="session")
def texts() -> list[str]:
    """Captions of words that the tokenizers of this folder know."""
    return TEXTS


@pytest.fixture(scope="session")
def pictures() -> list[Image.Image]:
    """Real photographs, of different shapes."""
    images = [Image.fromarray(pixels) for pixels in load_sample_images().images]
    return [images[0].resize((91, 60)), images[1].crop((0, 0, 130, 200))]


def word_level(specials: list[str]) -> Any:
    """A tokenizer of `specials` and `WORDS`, in this order."""
    vocabulary = {word: number for number, word in enumerate([*specials, *WORDS])}
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token=specials[-1]))
    made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    made.normalizer = tokenizers.normalizers.Lowercase()
    return made


@pytest.fixture(scope="session")
def tiny_bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of transformers: a BERT of two layers with its tokenizer and the notes of sentence-transformers."""
    folder = tmp_path_factory.mktemp("tiny-bert")
    made = word_level(["[PAD]", "[CLS]", "[SEP]", "[UNK]"])
    made.post_processor = tokenizers.processors.BertProcessing(("[SEP]", 2), ("[CLS]", 1))
    names = {"pad_token": "[PAD]", "cls_token": "[CLS]", "sep_token": "[SEP]", "unk_token": "[UNK]"}
    transformers.PreTrainedTokenizerFast(tokenizer_object=made, **names).save_pretrained(str(folder))
    torch.manual_seed(5)
    config = transformers.BertConfig(
        vocab_size=len(WORDS) + 4, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=48,
        max_position_embeddings=40, pad_token_id=0, hidden_act="gelu",
    )  # fmt: skip
    transformers.BertModel(config).eval().save_pretrained(str(folder))
    (folder / "sentence_bert_config.json").write_text('{"max_seq_length": 20}')
    return folder


@pytest.fixture
def changed_copy(tmp_path: Path) -> Callable[..., Path]:
    """A copy of a folder with a table of one JSON file changed."""
    import json
    import shutil

    def copy(folder: Path, file: str, **changes: Any) -> Path:
        target = tmp_path / f"copy-{len(list(tmp_path.iterdir()))}"
        shutil.copytree(folder, target)
        table = json.loads((target / file).read_text())
        for name, value in changes.items():
            *parents, last = name.split("__")
            inner = table
            for parent in parents:
                inner = inner[parent]
            inner[last] = value
        (target / file).write_text(json.dumps(table))
        return target

    return copy
