"""`ModelLayers`: the layers of one model in the form that layer prediction compares, from what the encode pass kept."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mmclip.errors import UserError
from mmclip_data.features.layers import LayerFeatures
from mmclip_eval.contrasim.splits import Rows

Tokens = Literal["pooled", "mean"]
"""Which of a layer's two features: those of the pooled token, or the mean over its tokens."""


@dataclass(frozen=True)
class ModelLayers:
    """The layers of one model, all of one width, of the same examples as those of the others."""

    name: str
    layer_names: tuple[str, ...]
    layers: Float[Tensor, "layer row width"]

    def at(self, rows: Int[Tensor, " row"]) -> Float[Tensor, "layer some width"]:
        """Some of the examples."""
        return self.layers[:, rows]

    def to(self, device: torch.device | str) -> "ModelLayers":
        """The same on a device."""
        return replace(self, layers=self.layers.to(device))


def layers_of(models: Sequence[LayerFeatures], names: Sequence[str], tokens: Tokens = "mean") -> list[ModelLayers]:
    """The layers of each model, of the examples that every model has.

    The embedding is left out: it has no counterpart before the projection, and its width alone would tell which layer it is.

    Raises:
        UserError: the models have different towers or depths, a model has no such tokens, or its layers differ in width.
    """
    if len(models) != len(names):
        raise ValueError(f"{len(models)} models and {len(names)} names")
    shared = _shared_rows(models)
    found = [_layers_of(model, name, tokens, shared) for model, name in zip(models, names, strict=True)]
    depths = {one.name: len(one.layer_names) for one in found}
    if len({model.tower for model in models}) > 1 or len(set(depths.values())) > 1:
        told = ", ".join(f"{name} ({depth} layers)" for name, depth in depths.items())
        raise UserError(f"layers of one model are found in another of the same depth and tower; got {told}")
    return found


def scaled(models: Sequence[ModelLayers], rows: Rows) -> list[ModelLayers]:
    """Each layer with a mean square of 1 over the training examples: its size shall not tell which one it is.

    Its offset stays, as in the published method; CKA sees neither.
    """
    return [_scaled(model, rows) for model in models]


def _scaled(model: ModelLayers, rows: Rows) -> ModelLayers:
    size = model.at(rows.train).pow(2).mean(dim=(1, 2), keepdim=True).sqrt()
    return replace(model, layers=model.layers / size.clamp(min=torch.finfo(size.dtype).tiny))


def _shared_rows(models: Sequence[LayerFeatures]) -> Int[Tensor, " row"]:
    shared = models[0].kept
    for model in models[1:]:
        shared = shared[torch.isin(shared, model.kept)]
    return shared


def _layers_of(model: LayerFeatures, name: str, tokens: Tokens, shared: Int[Tensor, " row"]) -> ModelLayers:
    chosen = [
        (layer, rows) for layer, rows in zip(model.names, model.features, strict=True) if layer.endswith(f" {tokens}")
    ]
    if len(chosen) < 2:
        raise UserError(f"{name}: expected two layers or more with `{tokens}` features, got {', '.join(model.names)}")
    widths = [rows.shape[1] for _, rows in chosen]
    if len(set(widths)) > 1:
        raise UserError(
            f"{name}: its layers have widths {widths}: which layer is which would be told by the width alone; layer "
            "prediction is for towers whose blocks have one width"
        )
    place = (model.kept[None, :] == shared[:, None]).long().argmax(dim=1)
    return ModelLayers(name, tuple(layer for layer, _ in chosen), torch.stack([rows[place] for _, rows in chosen]))
