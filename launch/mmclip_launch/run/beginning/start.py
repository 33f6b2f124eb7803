"""What a run starts from, in words: the model behind a source, and which part of it learns."""

from collections.abc import Iterable

from torch import nn

from mmclip.ops.shards import whole
from mmclip.towers.two_tower import TwoTower
from mmclip_launch.run.config import RunConfig


def told_of_start(config: RunConfig, towers: TwoTower) -> list[str]:
    """Lines about the source, none for a run that starts from nothing; every rank has to ask."""
    if config.model.init is None:
        return []
    cfg, spec = towers.model_cfg, towers.spec
    activation = "QuickGELU" if cfg.get("quick_gelu") else "GELU"
    mean, std = (", ".join(f"{value:.3g}" for value in values) for values in (spec.mean, spec.std))
    bias = "no bias" if towers.logit_bias is None else f"bias {float(whole(towers.logit_bias.detach())):.2f}"
    return [
        f"start: {config.model.init}",
        f"  towers: {type(towers.backbone.visual).__name__} and a text tower, {cfg['embed_dim']} dimensions, {activation} "
        f"(where the blocks are open_clip's), scale {float(whole(towers.logit_scale.detach()).exp()):.1f}, {bias}",
        f"  pictures: {spec.size[0]} x {spec.size[1]}, mean {mean}, std {std}, {spec.interpolation}; captions: "
        f"{towers.tokenizer.context_length} tokens",
        f"  learns: {learning(towers)}",
    ]


def learning(towers: TwoTower) -> str:
    """How many parameters learn, of all and of each part."""
    visual = list(towers.backbone.visual.parameters())
    known = {id(parameter) for parameter in visual}
    head = [] if towers.class_head is None else list(towers.class_head.parameters())
    scalars = [parameter for parameter in (towers.logit_scale, towers.logit_bias) if parameter is not None]
    known |= {id(parameter) for parameter in (*head, *scalars)}
    text = [parameter for parameter in towers.parameters() if id(parameter) not in known]
    every = list(towers.parameters())
    parts = {"image tower": visual, "text tower": text, "class head": head}
    shares = ", ".join(f"{name} {_learn(part):,} of {_count(part):,}" for name, part in parts.items() if part)
    return f"{_learn(every):,} of {_count(every):,} parameters ({_learn(every) / _count(every):.2%}): {shares}"


def _learn(parameters: Iterable[nn.Parameter]) -> int:
    return sum(parameter.numel() for parameter in parameters if parameter.requires_grad)


def _count(parameters: Iterable[nn.Parameter]) -> int:
    return sum(parameter.numel() for parameter in parameters)
