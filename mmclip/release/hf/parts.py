"""Single settings of a model's configuration, in both vocabularies."""

from collections.abc import Iterable
from typing import Any

from mmclip.errors import UserError

ACTIVATIONS = {
    "quick_gelu": "quick_gelu",
    "gelu": "gelu",
    "gelu_python": "gelu",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_new": "gelu_tanh",
}
"""Words of transformers, and one word for each function."""
HF_ACTIVATIONS = {"quick_gelu": "quick_gelu", "gelu": "gelu", "gelu_tanh": "gelu_pytorch_tanh"}


def activation(tower: Any, where: str) -> str:
    """One of `HF_ACTIVATIONS`.

    Raises:
        UserError: it has no equal in open_clip.
    """
    if tower.hidden_act not in ACTIVATIONS:
        raise UserError(
            f"{where}.hidden_act={tower.hidden_act!r} has no equal in open_clip: expected one of {', '.join(ACTIVATIONS)}"
        )
    return ACTIVATIONS[tower.hidden_act]


def refuse(where: str, **wanted: tuple[Any, Any]) -> None:
    """Refuse settings that open_clip cannot follow: `name=(value, the only value that it can)`.

    Raises:
        UserError: naming the first.
    """
    for name, (value, only) in wanted.items():
        if value != only:
            raise UserError(f"{where}.{name}={value!r} has no equal in open_clip: only {only!r} has")


def whole(value: Any, where: str) -> int:
    """A size that may be written as a pair of equal ones.

    Raises:
        UserError: it is a pair of different ones.
    """
    pair = tuple(value) if isinstance(value, Iterable) else (value, value)
    if len(set(pair)) != 1:
        raise UserError(f"{where}={value!r} has no equal in open_clip's conversion: expected a square")
    return int(pair[0])


def mlp_ratio(hidden: int, width: int) -> float:
    """The ratio from which open_clip and timm compute exactly `hidden` again."""
    ratio = hidden / width
    return ratio if int(width * ratio) == hidden else (hidden + 0.5) / width


def common(tower: Any, where: str) -> dict[str, Any]:
    """What both libraries call width, layers and the like.

    Raises:
        UserError: training with the dropout of the configuration has no equal.
    """
    refuse(where, attention_dropout=(float(tower.attention_dropout), 0.0))
    ratio = mlp_ratio(tower.intermediate_size, tower.hidden_size)
    return {
        "width": tower.hidden_size,
        "layers": tower.num_hidden_layers,
        **({} if ratio == 4.0 else {"mlp_ratio": ratio}),
        **({} if tower.layer_norm_eps == 1e-5 else {"norm_kwargs": {"eps": tower.layer_norm_eps}}),
    }


def activation_settings(word: str) -> dict[str, Any]:
    """open_clip's table of one tower; QuickGELU is a setting of the whole model there."""
    return {"act_kwargs": {"approximate": "tanh"}} if word == "gelu_tanh" else {}


def activation_of(table: dict[str, Any], quick_gelu: bool) -> str:
    """The word for what a tower of open_clip computes.

    Raises:
        UserError: it has no equal in transformers.
    """
    if quick_gelu:
        return "quick_gelu"
    settings = table.get("act_kwargs") or {}
    if settings not in ({}, {"approximate": "none"}, {"approximate": "tanh"}):
        raise UserError(f"act_kwargs={settings} has no equal in transformers")
    return "gelu_tanh" if settings.get("approximate") == "tanh" else "gelu"


def epsilon_of(table: dict[str, Any]) -> float:
    """Of the layer norms of a tower of open_clip."""
    return float((table.get("norm_kwargs") or {}).get("eps", 1e-5))
