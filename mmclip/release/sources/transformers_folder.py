"""`transformers:ID_OR_FOLDER`, and a path with such a `config.json`: CLIP, SigLIP and SigLIP 2 of fixed resolution."""

from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from mmclip.errors import UserError
from mmclip.release.hf import clip, siglip
from mmclip.release.hf.files import CONFIG, hf_folder, hf_tensors
from mmclip.release.hf.key_map import to_ours
from mmclip.release.hf.pictures import spec_of
from mmclip.tokenizer import Tokenizer
from mmclip.towers.tokens import refuse_other_tokenizer
from mmclip.towers.two_tower import TwoTower
from mmclip.towers.weights import CONFIG_FILE, read_json

FAMILIES: dict[str, ModuleType] = {"clip": clip, "siglip": siglip}
"""By `model_type`."""
NAFLEX = "siglip2"
OWN_CLEANING = ("SiglipTokenizer", "Siglip2Tokenizer", "CLIPTokenizer")
"""Tokenizers that lower-case by themselves; others of SigLIP leave it to who calls them."""


def is_transformers(folder: Path) -> bool:
    """Whether a folder is described as transformers does, and not as open_clip does."""
    return (folder / CONFIG).is_file() and not (folder / CONFIG_FILE).is_file()


def load_transformers(name: str) -> TwoTower:
    """The model in a folder, or in a repository of the hub.

    Raises:
        UserError: it is missing or damaged, or has a part without an equal in open_clip.
    """
    return load_transformers_folder(hf_folder(name), name)


def load_transformers_folder(folder: Path, name: str | None = None) -> TwoTower:
    """The model in a folder, with the activation, sizes, preprocessing and tokenizer that stand there.

    Raises:
        UserError: it is damaged, or has a part without an equal in open_clip.
    """
    family, config = _described(folder)
    try:
        model_cfg = family.model_cfg_of(config)
    except UserError as error:
        raise UserError(f"{folder / CONFIG}: {error}") from error
    text_cfg = model_cfg["text_cfg"]
    text_cfg["hf_tokenizer_name"] = name or str(folder)
    cleaning = _cleaning(folder, config.model_type)
    if cleaning:
        text_cfg["tokenizer_kwargs"] = {"clean": cleaning}
    tokenizer = Tokenizer(text_cfg, folder)
    if tokenizer.pad_id is not None:
        text_cfg["pad_id"] = tokenizer.pad_id
    refuse_other_tokenizer(tokenizer, text_cfg, str(folder))
    spec = spec_of(folder, model_cfg["vision_cfg"]["image_size"])
    tensors = {key: value for key, value in hf_tensors(folder).items() if not key.endswith("position_ids")}
    ours = to_ours(family.rules(model_cfg), tensors, str(folder))
    model = TwoTower(model_cfg, spec, tokenizer)
    _fill(model, ours, folder)
    return model


def _described(folder: Path) -> tuple[ModuleType, Any]:
    import transformers

    table = read_json(folder / CONFIG)
    kind = table.get("model_type") if isinstance(table, dict) else None
    if kind == NAFLEX:
        raise UserError(
            f"{folder / CONFIG}: a NaFlex model of SigLIP 2 (model_type {NAFLEX!r}) takes pictures of any shape, which "
            "open_clip's towers cannot: take the SigLIP 2 of a fixed resolution"
        )
    if kind not in FAMILIES:
        raise UserError(
            f"{folder / CONFIG}: model_type {kind!r} is no model of two towers that open_clip can compute: expected "
            f"{' or '.join(FAMILIES)}; a text encoder alone goes into a pair, timm:NAME@FILE+hf:FOLDER"
        )
    classes = {"clip": transformers.CLIPConfig, "siglip": transformers.SiglipConfig}
    try:
        return FAMILIES[kind], classes[kind].from_pretrained(folder)
    except Exception as error:  # its validators raise their own kinds
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{folder / CONFIG} is no configuration of {kind}: {reason}") from error


def _cleaning(folder: Path, kind: str) -> str | None:
    """SigLIP was trained on lower-case text; which tokenizer makes it so differs from folder to folder."""
    path = folder / "tokenizer_config.json"
    if kind != "siglip" or not path.is_file():
        return None
    name = str(read_json(path).get("tokenizer_class", "")).removesuffix("Fast")
    return None if name in OWN_CLEANING else "lower"


def _fill(model: TwoTower, tensors: dict[str, torch.Tensor], folder: Path) -> None:
    state = model.backbone.state_dict()
    wrong = [name for name in state if state[name].shape != tensors[name].shape]
    if wrong:
        raise UserError(
            f"{folder}: {wrong[0]} should have shape {list(state[wrong[0]].shape)} by {CONFIG} and has "
            f"{list(tensors[wrong[0]].shape)} ({len(wrong)} such in all): the weights are of another size"
        )
    model.backbone.load_state_dict(tensors)
