"""The optimizer step of both trainers, on the same model, weights and batch, on any device.

Ours is `TrainStep`; the peer's is `train_one_epoch` of open_clip's own trainer with its `ClipLoss` and the AdamW that its
`main` builds. It gets its pixels normalised and in fp32, as its loader hands them over; ours gets bytes.
"""

import logging
from argparse import Namespace
from types import SimpleNamespace
from typing import Any

import open_clip
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from open_clip.loss import ClipLoss
from open_clip_train.train import train_one_epoch
from torch import Tensor, nn

from measure.captions import Pairs
from mmclip.batch import DataPosition, ImageTextBatch
from mmclip.objectives.clip import ClipConfig
from mmclip.towers.settings import TowersConfig
from mmclip.towers.two_tower import TwoTower
from mmclip.training.accumulate import AccumulationConfig
from mmclip.training.module import TrainingModule
from mmclip.training.optim import OptimizerConfig, build_optimizer
from mmclip.training.precision import Precision
from mmclip.training.progress import Progress
from mmclip.training.schedule import ScheduleConfig
from mmclip.training.step import TrainStep, UpdateRule

OPTIMIZER = OptimizerConfig(lr=1e-5, max_grad_norm=1.0)
"""One for both sides, betas, eps and decay included; the rate is small so that many steps on one batch stay tame."""
PEER_PRECISION = {"fp32": "fp32", "bf16": "amp_bf16", "fp16": "amp"}
FOREVER = 10**9


class Ours:
    """mmclip's step on one batch, again and again."""

    def __init__(
        self,
        model_cfg: dict[str, Any],
        device: torch.device,
        precision: Precision = "fp32",
        *,
        settings: TowersConfig | None = None,
        accumulation: AccumulationConfig | None = None,
        batch: int,
    ) -> None:
        torch.manual_seed(0)
        self.towers = TwoTower(model_cfg)
        if settings is not None:
            self.towers.set_up(settings)
        AcceleratorState._reset_state()  # sides of several precisions and devices live in one process
        self.module = TrainingModule(self.towers, ClipConfig().build(), precision).to(device)
        self.optimizer = build_optimizer(OPTIMIZER, self.module)
        rule = UpdateRule(OPTIMIZER, ScheduleConfig(type="constant", warmup_samples=0), FOREVER * batch, batch, seed=0)
        accelerator = Accelerator(mixed_precision="no", cpu=device.type == "cpu")
        self.step = TrainStep(accelerator, self.module, self.optimizer, rule, accumulation or AccumulationConfig())
        self.progress = Progress()

    def prepared(self, pairs: Pairs) -> ImageTextBatch:
        """The batch as the loop hands it to the step."""
        batch = ImageTextBatch(
            images=pairs.pixels,
            tokens=self.towers.trim(pairs.tokens),
            keys=torch.arange(len(pairs.tokens)),
            ids=tuple(map(str, range(len(pairs.tokens)))),
            position=DataPosition(0),
        )
        return self.step.measured(batch).to(self.towers.device)

    def run(self, batch: ImageTextBatch, steps: int = 1) -> Tensor:
        """Take steps on one batch; the last one's loss."""
        return [self._step(batch) for _ in range(steps)][-1]

    def take(self, batch: ImageTextBatch) -> Tensor:
        """Take a step on a batch from a loader, as the training loop does; its loss."""
        return self._step(self.step.measured(batch).to(self.towers.device))

    def _step(self, batch: ImageTextBatch) -> Tensor:
        loss = self.step(batch, self.progress).loss
        self.progress = self.progress.after(len(batch.ids))
        return loss


class NotedLoss(ClipLoss):
    """open_clip's loss, which also keeps its last value."""

    last: Tensor

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        found: Any = super().forward(*args, **kwargs)
        self.last = found["contrastive_loss"].detach()
        return found


class Peer:
    """open_clip's step on one batch, again and again."""

    def __init__(
        self,
        model_cfg: dict[str, Any],
        weights: dict[str, Tensor],
        device: torch.device,
        precision: Precision = "fp32",
        *,
        compile_backend: str | None = None,
    ) -> None:
        self.device = device
        self.model = peer_model(model_cfg, weights).to(device)
        self.optimizer = peer_optimizer(self.model)
        # `--torchcompile` is torch.compile of the whole model, with torch's defaults
        self.runs: Any = self.model if compile_backend is None else torch.compile(self.model, backend=compile_backend)
        self.loss = NotedLoss()
        self.precision = PEER_PRECISION[precision]
        logging.disable(logging.INFO)  # it writes a line at the end of each call

    def prepared(self, pairs: Pairs) -> tuple[Tensor, Tensor]:
        """The batch as its loader hands it to its loop: normalised, with all columns of padding."""
        moved = pairs.to(self.device)
        return normalised(moved.pixels), moved.tokens

    def run(self, batch: tuple[Tensor, Tensor], steps: int = 1) -> Tensor:
        """Take steps on one batch; the last one's loss."""
        return self.train(Repeated(batch, steps), len(batch[0]))

    def train(self, batches: Any, batch_size: int) -> Tensor:
        """One epoch of its trainer over `batches`; the last loss."""
        args = Namespace(
            device=str(self.device),
            precision=self.precision,
            distill=False,
            accum_freq=1,
            skip_scheduler=True,
            grad_clip_norm=OPTIMIZER.max_grad_norm,
            horovod=False,
            log_every_n_steps=FOREVER,
            rank=0,
            local_rank=0,
            world_size=1,
            batch_size=batch_size,
            wandb=False,
        )
        data = {"train": SimpleNamespace(dataloader=batches, set_epoch=lambda epoch: None)}
        train_one_epoch(self.runs, data, self.loss, 0, self.optimizer, None, None, None, args)
        return self.loss.last


class Repeated(list[Any]):
    """An epoch of one batch, several times over."""

    def __init__(self, batch: tuple[Tensor, Tensor], steps: int) -> None:
        super().__init__([batch] * steps)
        self.num_batches, self.num_samples = steps, steps * len(batch[0])


def normalised(pixels: Tensor) -> Tensor:
    """What open_clip's transform makes of them; the constants are CLIP's."""
    mean = torch.tensor(open_clip.OPENAI_DATASET_MEAN, device=pixels.device)[:, None, None]
    std = torch.tensor(open_clip.OPENAI_DATASET_STD, device=pixels.device)[:, None, None]
    return (pixels / 255 - mean) / std


def peer_model(model_cfg: dict[str, Any], weights: dict[str, Tensor]) -> nn.Module:
    """open_clip's own model with our weights (`TwoTower.backbone.state_dict()`), as its factory builds it."""
    settings = {name: model_cfg[name] for name in ("vision_cfg", "text_cfg")}
    model = open_clip.CLIP(model_cfg["embed_dim"], **settings, output_dict=True)
    shapes = {name: tensor.shape for name, tensor in model.state_dict().items()}
    model.load_state_dict({name: tensor.reshape(shapes[name]) for name, tensor in weights.items()})
    return model


def peer_optimizer(model: nn.Module) -> torch.optim.AdamW:
    """As `open_clip_train.main` builds it: torch's default implementation, no decay of vectors."""
    named = list(model.named_parameters())
    exclude = [p for n, p in named if p.ndim < 2 or "bn" in n or "ln" in n or "bias" in n or "logit_scale" in n]
    kept = {id(parameter) for parameter in exclude}
    rest = [p for _, p in named if id(p) not in kept]
    groups = [
        {"params": exclude, "weight_decay": 0.0},
        {"params": rest, "weight_decay": OPTIMIZER.weight_decay},
    ]
    return torch.optim.AdamW(groups, lr=OPTIMIZER.lr, betas=(OPTIMIZER.beta1, OPTIMIZER.beta2), eps=OPTIMIZER.eps)
