"""Low-rank adapters on the towers (LoRA, Hu et al. 2022), put in place by peft; on CLIP: Zanella and Ben Ayed 2024.

peft owns the adapters: their layers, their start, their scaling and their files. Only open_clip's fused attention is computed
by our own blocks (`block`): peft's way is to write the sum into the weights before each forward and to take it out
afterwards, which neither threads nor `torch.compile` bear, and in peft up to 0.21 it counts the adapter of the output
projection twice. That one therefore stays at zero, as CLIP-LoRA has none either; see docs/log.md.
"""

import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mmclip.errors import UserError
from mmclip.towers.block import ADAPTER, takes_rows
from mmclip.towers.blocks import blocks_of, image_tower, text_tower
from mmclip.towers.settings import LoraTable
from mmclip.towers.tensors import read_tensors

ATTENTION, LINEAR = "attention", "linear"
"""Words among the targets: projections to queries, keys and values, and all linear layers of the blocks."""
QUERIES_KEYS_VALUES = frozenset(
    {"qkv", "kv", "query", "key", "value", *"qkv", *(f"{letter}_{end}" for letter in "qkv" for end in ("proj", "lin"))}
)
"""What timm and transformers call the projections whose outputs attend; in open_clip they are one fused layer."""
ADAPTER_FILE, BASE_FILE, AVERAGE_FILE = "adapter_model.safetensors", "base.safetensors", "average.safetensors"
PEFT_PREFIX = "base_model.model."
"""Before every name in peft's files."""


def add_adapters(backbone: Any, table: LoraTable, rows: Mapping[str, bool]) -> None:
    """Put adapters in place and freeze everything else, the scale and the bias included (as CLIP-LoRA does).

    `rows` says of each tower whether its blocks run as ours, which fused attention needs.

    Raises:
        UserError: peft is not installed, or a tower has none of the target layers.
    """
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        raise UserError("towers.lora needs peft: pip install mmclip[lora]") from error
    names = [name for tower in table.of for name in _targets(backbone, tower, table.targets, rows[tower])]
    assert table.rank is not None, "asked for only where there are adapters"
    config = LoraConfig(
        r=table.rank,
        lora_alpha=table.alpha or table.rank,
        lora_dropout=table.dropout,
        target_modules="|".join(map(re.escape, names)),  # a list would match by the ends of names
        bias="none",
    )
    with warnings.catch_warnings():  # peft warns of what it does not know, such as models without a configuration
        warnings.simplefilter("ignore")
        inject_adapter_in_model(config, backbone, adapter_name=ADAPTER)
    for _, layer in _adapted(backbone):
        if isinstance(layer.get_base_layer(), nn.MultiheadAttention):
            layer.base_layer.out_proj.requires_grad_(False)  # B is 0 there, and stays so
    backbone.lora_config = config


def has_adapters(backbone: Any) -> bool:
    """Whether `add_adapters` was called."""
    return getattr(backbone, "lora_config", None) is not None


def merged_state(backbone: nn.Module) -> dict[str, Tensor]:
    """The plain weights that compute what base and adapters do together, under the names that stock code knows."""
    state = base_state(backbone)
    for name, layer in _adapted(backbone):
        weight = "in_proj_weight" if isinstance(layer.get_base_layer(), nn.MultiheadAttention) else "weight"
        key = f"{plain_name(name)}.{weight}"
        with torch.no_grad():
            state[key] = state[key] + layer.get_delta_weight(ADAPTER).to(state[key].dtype)
    return state


def base_state(backbone: nn.Module) -> dict[str, Tensor]:
    """The weights beneath the adapters, under the names that stock code knows."""
    return {plain_name(name): tensor for name, tensor in backbone.state_dict().items() if not _is_adapter(name)}


def adapter_state(backbone: nn.Module) -> dict[str, Tensor]:
    """The adapters alone, as peft's files name them."""
    return {_file_name(name): tensor for name, tensor in backbone.state_dict().items() if _is_adapter(name)}


def adapter_files(backbone: Any, average: Any | None) -> dict[str, dict[str, Tensor]]:
    """Base and adapters by file: peft opens their folder, and a resumed run goes on from the same bits.

    `average` is the backbone of an average over steps, where there is one.
    """
    files = {ADAPTER_FILE: adapter_state(backbone), BASE_FILE: base_state(backbone)}
    return files if average is None else {**files, AVERAGE_FILE: adapter_state(average)}


def adapter_config(backbone: Any, folder: Path) -> None:
    """Write peft's own configuration of the adapters."""
    backbone.lora_config.save_pretrained(str(folder))


def load_adapters(backbone: Any, average: Any | None, folder: Path) -> None:
    """Fill base and adapters with what stands in `adapter_files`, every tensor accounted for.

    Raises:
        UserError: the files are of other towers or another rank.
    """
    base = read_tensors(folder / BASE_FILE)
    _fill(backbone, {**base, **read_tensors(folder / ADAPTER_FILE)}, folder)
    if average is not None:
        _fill(average, {**base, **read_tensors(folder / AVERAGE_FILE)}, folder)


def plain_name(name: str) -> str:
    """A name without the layers that peft puts around others."""
    return name.replace(".base_layer", "")


def _targets(backbone: Any, tower: str, words: Sequence[str], rows: bool) -> list[str]:
    """Full names of the layers of a tower that get an adapter."""
    part = image_tower(backbone) if tower == "image" else text_tower(backbone)
    names = {module: name for name, module in backbone.named_modules()}
    found, seen = [], set[str]()
    for block in blocks_of(part):
        for name, layer in _linear_layers(block):
            seen.add(name)
            if _is_wanted(name, layer, words):
                found.append(f"{names[block]}.{name}")
                _refuse_foreign_attention(layer, block, tower, rows)
    if not found:
        ends = f", or ends of names: {', '.join(sorted(seen)[:6])}" if seen else "; no linear layer is in them"
        raise UserError(
            f"towers.lora.targets={list(words)}: the {tower} tower ({type(part).__name__}) has no such layer in its blocks; "
            f"expected {ATTENTION} or {LINEAR}{ends}"
        )
    return found


def _linear_layers(block: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Linear layers and fused attentions, but for those within an attention: the attention's adapter has them."""
    fused = [name for name, part in block.named_modules() if isinstance(part, nn.MultiheadAttention)]
    for name, part in block.named_modules():
        inside = any(name.startswith(f"{attention}.") for attention in fused)
        if isinstance(part, nn.Linear | nn.MultiheadAttention) and not inside:
            yield name, part


def _is_wanted(name: str, layer: nn.Module, words: Sequence[str]) -> bool:
    attends = isinstance(layer, nn.MultiheadAttention) or name.rpartition(".")[2] in QUERIES_KEYS_VALUES
    return any(word == LINEAR or (word == ATTENTION and attends) or f".{name}".endswith(f".{word}") for word in words)


def _refuse_foreign_attention(layer: nn.Module, block: nn.Module, tower: str, rows: bool) -> None:
    if isinstance(layer, nn.MultiheadAttention) and not (
        rows and takes_rows(block) and getattr(block, "attn", 0) is layer
    ):
        raise UserError(
            f"towers.lora: the {tower} tower has fused attention in blocks that do not run as ours ({type(block).__name__}): "
            'give towers.lora.targets the names of its linear layers, such as ["c_fc", "c_proj"], or leave the tower out'
        )


def _adapted(backbone: nn.Module) -> list[tuple[str, Any]]:
    """Layers with an adapter of their own."""
    return [(name, part) for name, part in backbone.named_modules() if ADAPTER in getattr(part, "lora_A", ())]


def _is_adapter(name: str) -> bool:
    return ".lora_" in name


def _file_name(name: str) -> str:
    return PEFT_PREFIX + name.replace(f".{ADAPTER}.", ".")


@torch.no_grad()
def _fill(backbone: nn.Module, saved: dict[str, Tensor], folder: Path) -> None:
    for name, tensor in backbone.state_dict().items():
        key = _file_name(name) if _is_adapter(name) else plain_name(name)
        found = saved.pop(key, None)
        if found is None or found.shape != tensor.shape:
            had = "is missing" if found is None else f"has shape {list(found.shape)}, expected {list(tensor.shape)}"
            raise UserError(f"{folder}: {key} {had}: it belongs to another model, or to another towers.lora")
        tensor.copy_(found)
    if saved:
        raise UserError(
            f"{folder}: {next(iter(saved))} is unknown: it belongs to another model, or to another towers.lora"
        )
