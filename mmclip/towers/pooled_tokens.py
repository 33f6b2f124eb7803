"""Which token of a sequence stands for the whole, and which are no more than padding."""

from typing import Any

import torch
from jaxtyping import Int
from open_clip.timm_model import TimmModel
from open_clip.transformer import TextTransformer
from torch import Tensor

from mmclip.towers.blocks import image_tower
from mmclip.towers.text import HuggingFaceText, NativeText, StockText, TextEncoder, pool_type, pooled_column

READ_AT_WORD = ("argmax", "eos")
"""Kinds of pooling that read a caption at its end token: what follows is padding."""
FIRST_POOLERS = ("ClsPooler", "ClsLastHiddenStatePooler")


def pooled_image_token(backbone: Any) -> int | None:
    """The place of the class token that an image tower pools; None where it pools in another way."""
    visual = image_tower(backbone)
    if isinstance(visual, TimmModel):
        return 0 if getattr(visual.trunk, "global_pool", None) == "token" else None
    is_read = getattr(visual, "pool_type", None) == "tok" and getattr(visual, "attn_pool", None) is None
    return 0 if is_read else None


def pooled_text_tokens(encoder: TextEncoder, tokens: Int[Tensor, "batch token"]) -> Int[Tensor, " batch"] | None:
    """The place of the token that a text tower pools of each caption, -1 for the last; None where it pools in another way."""
    if isinstance(encoder, HuggingFaceText):
        is_first = type(encoder.tower.pooler).__name__ in FIRST_POOLERS
        return torch.zeros_like(tokens[:, 0]) if is_first else None
    held: Any = encoder
    tower = getattr(held.backbone, "text", held.backbone) if isinstance(encoder, StockText) else held.tower
    if getattr(tower, "cls_emb", None) is not None:
        return torch.full_like(tokens[:, 0], -1)
    is_native = isinstance(encoder, NativeText) or isinstance(tower, TextTransformer)
    return pooled_column(tokens, tower) if is_native and pool_type(tower) != "none" else None


def text_tokens(encoder: TextEncoder, tokens: Int[Tensor, "batch token"], pad_id: int | None) -> Int[Tensor, " batch"]:
    """How many tokens each caption has before its padding, at least 1; `pad_id` is the tokenizer's."""
    if isinstance(encoder, NativeText) and pool_type(encoder.tower) in READ_AT_WORD:
        return pooled_column(tokens, encoder.tower) + 1
    own = getattr(encoder, "pad_id", None)  # of an encoder that masks its padding
    pad = own if own is not None else pad_id or 0
    behind = (tokens != pad).flip(1).int().argmax(dim=1)
    is_empty = (tokens == pad).all(dim=1)
    return torch.where(is_empty, torch.ones_like(behind), tokens.shape[1] - behind)
