"""Run under python: each objective over views, as it is and broken, on scikit-learn's digits, watched by the run's own alarms.

    python tests/end_to_end/collapse_study.py OUT.json [--steps 400] [--seed 0] [--only vicreg ...]

A small MLP stands for the tower. What is broken is what its paper names as the reason why the objective does not collapse; it
is broken here, by subclasses or by values that no run would have. `masked` has no twin: its target is the picture itself.
"""

import argparse
import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor, nn

from mmclip.batch import ObjectiveOutput, PairLabels, TowerOutput, ViewOutput
from mmclip.objectives import (
    ByolConfig,
    DinoConfig,
    MocoConfig,
    ModelShape,
    Objective,
    ObjectiveContext,
    SimclrConfig,
    SimsiamConfig,
    SwavConfig,
    VicregConfig,
)
from mmclip.objectives.parts.crops import LOCAL
from mmclip.ops.prototypes import entropy, swapped_cross_entropy, used_share
from mmclip.training.feature_health import health_of_features
from mmclip.training.progress import Progress
from mmclip_launch.run.records.alarm_rule import SETTLING_STEPS, Expected, chance_loss
from mmclip_launch.run.records.alarms import Monitor

BATCH, WIDTH, LOG_EVERY = 128, 64, 10
SHAPE = ModelShape(embed=WIDTH, pooled=WIDTH, image_size=(8, 8))
HEAD: dict[str, Any] = {"hidden": 128, "out": WIDTH}
SORTED: dict[str, Any] = {"prototypes": 64, "local_views": 2, "hidden": 128}
HEALTHY: dict[str, Any] = {
    "simclr": SimclrConfig(**HEAD),
    "moco": MocoConfig(**HEAD, queue_size=1024, momentum=0.9),
    "byol": ByolConfig(**HEAD, momentum=0.9),
    "simsiam": SimsiamConfig(**HEAD, bottleneck=16),
    "vicreg": VicregConfig(**HEAD),
    "swav": SwavConfig(**SORTED, out=WIDTH, norm="batch", epsilon=0.03),
    "dino": DinoConfig(**SORTED, bottleneck=WIDTH, momentum=0.97, teacher_temperature_end=0.04),
}
"""As they are, at a size that fits digits: teachers follow faster than over the published runs of 10^5 steps and more."""


def projections(objective: Any, outputs: TowerOutput) -> list[Tensor]:
    return [objective.projector(view.pooled) for view in outputs.views["strong"]]


def attracted(rows: list[Tensor], others: list[Tensor], objective: Any) -> ObjectiveOutput:
    """Views agree, and nothing else is asked."""
    cosine = sum(F.cosine_similarity(a, b, dim=1).mean() for a, b in zip(rows, others, strict=True)) / len(rows)
    temperature = getattr(objective, "temperature", 1.0)
    return ObjectiveOutput(loss=-cosine / temperature, features={"projected": rows[0].detach()})


def without_negatives(objective: Any, outputs: TowerOutput, context: ObjectiveContext) -> ObjectiveOutput:
    first, second = projections(objective, outputs)
    return attracted([first], [second], objective)


def without_negatives_of_a_queue(objective: Any, outputs: TowerOutput, context: ObjectiveContext) -> ObjectiveOutput:
    assert context.momentum is not None
    keys = [objective.teacher(view.pooled) for view in context.momentum.views["strong"]]
    found = attracted(projections(objective, outputs)[:1], [keys[1].detach()], objective)
    return replace(found, staged={"keys": F.normalize(keys[1].detach(), dim=1)})


def without_stop_gradient(objective: Any, outputs: TowerOutput, context: ObjectiveContext) -> ObjectiveOutput:
    """The target is the student's own projection, and moves too."""
    rows = projections(objective, outputs)
    return attracted([objective.predictor(row) for row in rows], rows[::-1], objective)


def without_predictor(objective: Any) -> Any:
    objective.predictor = nn.Identity()
    return objective


def without_even_use(objective: Any, outputs: TowerOutput, context: ObjectiveContext) -> ObjectiveOutput:
    """SwAV's targets without Sinkhorn and Knopp: each view's own softmax."""
    views = [*outputs.views["global"], *outputs.views[LOCAL]]
    rows = [objective.projector(view.pooled) for view in views]
    scores = [objective.prototypes(row) for row in rows]
    targets = [(score.detach() / objective.settings.epsilon).softmax(1) for score in scores[:2]]
    return ObjectiveOutput(
        loss=swapped_cross_entropy(targets, scores, objective.settings.temperature),
        report={"assignment_entropy": entropy(targets), "prototype_use": used_share(targets)},
        features={"projected": rows[0].detach()},
    )


def of_config(config: Any, **fields: Any) -> Any:
    return replace(config, **fields).build(SHAPE)


def with_forward(forward: Callable[..., ObjectiveOutput], config: Any) -> Any:
    objective = config.build(SHAPE)
    kind = type(objective)
    objective.__class__ = type(f"Broken{kind.__name__}", (kind,), {"forward": forward})
    return objective


def without_centring(config: Any) -> Any:
    objective = config.build(SHAPE)
    objective.centre.momentum = 1.0  # it stays where it is, at 0
    return objective


TWINS: dict[tuple[str, str], Callable[[Any], Any]] = {
    ("simclr", "no negatives"): partial(with_forward, without_negatives),
    ("moco", "no negatives"): partial(with_forward, without_negatives_of_a_queue),
    ("byol", "no stop-gradient"): partial(with_forward, without_stop_gradient),
    ("byol", "no predictor"): lambda config: without_predictor(config.build(SHAPE)),
    ("simsiam", "no stop-gradient"): partial(with_forward, without_stop_gradient),
    ("simsiam", "no predictor"): lambda config: without_predictor(config.build(SHAPE)),
    ("vicreg", "no variance"): partial(of_config, variance=0.0),
    ("vicreg", "no covariance"): partial(of_config, covariance=0.0),
    ("swav", "no even use"): partial(with_forward, without_even_use),
    ("dino", "no centring"): without_centring,
    ("dino", "no sharpening"): partial(of_config, teacher_temperature=1.0, teacher_temperature_end=1.0),
}
"""What is taken away from which objective."""


@dataclass(frozen=True)
class Outcome:
    """What a training ended with; figures are those of a run's log, of the last batch."""

    objective: str
    broken: str | None
    figures: Mapping[str, float]
    alarms: list[str] = field(default_factory=list)

    @property
    def rank(self) -> float:
        """Effective rank of the projections, around the origin or around the mean: a collapse may show in either."""
        return min(self.figures[f"health/projected_effective_rank{centred}"] for centred in ("", "_centred"))


def digits() -> Tensor:
    """Pictures of 8 x 8 whose pixels have mean 0, and deviation 1 where they vary."""
    pixels = torch.from_numpy(load_digits().images).float()[:, None] / 16
    return (pixels - pixels.mean(0)) / (pixels.std(0) + 0.1)


def encoder() -> nn.Module:
    """A stand-in for a tower, whose features end in a layer norm as a ViT's do."""
    hidden = [nn.Linear(64, 256), nn.GELU(), nn.Linear(256, 256), nn.GELU()]
    return nn.Sequential(nn.Flatten(), *hidden, nn.Linear(256, WIDTH), nn.LayerNorm(WIDTH))


def drawn(pixels: Tensor, local: bool, generator: torch.Generator) -> Tensor:
    """One view of each picture: turned, moved (or five eighths of it), lighter or darker, and noisy."""

    def uniform(limit: float, *shape: int) -> Tensor:
        return limit * (2 * torch.rand(len(pixels), *shape, generator=generator) - 1)

    scale = 5 / 8 if local else 1.0
    angle, moved = uniform(0.25), uniform(1 - scale if local else 0.25, 2)
    turn = torch.stack([angle.cos() * scale, -angle.sin() * scale, angle.sin() * scale, angle.cos() * scale], 1)
    affine = torch.cat([turn.view(-1, 2, 2), moved[:, :, None]], 2)
    grid = F.affine_grid(affine, list(pixels.shape), align_corners=False)
    found = F.grid_sample(pixels, grid, align_corners=False, padding_mode="border")
    found = found * (1 + uniform(0.3, 1, 1, 1))
    return found + 0.3 * torch.randn(found.shape, generator=generator)


def outputs_of(tower: nn.Module, views: Mapping[str, list[Tensor]]) -> TowerOutput:
    nothing = torch.zeros(BATCH, 0)
    named = {name: tuple(ViewOutput(pooled=tower(copy)) for copy in copies) for name, copies in views.items()}
    return TowerOutput(image_embed=nothing, text_embed=nothing, logit_scale=torch.ones(1), logit_bias=None, views=named)


def steps(objective: Objective, count: int, seed: int) -> Iterator[tuple[int, ObjectiveOutput, Tensor]]:
    """Train; after each step its number, what the objective gave, and the features of the first view."""
    tower, teacher = encoder(), encoder()
    teacher.load_state_dict(tower.state_dict())
    learning = [weight for weight in (*tower.parameters(), *objective.parameters()) if weight.requires_grad]
    optimizer = torch.optim.AdamW(learning, lr=1e-3, weight_decay=1e-4)
    generator, pixels, momentum = torch.Generator().manual_seed(seed), digits(), objective.needs.momentum
    for step in range(count):
        rows = torch.randperm(len(pixels), generator=generator)[:BATCH]
        views = {
            need.name: [drawn(pixels[rows], need.name == LOCAL, generator) for _ in range(need.copies)]
            for need in objective.needs.views
        }
        with torch.no_grad():
            seen = {} if momentum is None else {name: views[name] for name in momentum.views}
            taught = outputs_of(teacher, seen) if seen else None
        labels = PairLabels(rows[:, None], rows[:, None])
        context = ObjectiveContext(step, step * BATCH, labels, share=step / count, momentum=taught)
        outputs = outputs_of(tower, views)
        found = objective(outputs, context)
        found.loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if momentum is not None:
            with torch.no_grad():
                for weight, followed in zip(teacher.parameters(), tower.parameters(), strict=True):
                    weight.lerp_(followed, 1 - momentum.at(context.share))
        objective.on_optimizer_step(found.staged, context, torch.tensor(0.0))
        yield step, found, next(iter(outputs.views.values()))[0].pooled.detach()


def study(name: str, broken: str | None, count: int, seed: int) -> Outcome:
    """Train one objective, whole or broken, and note what a run would log and which alarms it would raise."""
    torch.manual_seed(seed)
    config = HEALTHY[name]
    objective = config.build(SHAPE) if broken is None else TWINS[name, broken](config)
    monitor = Monitor(
        Expected(
            settled_after=SETTLING_STEPS * BATCH,
            chance_loss=chance_loss(name, BATCH),
            max_logit_scale=100.0,
            max_grad_norm=None,
            workers=0,
            prototypes={"": SORTED["prototypes"]} if hasattr(config, "prototypes") else {},
        )
    )
    figures: dict[str, float] = {}
    alarms: list[str] = []
    for step, found, pooled in steps(objective, count, seed):
        if (step + 1) % LOG_EVERY:
            continue
        health = {"pooled": pooled, **found.features}
        figures = {"train/loss": float(found.loss.detach())}
        figures |= {f"train/{label}": float(value) for label, value in found.report.items()}
        for of, rows in health.items():
            figures |= {f"health/{of}_{label}": float(value) for label, value in health_of_features(rows).items()}
        alarms += [alarm.alarm for alarm in monitor.read(Progress(step + 1, (step + 1) * BATCH), figures)]
    return Outcome(name, broken, figures, alarms)


def table(outcomes: list[Outcome]) -> str:
    """One line each: loss, deviation and effective ranks of the projections, the targets' entropy and use, alarms."""
    columns = {
        "loss": "train/loss",
        "std": "health/projected_std",
        "raw std": "health/projected_raw_std",
        "rank": "health/projected_effective_rank",
        "centred": "health/projected_effective_rank_centred",
        "tower": "health/pooled_effective_rank",
        "used": "train/prototype_use",
    }
    lines = [f"{'objective':28}" + "".join(f"{title:>9}" for title in (*columns, "entropy")) + "  alarms"]
    for outcome in outcomes:
        figures = {**outcome.figures}
        values = [figures.get(key, math.nan) for key in columns.values()]
        values.append(figures.get("train/teacher_entropy", figures.get("train/assignment_entropy", math.nan)))
        label = outcome.objective + (f", {outcome.broken}" if outcome.broken else "")
        shown = "".join(f"{'':>9}" if math.isnan(value) else f"{value:9.3f}" for value in values)
        lines.append(f"{label:28}{shown}  {', '.join(outcome.alarms) or '-'}")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("out", type=Path)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="*", default=list(HEALTHY))
    options = parser.parse_args()
    torch.set_num_threads(1)
    cases = [(name, broken) for name in options.only for broken in (None, *(b for n, b in TWINS if n == name))]
    outcomes = []
    for name, broken in cases:
        outcomes.append(study(name, broken, options.steps, options.seed))
        print(table(outcomes[-1:]).split("\n")[1], flush=True)
    print(table(outcomes))
    options.out.write_text(json.dumps([asdict(outcome) | {"rank": outcome.rank} for outcome in outcomes], indent=1))


if __name__ == "__main__":
    main()
