"""Architecture, weights to start from, objective and precision."""

from copy import deepcopy
from pathlib import Path
from typing import Any

import torch

from mmclip.errors import UserError
from mmclip.towers.architecture import model_cfg_of
from mmclip_launch.import_flags.draft import Draft

FILES = (".pt", ".pth", ".bin", ".safetensors", ".npz")
FORCED = ("force-quick-gelu", "force-custom-text")
"""What only an architecture written out can say."""


def model(draft: Draft) -> None:
    """`model.init` where there are weights, `model.arch` where there are none, `model.inline` where settings are forced.

    Raises:
        UserError: open_clip has no architecture of that name.
    """
    arch = draft["model"].replace("/", "-") if ":" not in draft["model"] else draft["model"]
    forced = [name for name in FORCED if draft[name]]
    _sizes(draft)
    if arch.startswith("local-dir:"):
        draft.put("model.init", draft["model"], draft.said("model"))
        _refuse_forced(draft, forced)
        return
    if ":" in arch:
        draft.refuse("model", "download the folder (hf download ORG/NAME --local-dir FOLDER) and use local-dir:FOLDER")
        return
    cfg = model_cfg_of(arch)
    if "multimodal_cfg" in cfg:
        draft.refuse("model", "a CoCa model with a text decoder and a caption loss: mmclip trains two towers")
        return
    if draft["resume"] and draft["resume"] != "latest":
        _resume(draft, arch)
    goes_on = "resume_open_clip" in draft.fields
    if "model.init" in draft.fields:
        _refuse_forced(draft, forced)
    elif draft["pretrained"]:
        draft.put("model.init", f"open_clip:{arch}/{draft['pretrained']}", draft.said("model", "pretrained"))
        if "force-quick-gelu" in forced and not draft["pretrained"].endswith(FILES):
            forced.remove("force-quick-gelu")
            draft.others.append("--force-quick-gelu: released weights bring the activation that they were trained with")
        _refuse_forced(draft, forced)
    else:
        _fresh(draft, arch, cfg, forced, goes_on)
    _batch_norm(draft, cfg)


def _sizes(draft: Draft) -> None:
    """Picture size and context length, which loaded weights follow by interpolation, as there."""
    size = draft["force-image-size"]
    if size is not None and len(set(size)) == 1:
        draft.put("model.image_size", size[0], draft.said("force-image-size"))
    elif size is not None:
        draft.refuse("force-image-size", "mmclip forces square pictures: write the architecture out in model.inline")
    if draft["force-context-length"] is not None:
        draft.put("model.context_length", draft["force-context-length"], draft.said("force-context-length"))


def _resume(draft: Draft, arch: str) -> None:
    """A checkpoint of open_clip: with an optimizer the run goes on, bare weights start a new one."""
    if "://" in draft["resume"]:
        draft.refuse("resume", "copy the file to this machine first")
    elif _is_bare(Path(draft["resume"])):
        draft.put(
            "model.init", f"open_clip:{arch}/{draft['resume']}", f"{draft.said('model', 'resume')}: weights alone"
        )
        if draft["pretrained"]:
            draft.others.append(f"{draft.said('pretrained')}: --resume overwrites these weights, as there")
            draft.settled.add("pretrained")
    else:
        draft.put("resume_open_clip", draft["resume"], f"{draft.said('resume')}: weights, moments and steps done")


def _is_bare(path: Path) -> bool:
    """Whether a file that is there holds weights without an epoch; one that is not there is taken at its flag's word."""
    if not path.is_file():
        return False
    try:
        table = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # each reader beneath raises its own kinds
        raise UserError(f"--resume {path} cannot be read: {' '.join(str(error).split())[:160]}") from error
    return "epoch" not in table


def _fresh(draft: Draft, arch: str, cfg: dict[str, Any], forced: list[str], goes_on: bool) -> None:
    if "hf_model_name" in cfg["text_cfg"] and not goes_on:
        draft.refuse(
            "model",
            f"open_clip starts its text tower from {cfg['text_cfg']['hf_model_name']}'s weights, mmclip from random ones; "
            "give --pretrained, or an architecture of its own text tower",
        )
    sibling = f"{arch}-quickgelu"
    if forced == ["force-quick-gelu"] and _exists(sibling):
        draft.put("model.arch", sibling, draft.said("model", "force-quick-gelu"))
    elif forced:
        table = _forced(cfg, forced)
        draft.put("model.inline", table, f"{draft.said('model', *forced)}: the architecture written out")
    else:
        draft.put("model.arch", arch, draft.said("model"))


def _forced(cfg: dict[str, Any], forced: list[str]) -> dict[str, Any]:
    """The architecture with open_clip's own overrides (factory.py), and without nulls, which TOML lacks."""
    keys = {"force-quick-gelu": "quick_gelu", "force-custom-text": "custom_text"}
    return _without_none({**deepcopy(cfg), **{keys[name]: True for name in forced}})


def _refuse_forced(draft: Draft, forced: list[str]) -> None:
    for name in forced:
        draft.refuse(name, "weights bring their own architecture")


def _batch_norm(draft: Draft, cfg: dict[str, Any]) -> None:
    if draft["accum-freq"] > 1 and isinstance(cfg["vision_cfg"].get("layers"), list):
        draft.lose(
            "model",
            f"it has batch norms, which mmclip refuses with --accum-freq {draft['accum-freq']}, since each micro-batch would "
            "see its own slice: train without, on more processes, or choose a ViT or a ConvNeXt",
        )


def objective_and_precision(draft: Draft) -> None:
    """InfoNCE or the sigmoid loss; bf16 autocast for everything but fp32."""
    kind = "siglip" if draft["siglip"] else "clip"
    draft.put("objective.type", kind, draft.said("siglip") if draft["siglip"] else "")
    if draft["siglip"] and "model.init" in draft.fields:
        draft.others.append("--siglip: weights without a logit bias start at -10 here, at 0 there")
    precision = draft["precision"]
    remarks = {
        "fp32": "",
        "amp": ": bf16 needs no loss scaling",
        "amp_bf16": "",
        "amp_bfloat16": "",
        "bf16": ": weights stay in fp32",
        "pure_bf16": ": weights stay in fp32",
        "fp16": ": bf16, weights stay in fp32",
        "pure_fp16": ": bf16, weights stay in fp32",
    }
    draft.put("precision", "fp32" if precision == "fp32" else "bf16", draft.said("precision") + remarks[precision])


def _exists(arch: str) -> bool:
    try:
        model_cfg_of(arch)
    except UserError:
        return False
    return True


def _without_none(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_none(entry) for key, entry in value.items() if entry is not None}
    return value
