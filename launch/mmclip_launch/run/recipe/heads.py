"""The class head of a run: where it starts, and how it is fitted on features of the start before the first step."""

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast

from mmclip.errors import UserError
from mmclip.towers.class_head import ClassHead
from mmclip.towers.two_tower import TwoTower
from mmclip_data.features.encode import refuse_bad
from mmclip_data.features.encoder import Encoder
from mmclip_data.features.model import Towers
from mmclip_data.features.store import FeatureStore
from mmclip_data.loading.loader import DataConfig
from mmclip_eval.eval_dataset import EvalDataset
from mmclip_eval.places import place_of
from mmclip_eval.probes.drawing import hold_out
from mmclip_eval.probes.logistic import Examples, Probe, choose_strength, fit_probe
from mmclip_eval.tasks.few_shot import STRENGTH_OF_ONE_SHOT
from mmclip_eval.zero_shot import class_weights
from mmclip_launch.run.assembled import Run
from mmclip_launch.run.config import RunConfig
from mmclip_launch.run.recipe.chosen import examples_set, training_set
from mmclip_launch.run.recipe.head_config import HeadConfig
from mmclip_launch.screen import Screen

NEVER = -1e4
"""Bias of a class without an example."""
HELD_OUT = 0.2
"""Of each class, to choose the strength of the probe on."""


def add_head(settings: HeadConfig, data: DataConfig, towers: TwoTower) -> str:
    """Give the towers an empty head, keep their own, or take it away; what was taken away is returned in words.

    Raises:
        UserError: the head of the source is to be kept, and it has none or one over other classes.
    """
    own = towers.class_head
    if settings.start is None:
        towers.class_head = None  # it would be that of other weights after the first step
        return (
            ""
            if own is None
            else f"the head over {len(own.names)} classes of model.init is left out: it would not learn"
        )
    names = training_set(data).prompts.names
    if settings.start != "source":
        towers.class_head = ClassHead(names, int(towers.model_cfg["embed_dim"]))
    elif own is None or own.names != names:
        had = "no class head" if own is None else f"a head over other classes ({', '.join(own.names[:3])}, ...)"
        raise UserError(f'head.start="source": model.init has {had}; expected one over {", ".join(names[:3])}, ...')
    return ""


def start_head(
    settings: HeadConfig, data: DataConfig, towers: TwoTower, accelerator: Accelerator, seed: int, screen: Screen
) -> None:
    """Fill the head before the first step: on the first rank, for all.

    Raises:
        UserError: a picture cannot be read.
    """
    head = towers.class_head
    if head is None or settings.start in (None, "source"):
        return
    if accelerator.is_main_process:
        store = FeatureStore(warn=screen.warn)
        encoder = Encoder(Towers(towers), store=store)
        if settings.start == "zero_shot":
            scale = towers.logit_scale.detach().exp().cpu()
            head.fill(class_weights(training_set(data).prompts, encoder.texts) * scale, torch.zeros(len(head.names)))
            screen.say(f"head over {len(head.names)} classes: from the prompts")
        else:
            examples = encoded_examples(encoder, examples_set(data), screen)
            probe, strength = fit_on(examples, len(head.names), seed)
            seen = torch.zeros(len(head.names), dtype=torch.bool).index_fill_(0, probe.seen, True)
            head.fill(probe.weight.float(), torch.where(seen, probe.bias, NEVER).float())
            screen.say(
                f"head over {len(head.names)} classes: logistic regression on {len(examples.labels):,} pictures, strength "
                f"{strength:.3g}"
            )
        store.close()
    for parameter in head.parameters():
        parameter.data.copy_(broadcast(parameter.data))  # pyright: ignore[reportArgumentType, reportCallIssue]


def fit_head(config: RunConfig, accelerator: Accelerator, run: Run, screen: Screen) -> None:
    """Fill the class head before the first step, and the average's with it."""
    towers, ema = run.step.module.towers, run.step.trained.ema
    start_head(config.head, config.data, towers, accelerator, config.seed, screen)
    if ema is not None and ema.towers.class_head is not None and towers.class_head is not None:
        ema.towers.class_head.load_state_dict(towers.class_head.state_dict())


def encoded_examples(encoder: Encoder, dataset: EvalDataset, screen: Screen) -> Examples:
    """Embeddings and classes of a set, all of whose pictures can be read.

    Raises:
        UserError: one cannot.
    """
    rows = dataset.encoded_rows
    with screen.bars("pictures") as advance:
        encoding = encoder.images(
            rows, place_of(dataset), lambda *step: advance("features", *step), lambda bad: refuse_bad(rows, bad)
        )
    return Examples(encoding.embed, dataset.labelled.labels)


def fit_on(examples: Examples, classes: int, seed: int) -> tuple[Probe, float]:
    """A probe on all examples, its strength chosen on a part of them; with one example of each there is nothing to choose."""
    strength = STRENGTH_OF_ONE_SHOT
    if int(examples.labels.bincount().max()) > 1:
        strength, _ = choose_strength(*hold_out(examples, HELD_OUT, seed), classes)
    return fit_probe(examples, classes, strength), strength
