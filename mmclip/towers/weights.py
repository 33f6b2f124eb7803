"""Weights in open_clip's folder layout: what stock open_clip opens as `local-dir:FOLDER`."""

import hashlib
import json
import re
from pathlib import Path
from typing import Any

from safetensors.torch import save, save_file
from torch import Tensor

from mmclip.errors import UserError
from mmclip.preprocess import ImageSpec
from mmclip.tokenizer import Tokenizer
from mmclip.towers.architecture import check_model_cfg
from mmclip.towers.class_head import load_head, save_head
from mmclip.towers.layout import RAW_LAYOUT, WEIGHTS_LAYOUT
from mmclip.towers.own_keys import HF_CONFIG, HF_CONFIG_FILE, for_stock, refuse_conse
from mmclip.towers.tensors import read_tensors, refuse_cut_weights, unreadable
from mmclip.towers.tokens import refuse_other_tokenizer
from mmclip.towers.two_tower import TwoTower

WEIGHTS_FILE = "open_clip_model.safetensors"
RAW_WEIGHTS_FILE = "raw_weights.safetensors"
"""Weights as the optimizer left them, in checkpoints whose `WEIGHTS_FILE` holds their average."""
CONFIG_FILE = "open_clip_config.json"
POSITIONS = {
    "positional_embedding": "context_length",
    "text.positional_embedding": "context_length",
    "visual.positional_embedding": "image_size",
    "visual.trunk.pos_embed": "image_size",
}
"""Tensors whose rows a setting counts."""
NOT_WEIGHTS = ("input_resolution", "context_length", "vocab_size")
"""Numbers that OpenAI's state dicts hold beside the weights."""
KEYS = {"Missing": "it lacks", "Unexpected": "it has an unknown"}


def save_weights(model: TwoTower, folder: Path) -> None:
    """Write weights, configuration and tokenizer files into an existing folder."""
    refuse_conse(model.model_cfg, str(folder))
    save_tensors(model, folder / WEIGHTS_FILE)
    save_config(model, folder)


def save_config(model: TwoTower, folder: Path) -> None:
    """Write configuration and tokenizer files alone."""
    model_cfg, hf_config = for_stock(explicit(model))
    table = {"model_cfg": model_cfg, "preprocess_cfg": model.spec.to_open_clip()}
    if hf_config is not None:
        (folder / HF_CONFIG_FILE).write_text(json.dumps(hf_config, indent=2, sort_keys=True) + "\n")
    (folder / CONFIG_FILE).write_text(json.dumps(table, indent=2, sort_keys=True) + "\n")
    model.tokenizer.save(folder)
    if model.class_head is not None:
        save_head(model.class_head, folder)


def save_tensors(model: TwoTower, path: Path) -> None:
    """Write the weights alone, under open_clip's names."""
    save_file(file_tensors(model), path)


def weights_sha256(model: TwoTower) -> str:
    """Of the file that `save_tensors` would write."""
    return tensors_sha256(file_tensors(model))


def tensors_sha256(tensors: dict[str, Tensor]) -> str:
    """Of the file of open_clip that would hold these weights."""
    return hashlib.sha256(save(_with_scalars(tensors))).hexdigest()


def load_weights(folder: Path, raw: bool = False) -> TwoTower:
    """Build the model that a folder describes and fill it, every parameter accounted for.

    `raw` takes the weights themselves where the folder of a run holds their average.

    Raises:
        UserError: a file is missing or unreadable, or names and shapes do not match the description.
    """
    table = read_config(folder)
    refuse_cut_weights(folder / WEIGHTS_FILE)  # told before open_clip is imported, which takes seconds
    weights = raw_weights_in(folder) if raw and is_averaged(folder) else _weights_in(folder)
    model_cfg = table["model_cfg"]
    check_model_cfg(model_cfg, f"{folder / CONFIG_FILE}: model_cfg")
    model = TwoTower(model_cfg, tokenizer=Tokenizer(model_cfg["text_cfg"], folder))
    model.spec = ImageSpec.from_open_clip(table.get("preprocess_cfg") or {}, model.backbone.visual.image_size)
    # Which end a tower was trained with is known where it comes from; here it is as it was saved.
    refuse_other_tokenizer(model.tokenizer, model_cfg["text_cfg"], str(folder), end=False)
    fill(model, weights)
    model.class_head = load_head(folder)
    return model


def is_averaged(folder: Path) -> bool:
    """Whether the weights in a folder are an average over steps, with the raw ones beside it."""
    return raw_weights_in(folder).is_file()


def raw_weights_in(folder: Path) -> Path:
    """Where the weights themselves stand beside their average."""
    return folder / (RAW_LAYOUT if is_in_rows(folder) else RAW_WEIGHTS_FILE)


def is_in_rows(folder: Path) -> bool:
    """Whether the weights stand in several files by rows, as sharded runs save them."""
    return (folder / WEIGHTS_LAYOUT).is_file()


def read_config(folder: Path) -> dict[str, Any]:
    """The table of `open_clip_config.json`.

    Raises:
        UserError: it is missing, is no JSON, or lacks `model_cfg`.
    """
    path = folder / CONFIG_FILE
    table = read_json(path)
    if not isinstance(table, dict) or not isinstance(table.get("model_cfg"), dict):
        raise UserError(f"{path} has no table 'model_cfg': expected open_clip's layout {{model_cfg, preprocess_cfg}}")
    if not isinstance(table.get("preprocess_cfg") or {}, dict):
        raise UserError(f"{path}: preprocess_cfg={table['preprocess_cfg']!r:.80}: expected open_clip's table of pixels")
    text_cfg = table["model_cfg"].get("text_cfg")
    if isinstance(text_cfg, dict) and (folder / HF_CONFIG_FILE).is_file():
        text_cfg[HF_CONFIG] = read_json(folder / HF_CONFIG_FILE)
    return table


def read_json(path: Path) -> Any:
    """The content of a JSON file.

    Raises:
        UserError: it is missing, or no JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read as JSON: {error}") from error


def fill(model: TwoTower, weights: Path) -> None:
    """Load a weights file of open_clip's or OpenAI's into `model`, strictly, running nothing that stands in it.

    What open_clip does to make a file fit is done here but for what would change a number in silence: positions of another
    length are no more interpolated, and a missing logit bias is no more zero.

    Raises:
        UserError: the file is unreadable, or keys or shapes differ from the model's.
    """
    if weights.suffix in (".npz", ".npy"):
        _fill_from_numpy(model, weights)
        return
    state = _fitted(model, {name: tensor for name, tensor in read_tensors(weights).items() if name not in NOT_WEIGHTS})
    _refuse_resized(model, state, weights)
    try:
        model.backbone.load_state_dict(state)
    except RuntimeError as error:
        raise UserError(_why_not(weights, error)) from error


def _fitted(model: TwoTower, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Names of older and of others' releases, as open_clip's loader has it."""
    from open_clip.convert import convert_state_dict
    from open_clip.model import convert_to_custom_text_state_dict

    state = convert_state_dict(model.backbone, state)
    if "positional_embedding" in state and not hasattr(model.backbone, "positional_embedding"):
        state = convert_to_custom_text_state_dict(state)
    for name in ("logit_scale", "logit_bias"):
        if name in state:
            state[name] = state[name].reshape(1)
    unread = [name for name in state if name.endswith(("position_ids", "attn_mask"))]
    for name in set(unread) - model.backbone.state_dict().keys():
        del state[name]
    return state


def _refuse_resized(model: TwoTower, state: dict[str, Tensor], weights: Path) -> None:
    own = model.backbone.state_dict()
    for name, setting in POSITIONS.items():
        if name in own and name in state and own[name].shape != state[name].shape:
            if own[name].shape[-1] != state[name].shape[-1]:
                continue  # another width: the error about shapes says more
            raise UserError(
                f"{weights}: {name} has {state[name].shape[-2]} positions and the configuration's {setting} asks for "
                f"{own[name].shape[-2]}: give the {setting} that the weights were trained with; to change it after loading, "
                f"set model.{setting}, which interpolates them"
            )


def _fill_from_numpy(model: TwoTower, weights: Path) -> None:
    from open_clip.factory import load_checkpoint

    try:
        load_checkpoint(model.backbone, str(weights))
    except Exception as error:  # every reader beneath raises its own kinds
        raise UserError(_why_not(weights, error)) from error


def _why_not(weights: Path, error: Exception) -> str:
    """What a reader says of names and shapes, in a line."""
    text = " ".join(str(error).split())
    shapes = re.search(r"size mismatch for (\S+): .*?torch\.Size\((.*?)\).*?torch\.Size\((.*?)\)", text)
    wrong = {
        kind: re.search(rf"{kind} key\(s\) in state_dict: (.*?)\. ?(?:\S+ key|size mismatch|$)", text) for kind in KEYS
    }
    found = [f"{what} {_names(keys[1])}" for kind, what in KEYS.items() if (keys := wrong[kind])]
    if shapes:
        found.append(f"{shapes[1]} should have shape {shapes[3]} and has {shapes[2]}")
    if found:
        return (
            f"{weights} is of another architecture than its configuration {CONFIG_FILE} or name describes: "
            f"{'; '.join(found)}. Put the file beside the configuration it was trained with, or name its architecture"
        )
    return unreadable(weights, error)


def _names(listed: str) -> str:
    names = re.findall(r'"(.*?)"', listed)
    return f"{names[0]} and {len(names) - 1} more" if len(names) > 1 else "".join(names[:1])


def _weights_in(folder: Path) -> Path:
    if is_in_rows(folder):
        return folder / WEIGHTS_LAYOUT
    from open_clip.factory import _find_checkpoint_in_dir

    found = _find_checkpoint_in_dir(folder)
    if found is None:
        raise UserError(f"{folder} holds no weights: expected {WEIGHTS_FILE} or another *.safetensors, *.bin or *.pth")
    return Path(found)


def file_tensors(model: TwoTower) -> dict[str, Tensor]:
    """The weights as a file of open_clip has them, adapters merged into them."""
    return {name: tensor.cpu().contiguous().clone() for name, tensor in file_views(model).items()}


def file_views(model: TwoTower) -> dict[str, Tensor]:
    """The same, in the model's own memory wherever that is possible."""
    return _with_scalars({name: tensor.detach() for name, tensor in model.plain_state().items()})


def _with_scalars(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Scale and bias as open_clip's files hold them: 0-d."""
    return {
        name: tensor.reshape(()) if name in ("logit_scale", "logit_bias") else tensor for name, tensor in state.items()
    }


def explicit(model: TwoTower) -> dict[str, Any]:
    """The table with the two settings written out that a reader would otherwise guess, and guess wrong."""
    table = {**model.model_cfg, "quick_gelu": bool(model.model_cfg.get("quick_gelu", False))}
    if model.logit_bias is not None:
        table.setdefault("init_logit_bias", -10.0)
    return table
