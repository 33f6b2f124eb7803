"""The text tower of a pair: an encoder of transformers with its own weights, tokenizer, pooling and context length."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from mmclip.errors import UserError
from mmclip.release.hf.files import hf_folder, hf_tensors
from mmclip.towers.weights import read_json

POOLERS = {"mean": "mean_pooler", "cls": "cls_last_hidden_state_pooler", "pooled": "cls_pooler"}
"""Words of a source, and open_clip's names."""
SENTENCE_POOLING = {"pooling_mode_mean_tokens": "mean", "pooling_mode_cls_token": "cls"}
"""Switches of sentence-transformers, and our words."""
PARTS_OUTSIDE = ("pooler.", "cls.", "lm_head.", "decoder.")
"""What a text encoder of open_clip leaves out: heads of pre-training."""


@dataclass(frozen=True)
class TextTower:
    """An encoder, before it is part of a model."""

    name: str
    """As it was asked for."""
    folder: Path
    config: dict[str, Any]
    tensors: dict[str, Tensor]
    pooler: str
    """One of `POOLERS`."""
    context_length: int
    width: int


def read_text_tower(name: str, pooler: str | None = None, context_length: int | None = None) -> TextTower:
    """The encoder in a folder or a repository of the hub.

    Raises:
        UserError: it is missing or damaged, of a kind that open_clip cannot run, or pools in a way that it cannot.
    """
    from open_clip.hf_configs import arch_dict

    folder = hf_folder(name)
    config = read_json(folder / "config.json")
    kind = config.get("model_type")
    if kind not in arch_dict:
        raise UserError(
            f"hf:{name} is of type {kind!r}: open_clip runs text encoders of {', '.join(arch_dict)}; choose one of these"
        )
    pooler = pooler or _pooler_of(folder, name)
    if pooler not in POOLERS:
        raise UserError(f"pooler={pooler}: expected one of {', '.join(POOLERS)}")
    return TextTower(
        name=name,
        folder=folder,
        config=config,
        tensors=hf_tensors(folder),
        pooler=pooler,
        context_length=_context_length(folder, config, context_length),
        width=int(config[arch_dict[kind]["config_names"]["width"]]),
    )


def _pooler_of(folder: Path, name: str) -> str:
    """What sentence-transformers records; `mean` where nothing is recorded, as open_clip's own pairs have it."""
    path = folder / "1_Pooling" / "config.json"
    if not path.is_file():
        return "mean"
    switches = [switch for switch, on in read_json(path).items() if switch.startswith("pooling_mode_") and on is True]
    if len(switches) != 1 or switches[0] not in SENTENCE_POOLING:
        raise UserError(
            f"hf:{name} pools by {', '.join(switches) or 'nothing'} ({path}): open_clip has no such pooler; "
            f"#pooler= takes one of {', '.join(POOLERS)}, and would change its embeddings"
        )
    return SENTENCE_POOLING[switches[0]]


def _context_length(folder: Path, config: dict[str, Any], asked: int | None) -> int:
    """What is asked for, else what sentence-transformers cut texts at, else the encoder's positions, else open_clip's 77."""
    path = folder / "sentence_bert_config.json"
    recorded = read_json(path).get("max_seq_length") if path.is_file() else None
    positions = config.get("max_position_embeddings")
    if "roberta" in config["model_type"] and positions:
        positions -= config.get("pad_token_id", 1) + 1
    if asked and positions and asked > positions:
        raise UserError(f"context_length={asked}: {config['model_type']} of {folder} has {positions} positions")
    return int(asked or recorded or positions or 77)
