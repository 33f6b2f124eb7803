"""Models of one kind, and those whose weights lie between theirs."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from mmclip.errors import UserError
from mmclip.release.averages import average
from mmclip.release.sources import load
from mmclip.tokenizer import Tokenizer
from mmclip.towers.own_keys import HF_CONFIG
from mmclip.towers.two_tower import TwoTower

STARTS = frozenset(
    {
        "init_logit_scale",
        "init_logit_bias",
        "patch_dropout",
        "timm_model_pretrained",
        "timm_drop",
        "timm_drop_path",
        "hf_model_pretrained",
        "hf_tokenizer_name",
        "_name_or_path",
        "architectures",
        "transformers_version",
        "torch_dtype",
        "dtype",
    }
)
"""Settings of an architecture that say how it began or trains: no embedding of its weights depends on them."""
DEFAULTS: Mapping[str, Any] = {"quick_gelu": False, "text_cfg.context_length": 77}
PROBES = ("a cat", "Two DOGS & a <b>café</b> naïve_3.141!", "図書館の猫", "Ein Bär, größer als drei Häuser", "x" * 99)
"""Texts of several scripts: tokenizers that agree on them and on their vocabulary are taken for the same."""


class Blend:
    """A model whose weights are a weighted mean of those of several sources of one kind.

    The same `TwoTower` is filled anew for each mean; sources stay in memory.

    Raises:
        UserError: a source does not load, or two differ in architecture, preprocessing or tokenizer.
    """

    def __init__(self, sources: Sequence[str], device: str | torch.device = "cpu", raw: bool = False) -> None:
        self.sources = tuple(sources)
        self.states: list[dict[str, Tensor]] = []
        model: TwoTower | None = None
        for source in sources:
            loaded = load(source, raw=raw)
            if model is not None:
                refuse_another_kind(model, loaded, sources[0], source)
            model = model or loaded
            self.states.append({name: tensor.detach().clone() for name, tensor in loaded.backbone.state_dict().items()})
        assert model is not None, "an argument parser asked for sources"
        self.model = model.to(device)

    def mean(self, weights: Sequence[float] | None = None) -> TwoTower:
        """The model of a weighted mean; a weight of 0 leaves a source out.

        Raises:
            UserError: see `average`.
        """
        shares = [1 / len(self.states)] * len(self.states) if weights is None else weights
        self.model.backbone.load_state_dict(average(self.states, shares, self.sources))
        return self.model

    def at(self, alpha: float) -> TwoTower:
        """The model between the first source (0) and the second (1).

        Raises:
            UserError: see `interpolate`.
        """
        return self.mean([1 - alpha, alpha])


def refuse_another_kind(first: TwoTower, other: TwoTower, first_name: str, name: str) -> None:
    """Refuse two models whose weights mean different things.

    Raises:
        UserError: naming the setting in which they differ.
    """
    pairs = {
        "architecture": (_settings(first.model_cfg), _settings(other.model_cfg)),
        "preprocessing": (first.spec.to_open_clip(), other.spec.to_open_clip()),
    }
    for what, (here, there) in pairs.items():
        for key in sorted(here.keys() | there.keys()):
            if here.get(key) != there.get(key):
                raise UserError(
                    f"{first_name} and {name} differ in their {what}: {key} is {here.get(key)!r} and {there.get(key)!r}; "
                    "weights can be averaged between models of one kind alone"
                )
    if not _same_tokens(first.tokenizer, other.tokenizer):
        raise UserError(f"{first_name} and {name} have different tokenizers, so that their tokens mean different words")


def _settings(table: Mapping[str, Any]) -> dict[str, Any]:
    found = {**DEFAULTS, **{name: value for name, value in _flat(table) if value is not None}}
    if table["text_cfg"].get(HF_CONFIG):
        found.pop("text_cfg.hf_model_name", None)  # where it came from; the configuration says what it is
    return found


def _flat(table: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in table.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        elif name not in STARTS:
            yield prefix + name, list(value) if isinstance(value, tuple) else value


def _same_tokens(first: Tokenizer, other: Tokenizer) -> bool:
    return torch.equal(first(PROBES), other(PROBES)) and _vocabulary(first) == _vocabulary(other)


def _vocabulary(tokenizer: Tokenizer) -> dict[str, int]:
    return {} if tokenizer.hugging_face is None else dict(tokenizer.hugging_face.get_vocab())
