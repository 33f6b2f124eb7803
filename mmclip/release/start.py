"""The model that a run starts from."""

from typing import Any

import torch
from torch import nn

from mmclip.errors import UserError
from mmclip.release.sources import load
from mmclip.towers.architecture import ModelConfig, model_cfg_of
from mmclip.towers.own_keys import refuse_conse
from mmclip.towers.settings import TowersConfig
from mmclip.towers.two_tower import TwoTower, initial_log_scale

SIGLIP_SCALE, SIGLIP_BIAS = 10.0, -10.0
"""Where the sigmoid loss starts (SigLIP, section 3.2)."""


def create(config: ModelConfig, needs_logit_bias: bool, towers: TowersConfig | None = None) -> TwoTower:
    """The model that a run starts from, fresh or filled from `config.init`, set up to train as `towers` says.

    Raises:
        UserError: the architecture or the source is unknown, two settings contradict each other, or the towers cannot do
            what `towers` asks of them.
    """
    if config.init is not None:
        _refuse_adapters_of_a_new_pair(config.init, towers)
        model = load(config.init).train()
        refuse_conse(model.model_cfg, f"model.init={config.init!r}")
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


def _refuse_adapters_of_a_new_pair(source: str, towers: TowersConfig | None) -> None:
    if source.startswith("timm:") and towers is not None and towers.adapters is not None:
        raise UserError(
            f"towers.lora trains adapters alone, and the projections that join model.init={source!r} are new at random: "
            "train them first (mmclip finetune lit_heads), then adapt from that run"
        )


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
