"""A training checkpoint of open_clip's own trainer, taken over with its optimizer, so that a run goes on instead of anew."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mmclip.errors import UserError
from mmclip.towers.weights import fill
from mmclip.training.checkpoint.contents import Trained

MOMENTS = ("exp_avg", "exp_avg_sq")


def take_over(path: Path, trained: Trained) -> int:
    """Fill weights and AdamW's moments from `epoch_N.pt`; how many optimizer steps it has behind it is returned.

    open_clip numbers the parameters of its optimizer, gains and biases before the rest, both in the order of the model.

    Raises:
        UserError: it is no training checkpoint, or one of another model or optimizer.
    """
    table = read(path)
    towers = trained.module.towers
    fill(towers, path)
    if trained.ema is not None:
        trained.ema.towers.load_state_dict(towers.state_dict())
    ours = numbered_parameters(list(towers.backbone.named_parameters()))
    groups, moments = table["optimizer"]["param_groups"], table["optimizer"]["state"]
    count = sum(len(group["params"]) for group in groups)
    if count != len(ours) or len(moments) != count:
        raise UserError(
            f"{path}: its optimizer has {count} parameters ({len(moments)} with moments), and {len(ours)} of this model are "
            "trained: lock the same towers as there (model.lock_image, model.lock_text), or start without its moments by "
            f"--model.init open_clip:ARCH/{path}"
        )
    state = {
        parameter: _moments(path, name, parameter, moments[number]) for number, (name, parameter) in enumerate(ours)
    }
    for parameter, values in state.items():
        trained.optimizer.state[parameter] = values
    return int(next(iter(state.values()))["step"])


def read(path: Path) -> dict[str, Any]:
    """The table in `epoch_N.pt`, tensors and plain values alone.

    Raises:
        UserError: there is none, or it holds something else.
    """
    try:
        table = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (
        Exception
    ) as error:  # a cut archive, an unsafe object, a missing file: each reader beneath raises its own kinds
        reason = " ".join(str(error).split())[:160]
        raise UserError(f"resume_open_clip={str(path)!r} cannot be read ({type(error).__name__}: {reason})") from error
    missing = [key for key in ("epoch", "state_dict", "optimizer") if not isinstance(table, dict) or key not in table]
    if missing:
        raise UserError(
            f"resume_open_clip={str(path)!r} lacks {', '.join(missing)}: expected open_clip's epoch_N.pt with its optimizer; "
            "weights alone are a start, not a resume: --model.init open_clip:ARCH/FILE"
        )
    return table


def numbered_parameters(named: Sequence[tuple[str, nn.Parameter]]) -> list[tuple[str, nn.Parameter]]:
    """Trained parameters in the order in which open_clip's optimizer numbers them."""
    trained = [(name, parameter) for name, parameter in named if parameter.requires_grad]
    return [
        *(pair for pair in trained if _never_decays(*pair)),
        *(pair for pair in trained if not _never_decays(*pair)),
    ]


def _never_decays(name: str, parameter: nn.Parameter) -> bool:
    return parameter.ndim < 2 or any(part in name for part in ("bn", "ln", "bias", "logit_scale"))


def _moments(path: Path, name: str, parameter: nn.Parameter, values: dict[str, Any]) -> dict[str, torch.Tensor]:
    if any(key not in values for key in ("step", *MOMENTS)):
        raise UserError(
            f"{path}: its optimizer has {', '.join(values)} for {name}: expected AdamW's step and two moments"
        )
    if values["exp_avg"].numel() != parameter.numel():
        raise UserError(
            f"{path}: its moments of {name} have shape {list(values['exp_avg'].shape)}, the model has {list(parameter.shape)}: "
            "it is of another architecture, or has other towers locked"
        )
    moments = {key: torch.empty_like(parameter).copy_(values[key].view_as(parameter)) for key in MOMENTS}
    # Fused AdamW keeps the count on the device of the parameter.
    return {"step": torch.tensor(float(values["step"]), device=parameter.device), **moments}
