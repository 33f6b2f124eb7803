"""Fifty steps of open_clip's own training loop and fifty of ours, on the same batches from the same weights."""

import math
from argparse import Namespace
from types import SimpleNamespace
from typing import Any

import open_clip
import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from open_clip.loss import ClipLoss, SigLipLoss
from open_clip_train.train import train_one_epoch

from mmclip.batch import DataPosition, ImageTextBatch
from mmclip.objectives import ObjectiveConfig, SiglipConfig
from mmclip.objectives.clip import ClipConfig
from mmclip.towers.architecture import model_cfg_of
from mmclip.towers.two_tower import TwoTower
from mmclip.training.accumulate import AccumulationConfig
from mmclip.training.module import TrainingModule
from mmclip.training.optim import OptimizerConfig, build_optimizer
from mmclip.training.precision import Precision
from mmclip.training.progress import Progress
from mmclip.training.schedule import ScheduleConfig
from mmclip.training.step import TrainStep, UpdateRule

STEPS, BATCH, NAMES = 50, 16, ("red", "green", "blue", "grey", "pink", "a dark shade of teal", "gold", "black")
OPTIMIZER = OptimizerConfig(lr=1e-3, max_grad_norm=1.0)
RULE = UpdateRule(OPTIMIZER, ScheduleConfig(warmup_samples=5 * BATCH), STEPS * BATCH, BATCH, seed=0)


def batches(towers: TwoTower) -> list[ImageTextBatch]:
    """Pictures of noise of one mean colour each, captioned by a number and a name, so that there is something to learn."""
    generator = torch.Generator().manual_seed(0)
    made = []
    for step in range(STEPS):
        kinds = torch.randint(0, len(NAMES), (BATCH,), generator=generator)
        noise = torch.randint(0, 64, (BATCH, 3, 32, 32), generator=generator)
        images = (noise + 20 * kinds[:, None, None, None]).to(torch.uint8)
        tokens = towers.tokenizer([f"{number} of {NAMES[kind]}" for number, kind in enumerate(kinds.tolist())])
        ids = tuple(f"{step}/{number}" for number in range(BATCH))
        made.append(
            ImageTextBatch(images=images, tokens=tokens, keys=torch.arange(BATCH), ids=ids, position=DataPosition(0))
        )
    return made


def start(objective: ObjectiveConfig, dtype: torch.dtype) -> TwoTower:
    torch.manual_seed(2)
    cfg = model_cfg_of("nano-vit-32")
    if isinstance(objective, SiglipConfig):
        cfg |= {"init_logit_scale": math.log(10), "init_logit_bias": -10.0}
    return TwoTower(cfg).to(dtype)


def ours(objective: ObjectiveConfig, precision: Precision, dtype: torch.dtype) -> list[float]:
    towers = start(objective, dtype)
    AcceleratorState._reset_state()
    module = TrainingModule(towers, objective.build(), precision)
    step = TrainStep(Accelerator(cpu=True), module, build_optimizer(OPTIMIZER, module), RULE, AccumulationConfig())
    losses, progress = [], Progress()
    for batch in batches(towers):
        trimmed = ImageTextBatch(
            images=batch.images,
            tokens=towers.trim(batch.tokens),
            keys=batch.keys,
            ids=batch.ids,
            position=batch.position,
        )
        losses.append(float(step(trimmed, progress).loss))
        progress = progress.after(BATCH)
    return losses


def theirs(objective: ObjectiveConfig, dtype: torch.dtype) -> list[float]:
    towers = start(objective, dtype)
    cfg = towers.model_cfg
    settings: dict[str, Any] = {"vision_cfg": cfg["vision_cfg"], "text_cfg": cfg["text_cfg"], "output_dict": True}
    settings |= {name: cfg[name] for name in ("init_logit_scale", "init_logit_bias") if name in cfg}
    model = open_clip.CLIP(cfg["embed_dim"], **settings).to(dtype)
    model.load_state_dict({n: t.reshape(model.state_dict()[n].shape) for n, t in towers.backbone.state_dict().items()})
    named = list(model.named_parameters())
    exclude = [p for n, p in named if p.ndim < 2 or "bn" in n or "ln" in n or "bias" in n or "logit_scale" in n]
    rest = [p for _, p in named if not any(p is other for other in exclude)]
    optimizer = torch.optim.AdamW(
        [{"params": exclude, "weight_decay": 0.0}, {"params": rest, "weight_decay": OPTIMIZER.weight_decay}],
        lr=OPTIMIZER.lr,
        betas=(OPTIMIZER.beta1, OPTIMIZER.beta2),
        eps=OPTIMIZER.eps,
    )

    def schedule(number: int) -> None:  # theirs is one step behind: see test_import_flags
        for group in optimizer.param_groups:
            group["lr"] = RULE.learning_rate(Progress(number, number * BATCH))

    class Recorded(list[Any]):
        num_batches, num_samples = STEPS, STEPS * BATCH

    pairs = Recorded((towers.spec.normalise(b.images, dtype), b.tokens) for b in batches(towers))
    losses: list[float] = []
    kind: Any = SigLipLoss if isinstance(objective, SiglipConfig) else ClipLoss

    class Noted(kind):
        def forward(self, *args: Any, **kwargs: Any) -> Any:
            found = super().forward(*args, **kwargs)
            losses.append(next(iter(found.values())).item())
            return found

    args = Namespace(
        device="cpu",
        precision="fp32",
        distill=False,
        accum_freq=1,
        skip_scheduler=False,
        grad_clip_norm=OPTIMIZER.max_grad_norm,
        horovod=False,
        log_every_n_steps=10**6,
        rank=0,
        local_rank=0,
        world_size=1,
        batch_size=BATCH,
        wandb=False,
    )
    data = {"train": SimpleNamespace(dataloader=pairs, set_epoch=lambda epoch: None)}
    train_one_epoch(model, data, Noted(), 0, optimizer, None, schedule, None, args)
    return losses


@pytest.mark.parametrize("objective", [ClipConfig(), SiglipConfig()], ids=["clip", "siglip"])
@pytest.mark.parametrize(
    ("precision", "dtype", "tolerance"), [("fp64", torch.float64, 1e-8), ("fp32", torch.float32, 5e-4)]
)
def test_the_loss_curve_is_that_of_open_clips_own_step(
    objective: ObjectiveConfig, precision: Precision, dtype: torch.dtype, tolerance: float
):
    expected = theirs(objective, dtype)
    assert len(expected) == STEPS
    assert expected[-1] < 0.8 * expected[0], "something was learned"
    assert ours(objective, precision, dtype) == pytest.approx(expected, rel=tolerance)
