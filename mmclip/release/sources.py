"""Weights in: one string names a source, and what comes with it (architecture, preprocessing, tokenizer) is kept."""

import difflib
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mmclip.envelope import MANIFEST, verify
from mmclip.errors import UserError
from mmclip.preprocess import ImageSpec
from mmclip.towers.architecture import ModelConfig, model_cfg_of
from mmclip.towers.settings import TowersConfig
from mmclip.towers.two_tower import TwoTower, initial_log_scale
from mmclip.towers.weights import CONFIG_FILE, fill, load_weights
from mmclip.training.checkpoint import newest_checkpoint, result_of

SIGLIP_SCALE, SIGLIP_BIAS = 10.0, -10.0
"""Where the sigmoid loss starts (SigLIP, section 3.2)."""


def load(source: str | Path, device: str | torch.device = "cpu", *, raw: bool = False) -> TwoTower:
    """A trained model, in evaluation mode, from wherever it stands.

    `source` is the folder of an mmclip run (its best checkpoint where it was chosen by a figure, else the newest that
    verifies), of a checkpoint or of an open_clip model (`local-dir:` may stand before it), `open_clip:ARCH/TAG` for released
    weights, which open_clip downloads, or `open_clip:ARCH/FILE` for a weights file or a training checkpoint of open_clip. Of
    a run that averages its weights it is the average; `raw` takes the weights themselves.

    Raises:
        UserError: nothing loadable is there; the message says what was looked for.
    """
    text = str(source)
    if text.startswith("open_clip:"):
        model = _released(text.removeprefix("open_clip:"))
    else:
        named = Path(text.removeprefix("local-dir:"))
        folder = model_folder(named)
        if folder == named and (folder / MANIFEST).is_file():
            verify(folder)  # bit rot inside a tensor would otherwise load in silence
        model = load_weights(folder, raw)
    return model.eval().to(device)


def model_folder(path: str | Path) -> Path:
    """The folder that holds the weights: `path` itself, or of the run at `path` its result, else its newest whole checkpoint.

    Raises:
        UserError: there is neither.
    """
    folder = Path(path)
    if not folder.is_dir():
        raise UserError(
            f"{folder} is no folder: expected a run, a checkpoint, an open_clip folder, or open_clip:ARCH/TAG"
        )
    if (folder / CONFIG_FILE).is_file():
        return folder
    chosen = result_of(folder)
    if chosen is not None:
        verify(chosen.folder)
        return chosen.folder
    skipped: list[str] = []
    newest = newest_checkpoint(folder, skipped.append)
    if newest is None:
        tried = f"; {len(skipped)} are damaged, the newest: {skipped[0]}" if skipped else ""
        raise UserError(f"{folder} holds neither {CONFIG_FILE} nor a whole checkpoint under checkpoints/step-*{tried}")
    return newest


def create(config: ModelConfig, needs_logit_bias: bool, towers: TowersConfig | None = None) -> TwoTower:
    """The model that a run starts from, fresh or filled from `config.init`, set up to train as `towers` says.

    Raises:
        UserError: the architecture or the source is unknown, two settings contradict each other, or the towers cannot do
            what `towers` asks of them.
    """
    if config.init is not None:
        model = load(config.init).train()
        if config.image_size is not None:
            model.set_image_size(config.image_size)
        if config.context_length is not None:
            model.set_context_length(config.context_length)
        if needs_logit_bias and model.logit_bias is None:
            model.backbone.logit_bias = nn.Parameter(torch.full_like(model.logit_scale, SIGLIP_BIAS))
            model.model_cfg["init_logit_bias"] = SIGLIP_BIAS
    else:
        model_cfg = config.inline if config.inline is not None else model_cfg_of(config.arch)
        if needs_logit_bias:
            siglip = {"init_logit_scale": initial_log_scale(SIGLIP_SCALE), "init_logit_bias": SIGLIP_BIAS}
            model_cfg = {**siglip, **model_cfg}
        model = TwoTower(_sized(model_cfg, config))
    _set_start(model, config)
    if towers is not None:
        model.set_up(towers)
    return model


def _sized(model_cfg: dict[str, Any], config: ModelConfig) -> dict[str, Any]:
    """The table with the sizes that the configuration names; what is no table is refused later, by name."""
    asked = {"vision_cfg": ("image_size", config.image_size), "text_cfg": ("context_length", config.context_length)}
    wanted = {part: {name: size} for part, (name, size) in asked.items() if size is not None}
    return {**model_cfg, **{part: {**model_cfg.get(part, {}), **sizes} for part, sizes in wanted.items()}}


def _set_start(model: TwoTower, config: ModelConfig) -> None:
    with torch.no_grad():
        if config.logit_scale is not None:
            model.logit_scale.fill_(initial_log_scale(config.logit_scale))
        if config.logit_bias is not None:
            if model.logit_bias is None:
                raise UserError(f"model.logit_bias={config.logit_bias}, but objective 'clip' has no bias: remove it")
            model.logit_bias.fill_(config.logit_bias)


def _released(name: str) -> TwoTower:
    """A model of open_clip's registry, with the activation, mean and filter that its tag was trained with."""
    import open_clip
    from open_clip.pretrained import download_pretrained, get_pretrained_cfg

    arch, _, tag = name.partition("/")
    settings = get_pretrained_cfg(arch, tag) if tag else {}
    if not settings and tag and Path(tag).is_file():
        return _from_file(arch, Path(tag))
    if not settings:
        tags = [f"{a}/{t}" for a, t in open_clip.list_pretrained()]
        near = difflib.get_close_matches(name, tags, n=3, cutoff=0.3)
        raise UserError(
            f"open_clip has no weights {name!r}: expected open_clip:ARCH/TAG or "
            f"open_clip:ARCH/FILE; nearest: {', '.join(near)}"
        )
    try:
        weights = download_pretrained(settings)
    except Exception as error:  # hub, proxy, disk: each client raises its own kinds
        reason = " ".join(str(error).split())[:300]
        raise UserError(
            f"open_clip:{name} could not be downloaded ({type(error).__name__}: {reason}); "
            "check the network, or put the folder on disk and use local-dir:FOLDER"
        ) from error
    model_cfg = model_cfg_of(arch)
    # Only the tag knows which activation its weights were trained with; the wrong one costs points in silence.
    model_cfg["quick_gelu"] = bool(settings.get("quick_gelu", model_cfg.get("quick_gelu", False)))
    model = TwoTower(model_cfg)
    model.spec = ImageSpec.from_open_clip(settings, model.backbone.visual.image_size)
    fill(model, Path(weights))
    return model


def _from_file(arch: str, weights: Path) -> TwoTower:
    """A file knows neither its architecture nor its preprocessing: the one is named, the other is open_clip's default."""
    model = TwoTower(model_cfg_of(arch))
    fill(model, weights)
    return model
