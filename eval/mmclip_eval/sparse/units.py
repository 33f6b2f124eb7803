"""What units stand for: the pictures that fire each of them most, and the texts nearest to its direction."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from mmclip_eval.analysis.embedding_map import nearest_texts
from mmclip_eval.analysis.sampling import draw
from mmclip_eval.sparse.autoencoder import SparseAutoencoder

NO_TEXTS = ()
LEAST_FIRES = 5
"""Rows that a unit fires on at least, to be shown: one picture says nothing of what it stands for."""


@dataclass(frozen=True)
class Texts:
    """What units may be named by: class names or captions, embedded by the same model as the features."""

    embed: Float[Tensor, "text embed"]
    texts: tuple[str, ...]


@dataclass(frozen=True)
class Unit:
    """A unit that is shown."""

    number: int
    rows: tuple[int, ...]
    """That fire it most, the first most."""
    activations: tuple[float, ...]
    """Of these rows."""
    fires: int
    """Rows that fire it, of all."""
    names: tuple[str, ...]
    """The few texts nearest to its direction, the nearest first; none where there are no texts."""
    name_cosine: float
    """Of its direction and the first of them, taken from the mean text; nan without one."""

    @property
    def name(self) -> str:
        """What it is called."""
        return self.names[0] if self.names else f"unit {self.number}"

    def to_json(self) -> dict[str, Any]:
        """Plain values; the cosine is null without a name."""
        return {
            "unit": self.number,
            "fires": self.fires,
            "rows": list(self.rows),
            "activations": list(self.activations),
            "names": list(self.names),
            "name_cosine": self.name_cosine if self.names else None,
        }


def chosen_units(fires: Int[Tensor, " unit"], count: int, least_rows: int = LEAST_FIRES) -> tuple[int, ...]:
    """A fixed draw of the units that fire on `least_rows` rows at least, those of most rows first.

    None is picked by hand or by how well it can be named.
    """
    living = (fires >= least_rows).nonzero()[:, 0]
    drawn = living[torch.tensor(draw(count, len(living), stream=7), dtype=torch.long)]
    return tuple(drawn[fires[drawn].argsort(descending=True, stable=True)].tolist())


def units_of(
    model: SparseAutoencoder,
    rows: Float[Tensor, "row width"],
    numbers: Sequence[int],
    most: int,
    texts: Texts | None = None,
) -> tuple[Unit, ...]:
    """Units of these numbers, each with at most `most` rows that fire it.

    Texts name them only where they are as wide as the features: those of a layer have none.
    """
    wanted = torch.tensor(list(numbers), dtype=torch.long)
    columns = torch.cat([activations[:, wanted.to(activations.device)].cpu() for _, activations in model.encoded(rows)])
    directions = model.directions.cpu()[wanted]
    names, cosines = names_of(directions, texts)
    found: list[Unit] = []
    for place, number in enumerate(wanted.tolist()):
        own = columns[:, place]
        fires = int((own > 0).sum())
        order = own.argsort(descending=True, stable=True)[: min(most, fires)]
        found.append(
            Unit(number, tuple(order.tolist()), tuple(own[order].tolist()), fires, names[place], cosines[place])
        )
    return tuple(found)


def names_of(
    directions: Float[Tensor, "unit width"], texts: Texts | None
) -> tuple[tuple[tuple[str, ...], ...], tuple[float, ...]]:
    """The nearest texts of each direction, and the cosine of the first; no names without texts of that width."""
    if texts is None or texts.embed.shape[1] != directions.shape[1] or len(texts.texts) < 2:
        return (NO_TEXTS,) * len(directions), (float("nan"),) * len(directions)
    centred = F.normalize(texts.embed - texts.embed.mean(dim=0), dim=-1)
    cosines = (F.normalize(directions, dim=-1) @ centred.T).amax(dim=1)
    return nearest_texts(directions, texts.embed, texts.texts), tuple(cosines.tolist())
