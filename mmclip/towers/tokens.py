"""Whether a tokenizer is the one that a text tower was trained with, as far as their files can tell."""

from collections.abc import Mapping
from typing import Any

from mmclip.errors import UserError
from mmclip.tokenizer import Tokenizer
from mmclip.towers.own_keys import HF_CONFIG

PROBE = "a cat"


def refuse_other_tokenizer(tokenizer: Tokenizer, text_cfg: Mapping[str, Any], where: str, end: bool = True) -> None:
    """Refuse a tokenizer whose ids the tower has no embedding for, or whose padding or, with `end`, end it does not know.

    Raises:
        UserError: naming the number that differs.
    """
    config = text_cfg.get(HF_CONFIG) or {}
    if "hf_model_name" in text_cfg and not config:  # its vocabulary stands elsewhere
        return
    known = config.get("vocab_size", text_cfg.get("vocab_size", 49408))
    if tokenizer.vocabulary_size > known:
        raise UserError(
            f"{where}: the tokenizer has {tokenizer.vocabulary_size:,} tokens and the text tower embeds {known:,}: it is "
            "another model's; put the tokenizer files beside the weights that they were trained with"
        )
    pad_id = config.get("pad_token_id")
    if pad_id is not None and tokenizer.pad_id not in (None, pad_id):
        raise UserError(
            f"{where}: the tokenizer pads with id {tokenizer.pad_id} and the text tower masks id {pad_id}: it is another "
            "model's; put the tokenizer files beside the weights that they were trained with"
        )
    pool, end = text_cfg.get("pool_type", "argmax"), text_cfg.get("eos_id", 2)
    if not end or config or pool not in ("argmax", "eos"):
        return
    row = tokenizer([PROBE])[0]
    if pool == "eos" and not bool((row == end).any()):
        raise UserError(
            f"{where}: the text tower reads a caption at id {end}, which the tokenizer puts behind none "
            f"({PROBE!r} gives {row[:8].tolist()}): it is another model's, or eos_id is wrong"
        )
    if pool == "argmax" and tokenizer.end_id not in (None, int(row.max())):
        raise UserError(
            f"{where}: the text tower reads a caption at its highest id, and the tokenizer ends it with "
            f"{tokenizer.end_id}, not with {int(row.max())}: it is another model's"
        )
