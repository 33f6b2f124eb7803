"""The text tower of the first model, forward and backward in bf16: in groups of captions, and as open_clip runs it."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from measure.captions import captions
from measure.trainers import peer_model

from device.clock import in_turn
from device.notes import Notes
from device.scale import Scale
from mmclip.towers.settings import TowersConfig
from mmclip.towers.two_tower import TwoTower

METRIC = "captions/s"


def run(notes: Notes, scale: Scale, device: torch.device) -> None:
    """A figure for each number of groups; the row has the default, by length."""
    cfg, count = scale.models[0].cfg(), scale.captions
    case = f"text tower of {scale.models[0].name}, {count} captions, bf16"
    tokens = captions(count, cfg["text_cfg"], seed=1)
    torch.manual_seed(0)
    towers = TwoTower(cfg).to(device)
    lengths, moved = towers.text_lengths(tokens), tokens.to(device)
    weight = torch.randn(count, cfg["embed_dim"], device=device)
    encode = partial(towers.encode_text, moved, lengths)

    def rates(sides: dict[str, Callable[[], None]]) -> dict[str, list[float]]:
        times = in_turn(sides, device, scale.repetitions)
        return {side: [count / seconds for seconds in found] for side, found in times.items()}

    for groups in scale.groups:
        towers.set_up(TowersConfig(text_groups=groups))
        with notes.unless_too_large(f"{case}, {groups} groups"):
            found = rates({"mmclip": partial(forward_backward, towers, encode, weight)})
            notes.figure(f"{case}, {groups} groups", METRIC, max(found["mmclip"]))
    towers.set_up(TowersConfig())
    model: Any = peer_model(cfg, towers.backbone.state_dict()).to(device)
    with notes.unless_too_large(case):
        mine, theirs = (
            partial(forward_backward, module, run, weight)
            for module, run in ((towers, encode), (model, partial(model.encode_text, moved)))
        )
        found = rates({"mmclip": mine, "open_clip": theirs})
        notes.row(case, METRIC, found["mmclip"], found["open_clip"], higher_is_better=True)


def forward_backward(module: torch.nn.Module, encode: Callable[[], torch.Tensor], weight: torch.Tensor) -> None:
    """With a gradient for every embedding."""
    module.zero_grad(set_to_none=True)
    with torch.autocast(weight.device.type, torch.bfloat16):
        embed = encode()
    (embed.float() * weight).sum().backward()
