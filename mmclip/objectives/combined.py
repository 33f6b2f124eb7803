"""Several objectives in one run: a main one, and auxiliary ones with weights that may change over the run."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce

from jaxtyping import Float
from torch import Tensor, nn

from mmclip.batch import ObjectiveOutput, TowerOutput
from mmclip.config import config
from mmclip.errors import UserError
from mmclip.objectives import ObjectiveConfig
from mmclip.objectives.base import (
    ModelShape,
    MomentumNeed,
    Objective,
    ObjectiveContext,
    ObjectiveNeeds,
    Pixels,
    ViewNeed,
)


@config
class AuxiliaryConfig:
    """An objective beside the main one; where its weight is 0, it costs no pass of a tower."""

    objective: ObjectiveConfig
    """What it is."""
    weight: float = 1.0
    """Factor of its loss."""
    start: float = 0.0
    """Share of the run after which it counts; SigLIP 2 begins its distillation at 0.8."""
    ramp: float = 0.0
    """Share of the run over which its weight then rises from 0."""
    end: float = 1.0
    """Share of the run from which on it counts no more."""

    def __post_init__(self) -> None:
        if not 0 <= self.weight < float("inf"):
            raise UserError(f"auxiliary.weight={self.weight}: expected 0 or more, such as 1.0")
        if not (0 <= self.start < self.end <= 1 and 0 <= self.ramp <= 1):
            raise UserError(
                f"auxiliary: start={self.start}, ramp={self.ramp}, end={self.end}: expected shares of the run from 0 to 1, the "
                "start before the end"
            )

    def weight_at(self, share: float) -> float:
        """Its weight in the step before which a `share` of the run is done."""
        if not self.start <= share < self.end:
            return 0.0
        return self.weight if not self.ramp else self.weight * min(1.0, (share - self.start) / self.ramp)


@dataclass(frozen=True)
class Part:
    """One objective of several, by the name its figures are logged under."""

    name: str
    objective: Objective
    settings: AuxiliaryConfig | None
    """None for the main one."""

    def weight_at(self, share: float) -> float:
        """Its weight in the step before which a `share` of the run is done."""
        return 1.0 if self.settings is None else self.settings.weight_at(share)


def needs_of(main: ObjectiveConfig, auxiliary: Sequence[AuxiliaryConfig]) -> ObjectiveNeeds:
    """What a run with these objectives needs, known before there is a model.

    Raises:
        UserError: two of them cannot be together.
    """
    return joined([main.needs, *(part.objective.needs for part in auxiliary if part.weight)])


def build_objective(main: ObjectiveConfig, auxiliary: Sequence[AuxiliaryConfig], shape: ModelShape) -> Objective:
    """The objective of a run.

    Raises:
        UserError: two of them cannot be together, or one does not fit the model.
    """
    needs_of(main, auxiliary)
    own = main.build(shape)
    return own if not auxiliary else CombinedObjective(own, [(part, part.objective.build(shape)) for part in auxiliary])


def auxiliary_names(auxiliary: Sequence[AuxiliaryConfig]) -> list[str]:
    """What figures of each are logged under: its type, with its place behind it where there are several of one."""
    kinds = [settings.objective.type for settings in auxiliary]
    return [kind if kinds.count(kind) == 1 else f"{kind}_{place}" for place, kind in enumerate(kinds)]


class CombinedObjective(Objective):
    """The weighted sum. The main objective's figures keep their names, the others' stand behind the name of theirs."""

    def __init__(self, main: Objective, auxiliary: Sequence[tuple[AuxiliaryConfig, Objective]]) -> None:
        super().__init__()
        self.main = main
        self.auxiliary = nn.ModuleList([objective for _, objective in auxiliary])
        names = auxiliary_names([settings for settings, _ in auxiliary])
        self._parts = [Part("main", main, None)]
        self._parts += [
            Part(name, objective, settings) for name, (settings, objective) in zip(names, auxiliary, strict=True)
        ]
        self.needs = joined([p.objective.needs for p in self._parts if p.settings is None or p.settings.weight])

    def needs_at(self, share: float) -> ObjectiveNeeds:
        """Of the objectives that count then; what meets the captions is there throughout."""
        return joined([part.objective.needs_at(share) for part in self._counting(share)], self.needs.views)

    def local(
        self, outputs: TowerOutput, pixels: Pixels, momentum: TowerOutput | None
    ) -> Mapping[str, Float[Tensor, " batch"]]:
        """Of the objectives whose views are there."""
        return {
            f"{part.name}/{key}": row
            for part in self._parts
            if all(view.name in outputs.views for view in part.objective.needs.views)
            for key, row in part.objective.local(outputs, pixels, momentum).items()
        }

    def forward(self, outputs: TowerOutput, context: ObjectiveContext) -> ObjectiveOutput:
        """The weighted sum, each part's own loss under `NAME/loss`."""
        losses, report, staged, features = {}, {}, {}, {}
        for part in self._counting(context.share):
            found = part.objective(replace(outputs, local=_own(part.name, outputs.local)), context)
            losses[part.name] = part.weight_at(context.share) * found.loss
            prefix = "" if part.settings is None else f"{part.name}/"
            report |= {f"{prefix}{name}": value for name, value in found.report.items()}
            report[f"{part.name}/loss"] = found.loss.detach()
            staged |= {f"{part.name}/{name}": value for name, value in found.staged.items()}
            features |= {f"{prefix}{name}": rows for name, rows in found.features.items()}
        first, *others = losses.values()
        return ObjectiveOutput(sum(others, first), report, staged, features, losses)

    def on_optimizer_step(
        self, staged: Mapping[str, Tensor], context: ObjectiveContext, skipped: Float[Tensor, ""]
    ) -> None:
        """Of the objectives that counted in the step."""
        for part in self._counting(context.share):
            part.objective.on_optimizer_step(_own(part.name, staged), context, skipped)

    def _counting(self, share: float) -> list[Part]:
        return [part for part in self._parts if part.weight_at(share)]


def joined(needs: Sequence[ObjectiveNeeds], of_others: Sequence[ViewNeed] = ()) -> ObjectiveNeeds:
    """What all of them need together; views `of_others` may meet the captions too.

    Raises:
        UserError: they need different things of one name, or more than one teacher.
    """
    teachers = {need.teacher for need in needs if need.teacher is not None}
    if len(teachers) > 1:
        raise UserError(f"objectives with different teachers ({', '.join(sorted(teachers))}): expected one for a run")
    met = {need.embeds_of for need in needs if need.pairs}
    if len(met) > 1:
        raise UserError(f"objectives over pairs with different image_view ({met}): expected the same for all of them")
    embeds_of = next(iter(met), None)
    views = _views(needs, embeds_of, of_others)
    reasons = [need.why_local for need in needs if need.why_local is not None]
    return ObjectiveNeeds(
        pairs=any(need.pairs for need in needs),
        logit_bias=any(need.logit_bias for need in needs),
        logit_scale=any(need.logit_scale for need in needs),
        class_head=any(need.class_head for need in needs),
        teacher=next(iter(teachers), None),
        pair_labels=any(need.pair_labels for need in needs),
        views=views,
        embeds_of=embeds_of,
        momentum=reduce(_both_momenta, [need.momentum for need in needs if need.momentum is not None], None),
        why_local="; ".join(reasons) or None,
    )


def _views(
    needs: Sequence[ObjectiveNeeds], embeds_of: str | None, of_others: Sequence[ViewNeed]
) -> tuple[ViewNeed, ...]:
    found: dict[str, ViewNeed] = {}
    for view in (view for need in needs for view in need.views):
        known = found.setdefault(view.name, view)
        asked = {
            "embeds": known.embeds or view.embeds,
            "tokens": known.tokens or view.tokens,
            "learning": _more(known.learning, view.learning),
            "teaching": _more(known.teaching, view.teaching),
        }
        if replace(known, **asked) != replace(view, **asked):
            raise UserError(f"two objectives need different views of the name {view.name!r}: {known} and {view}")
        found[view.name] = replace(view, **asked)
    if embeds_of is not None:
        found = {view.name: view for view in of_others if view.name == embeds_of} | found
        if embeds_of not in found:
            known = ", ".join(found) or "none"
            raise UserError(
                f"objective.image_view={embeds_of!r}: no auxiliary objective has such a view (there are: {known})"
            )
        found[embeds_of] = replace(found[embeds_of], embeds=True)
    return tuple(found.values())


def _more(one: int | None, other: int | None) -> int | None:
    return None if one is None or other is None else max(one, other)


def _both_momenta(one: MomentumNeed | None, other: MomentumNeed) -> MomentumNeed:
    if one is None:
        return other
    if (one.start, one.end) != (other.start, other.end):
        raise UserError(
            f"two objectives share the momentum towers of a run, with momenta {one.start} to {one.end} and {other.start} to "
            f"{other.end}: give both the same"
        )
    views = tuple(dict.fromkeys((*one.views, *other.views)))
    return MomentumNeed(one.start, one.end, views, one.pairs or other.pairs)


def _own(name: str, named: Mapping[str, Tensor]) -> dict[str, Tensor]:
    prefix = f"{name}/"
    return {key.removeprefix(prefix): value for key, value in named.items() if key.startswith(prefix)}
