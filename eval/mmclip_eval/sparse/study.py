"""`study`: fit an autoencoder to some rows, measure it on the rest, and measure what its figures stand beside."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mmclip.randomness import Stream, permutation
from mmclip_data.features.tower_threads import one_thread
from mmclip_eval.sparse.anchors import by_principal_components, gaussian_twin
from mmclip_eval.sparse.autoencoder import SparseAutoencoder
from mmclip_eval.sparse.config import LEAST_ROWS, SparseConfig
from mmclip_eval.sparse.fitting import fit
from mmclip_eval.sparse.reconstruction import Explained, Use, errors_and_use, explained

Named = Callable[[str, int, int], None]
"""Called with what is fitted, the steps done and the steps in all."""


@dataclass(frozen=True)
class SparseStudy:
    """An autoencoder with its figures on rows that it was not fitted to."""

    model: SparseAutoencoder
    settings: SparseConfig
    fitted: Int[Tensor, " fitted"]
    """Which rows it was fitted to, ascending."""
    held_out: Int[Tensor, " held_out"]
    explained: Explained
    use: Use
    """Of the units, over the held-out rows."""
    use_when_fitted: Use
    components: int
    """As many principal components as units are active in a row, rounded, at least one."""
    by_components: Explained
    """What those explain of the same held-out rows."""
    control: Explained
    """What the same autoencoder explains that is fitted to and measured on Gaussian rows of the same covariance."""
    control_use: Use

    @property
    def dead(self) -> int:
        """Units that fire on no row at all, fitted or held out."""
        return int(((self.use.fires + self.use_when_fitted.fires) == 0).sum())

    @property
    def silent(self) -> int:
        """Units that fire on no held-out row: the dead, and those for what stands in the fitted rows alone."""
        return int((self.use.fires == 0).sum())

    @property
    def fires(self) -> Int[Tensor, " unit"]:
        """Rows that each unit fires on, fitted and held out together."""
        return self.use.fires + self.use_when_fitted.fires

    @property
    def beats_control(self) -> bool:
        """Whether it explains more than the control does, by intervals that do not meet."""
        return self.explained.low > self.control.high

    @property
    def control_is_fitted(self) -> bool:
        """Whether the control explains what principal components do, which units of the same number could always do.

        One that does not was not fitted as far as it can be, and to beat it says nothing.
        """
        return self.control.high >= self.by_components.low

    @property
    def has_structure(self) -> bool:
        """Whether the units show sparse structure that the covariance does not make: a control that is fitted is beaten."""
        return self.beats_control and self.control_is_fitted

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader of the figures should know."""
        found: list[str] = []
        width = self.model.width
        if len(self.fitted) < 2 * width:
            found.append(
                f"{len(self.fitted):,} fitted rows of width {width}: so few do not tell the covariance, which flatters the "
                "principal components and the control; take more pictures"
            )
        if self.components >= width:
            found.append(f"{self.components} active units are as many as the features have dimensions: not sparse")
        if not self.beats_control:
            found.append(
                "the control of Gaussian rows is explained as well: these units show no sparse structure of the features"
            )
        elif not self.control_is_fitted:
            found.append(
                "the control is explained less than by principal components, so it is not fitted as far as it can be, and to "
                "beat it shows nothing: take more steps, or fewer active units"
            )
        if self.explained.value < self.by_components.value:
            found.append(
                f"{self.components} principal components explain more with as many numbers a picture: "
                "units are to be read, not to be saved with"
            )
        if self.dead > self.model.units // 2:
            found.append(f"{self.dead:,} of {self.model.units:,} units are dead: fewer units or more rows would do")
        return tuple(found)

    def to_json(self) -> dict[str, Any]:
        """Plain values, as the file has them."""
        return {
            "settings": asdict(self.settings),
            "width": self.model.width,
            "units": self.model.units,
            "rows": {"fitted": len(self.fitted), "held_out": len(self.held_out)},
            "held_out": {
                **_plain(self.explained),
                "mean_active": self.use.mean_active,
                "density": self.use.density.tolist(),
            },
            "dead": {
                "units": self.dead,
                "share": self.dead / self.model.units,
                "means": "fires on no row, fitted or held out",
            },
            "silent_when_held_out": {"units": self.silent, "share": self.silent / self.model.units},
            "principal_components": {"components": self.components, **_plain(self.by_components)},
            "gaussian_control": {**_plain(self.control), "mean_active": self.control_use.mean_active},
            "beats_control": self.beats_control,
            "control_is_fitted": self.control_is_fitted,
            "has_structure": self.has_structure,
            "notes": list(self.notes),
        }


def study(
    rows: Float[Tensor, "row width"],
    settings: SparseConfig,
    device: torch.device | None = None,
    progress: Named | None = None,
) -> SparseStudy:
    """Split, fit, measure; the same for the same rows and settings.

    Raises:
        UserError: too few rows, rows that are equal or not finite, or more active units than there are.
    """
    settings.check_rows(len(rows))
    settings.units_of(rows.shape[1])
    place = device or torch.device("cpu")
    fitted, held_out = split(len(rows), settings)
    twin = gaussian_twin(rows, settings.seed)

    def fitted_to(name: str, some: Tensor) -> tuple[SparseAutoencoder, Explained, Use]:
        told = None if progress is None else partial(progress, name)
        model = fit(some[fitted], settings, place, told)
        errors, use = errors_and_use(model, some[held_out])
        return model, explained(some[held_out], errors, some[fitted].mean(dim=0)), use

    with one_thread(place):
        model, value, use = fitted_to("autoencoder", rows)
        _, control, control_use = fitted_to("control", twin)
        components = max(1, round(use.mean_active))
        return SparseStudy(
            model=model,
            settings=settings,
            fitted=fitted,
            held_out=held_out,
            explained=value,
            use=use,
            use_when_fitted=errors_and_use(model, rows[fitted])[1],
            components=components,
            by_components=by_principal_components(rows[fitted], rows[held_out], components),
            control=control,
            control_use=control_use,
        )


def split(rows: int, settings: SparseConfig) -> tuple[Int[Tensor, " fitted"], Int[Tensor, " held_out"]]:
    """Which rows are fitted and which are held out, both ascending; another seed draws others."""
    count = min(max(1, round(settings.held_out_share * rows)), rows - LEAST_ROWS // 2)
    order = torch.from_numpy(permutation(settings.seed, Stream.DRAW, 0, rows).astype("int64"))
    return order[count:].sort().values, order[:count].sort().values


def _plain(found: Explained) -> dict[str, float]:
    return {"explained": found.value, "low": found.low, "high": found.high, "unexplained": found.unexplained}
