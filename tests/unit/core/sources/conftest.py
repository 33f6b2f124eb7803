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


CLIP_SPECIALS = ["<|startoftext|>", "<unk>"]
"""Of the tiny CLIP; its end token comes last, as OpenAI's does."""


def clip_tokenizer(context_length: int) -> Any:
    """OpenAI's kind of tokenizer, over the letters of `WORDS`."""
    letters = sorted({letter for word in WORDS for letter in word})
    names = [*CLIP_SPECIALS, *letters, *(f"{letter}</w>" for letter in letters), "<|endoftext|>"]
    vocabulary = {name: number for number, name in enumerate(names)}
    made = transformers.CLIPTokenizer(vocab=vocabulary, merges=[])
    made.model_max_length = context_length
    return made


TOWER = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 43}
"""43 / 32 is no ratio from which an integer follows exactly."""


def save_clip(folder: Path, eos_token_id: int | None = None, **changes: Any) -> Path:
    """A random CLIPModel with its tokenizer and processor; `eos_token_id` is by default the tokenizer's."""
    tokenizer = clip_tokenizer(24)
    towers = TOWER | {"hidden_act": "quick_gelu"} | changes
    config = transformers.CLIPConfig(
        text_config={
            **towers, "vocab_size": len(tokenizer), "max_position_embeddings": 24, "bos_token_id": 0, "pad_token_id": 1,
            "eos_token_id": tokenizer.eos_token_id if eos_token_id is None else eos_token_id,
        },
        vision_config={**towers, "num_attention_heads": 4, "image_size": 40, "patch_size": 8},
        projection_dim=24,
    )  # fmt: skip
    torch.manual_seed(7)
    model = transformers.CLIPModel(config).eval()
    with torch.no_grad():
        model.logit_scale.fill_(3.21)
    model.save_pretrained(folder)
    size = {"height": 40, "width": 40}
    pictures = transformers.CLIPImageProcessor(size={"shortest_edge": 40}, crop_size=size, resample=2)
    transformers.CLIPProcessor(image_processor=pictures, tokenizer=tokenizer).save_pretrained(folder)
    return folder


def save_siglip(folder: Path, **changes: Any) -> Path:
    """A random SiglipModel with a tokenizer as SigLIP 2 has it: of the fast kind, case left to the caller."""
    made = word_level(["<pad>", "</s>", "<unk>"])
    made.normalizer = tokenizers.normalizers.NFC()
    made.post_processor = tokenizers.processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    names = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=made, model_max_length=16, **names)
    towers = TOWER | {"hidden_act": "gelu_pytorch_tanh"} | changes
    config = transformers.SiglipConfig(
        text_config={**towers, "vocab_size": len(tokenizer), "max_position_embeddings": 16, "projection_size": 32,
                     "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 1},
        vision_config={**towers, "num_attention_heads": 4, "image_size": 32, "patch_size": 8},
    )  # fmt: skip
    torch.manual_seed(9)
    model = transformers.SiglipModel(config).eval()
    with torch.no_grad():
        model.logit_scale.fill_(2.5)
        model.logit_bias.fill_(-7.5)
        for (
            parameter
        ) in model.parameters():  # biases and norms are zeros and ones at birth, whichever way they are read
            parameter.add_(0.02 * torch.randn_like(parameter))
        model.logit_scale.fill_(2.5)
        model.logit_bias.fill_(-7.5)
    model.save_pretrained(folder)
    pictures = transformers.SiglipImageProcessor(size={"height": 32, "width": 32})
    transformers.SiglipProcessor(image_processor=pictures, tokenizer=tokenizer).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of transformers' CLIP."""
    return save_clip(tmp_path_factory.mktemp("tiny-clip"))


@pytest.fixture(scope="session")
def tiny_siglip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of transformers' SigLIP, which is that of SigLIP 2 of fixed resolution too."""
    return save_siglip(tmp_path_factory.mktemp("tiny-siglip"))


@pytest.fixture(scope="session")
def make_clip() -> Callable[..., Path]:
    """`save_clip`."""
    return save_clip


@pytest.fixture(scope="session")
def make_siglip() -> Callable[..., Path]:
    """`save_siglip`."""
    return save_siglip


@pytest.fixture(scope="session")
def stock_embeddings() -> Callable[..., tuple[torch.Tensor, torch.Tensor]]:
    """`embeddings_of`."""
    return embeddings_of


def embeddings_of(folder: Path, texts: list[str], pictures: list[Image.Image]) -> tuple[torch.Tensor, torch.Tensor]:
    """What transformers makes of pictures and texts by its own preprocessing and tokenizer, each of length 1."""
    model = transformers.AutoModel.from_pretrained(folder).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    processor = transformers.AutoImageProcessor.from_pretrained(folder, backend="pil")
    length = model.config.text_config.max_position_embeddings
    tokens = tokenizer(texts, padding="max_length", truncation=True, max_length=length, return_tensors="pt").input_ids
    with torch.no_grad():
        image = model.get_image_features(**processor(images=pictures, return_tensors="pt")).pooler_output
        text = model.get_text_features(input_ids=tokens).pooler_output
    return torch.nn.functional.normalize(image, dim=-1), torch.nn.functional.normalize(text, dim=-1)
