"""Small towers of every kind, and the stock open_clip modules that they must equal."""

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mmclip.towers.two_tower import TwoTower

CONTEXT, VOCABULARY = 24, 100
VISION = {"image_size": 32, "patch_size": 8, "width": 32, "layers": 2, "head_width": 16}
TEXT = {"context_length": CONTEXT, "vocab_size": VOCABULARY, "width": 32, "heads": 2, "layers": 2}


def configurations() -> dict[str, Any]:
    """Those of transformers for each kind of text tower that open_clip can wrap."""
    from transformers import BertConfig, M2M100Config, MT5Config, RobertaConfig, XLMRobertaConfig

    bert = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
    bert |= {"vocab_size": VOCABULARY, "max_position_embeddings": 40}
    m2m = {f"{side}_{name}": 2 for side in ("encoder", "decoder") for name in ("layers", "attention_heads")}
    return {
        "roberta": RobertaConfig(**bert, pad_token_id=1),
        "xlm-roberta": XLMRobertaConfig(**bert, pad_token_id=1),
        "bert": BertConfig(**bert, pad_token_id=0),
        "mt5": MT5Config(d_model=32, d_kv=16, d_ff=48, num_layers=2, num_heads=2, vocab_size=VOCABULARY),
        "m2m_100": M2M100Config(d_model=32, vocab_size=VOCABULARY, encoder_ffn_dim=48, decoder_ffn_dim=48, **m2m),
    }


@pytest.fixture(scope="session")
def hugging_face(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], str]:
    """A folder that stands for a name on the hub, by kind."""
    folder = tmp_path_factory.mktemp("hub")
    known = configurations()

    def named(kind: str) -> str:
        known[kind].save_pretrained(folder / kind)
        return str(folder / kind)

    return named


@pytest.fixture
def model_cfg() -> Callable[..., dict[str, Any]]:
    """A table of two small towers with other settings laid over."""

    def made(vision: dict | None = None, text: dict | None = None, **others: Any) -> dict[str, Any]:
        own_vision = vision if vision and "timm_model_name" in vision else VISION | (vision or {})
        own_text = {"context_length": CONTEXT} | text if text and "hf_model_name" in text else TEXT | (text or {})
        return deepcopy({"embed_dim": 16, "vision_cfg": own_vision, "text_cfg": own_text} | others)

    return made


@pytest.fixture
def stock_of() -> Callable[[TwoTower], Any]:
    """open_clip's own module with the same weights, which none of our code has touched."""

    def twin(towers: TwoTower) -> nn.Module:
        from open_clip.model import CLIP, CustomTextCLIP

        table = deepcopy(towers.model_cfg)
        custom = table.pop("custom_text", False) or "hf_model_name" in table["text_cfg"]
        table["text_cfg"] |= {"hf_model_pretrained": False} if "hf_model_name" in table["text_cfg"] else {}
        stock = (CustomTextCLIP if custom else CLIP)(**table, nonscalar_logit_scale=True)
        stock.load_state_dict(towers.backbone.state_dict())
        stock.to(towers.logit_scale.dtype).train(towers.training)
        return stock

    return twin


@pytest.fixture
def captions() -> Callable[..., Tensor]:
    """Tokens of a context's width: start, words, end, padding; the end token has the highest id."""

    def made(lengths: list[int], pad_id: int = 0, width: int = CONTEXT) -> Tensor:
        generator = torch.Generator().manual_seed(sum(lengths))
        tokens = torch.full((len(lengths), width), pad_id)
        for row, length in zip(tokens, lengths, strict=True):
            row[:length] = torch.randint(3, VOCABULARY - 1, (length,), generator=generator)
            row[length - 1] = VOCABULARY - 1
        return tokens

    return made


@pytest.fixture
def gradients() -> Callable[[nn.Module, Tensor], dict[str, Tensor]]:
    """Of all parameters, for one fixed random loss over embeddings."""

    def of(module: nn.Module, embed: Tensor) -> dict[str, Tensor]:
        module.zero_grad()
        weights = torch.randn(embed.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        (embed * weights.to(embed.dtype)).sum().backward()
        found = {name: p.grad.clone() for name, p in module.named_parameters() if p.grad is not None}
        module.zero_grad()
        return found

    return of
