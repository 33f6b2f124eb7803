"""One optimizer step. Nothing else in a training run calls backward."""

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
from accelerate import Accelerator

from mmclip.batch import ImageTextBatch, StepReport
from mmclip.objectives import ObjectiveContext
from mmclip.randomness import step_seed
from mmclip.training.module import TrainingModule
from mmclip.training.optim import OptimizerConfig
from mmclip.training.progress import Progress
from mmclip.training.schedule import ScheduleConfig, learning_rate


@dataclass(frozen=True)
class UpdateRule:
    """What the update of a step depends on besides its gradient."""

    optimizer: OptimizerConfig
    schedule: ScheduleConfig
    total_samples: int
    global_batch_size: int
    seed: int

    def learning_rate(self, progress: Progress) -> float:
        """The learning rate of the step that follows `progress`."""
        seen = progress.after(self.global_batch_size).samples_seen
        return learning_rate(self.schedule, self.optimizer.lr, seen, self.total_samples)


class TrainStep:
    """Towers, objective, backward, clip, update, clamp: in this order, for one batch."""

    def __init__(
        self, accelerator: Accelerator, module: TrainingModule, optimizer: torch.optim.Optimizer, rule: UpdateRule
    ) -> None:
        # `prepare` may wrap both (DDP, scaler); the bare ones stay at hand for what a wrapper hides.
        prepared: tuple[Any, Any] = accelerator.prepare(module, optimizer)
        self.accelerator = accelerator
        self.module = module
        self.bare_optimizer = optimizer
        self.wrapped, self.optimizer = prepared
        self.rule = rule

    def measured(self, batch: ImageTextBatch) -> ImageTextBatch:
        """`batch` with the lengths of its captions: read before it goes to a device, they cost no wait."""
        if batch.lengths is not None:
            return batch
        return replace(batch, lengths=self.module.towers.text_lengths(batch.tokens))

    def __call__(self, batch: ImageTextBatch, progress: Progress) -> StepReport:
        """Update the weights with `batch`; `progress` is the run's before this step."""
        self.module.train()
        # Dropout, where a tower has it, replays after a resume: its seed is a function of the step.
        torch.manual_seed(step_seed(self.rule.seed, progress.step, self.accelerator.process_index))
        lr = self.rule.learning_rate(progress)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        context = ObjectiveContext(step=progress.step, samples_seen=progress.samples_seen)
        dropped = self.module.towers.dropped_share(progress.samples_seen, self.rule.total_samples)
        embedded, output = self.wrapped(batch.images, batch.tokens, context, batch.lengths, batch.keys, dropped)
        self.accelerator.backward(output.loss)
        settings = self.rule.optimizer
        limit = math.inf if settings.max_grad_norm is None else settings.max_grad_norm
        grad_norm: Any = self.accelerator.clip_grad_norm_(self.wrapped.parameters(), limit)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        with torch.no_grad():
            self.module.towers.logit_scale.clamp_(0.0, math.log(settings.max_logit_scale))
        self.module.objective.on_optimizer_step(context)
        return StepReport(
            loss=output.loss.detach(),
            grad_norm=grad_norm.detach(),
            learning_rate=lr,
            metrics={**output.report, "logit_scale": self.module.towers.logit_scale.detach()[0].exp()},
            image_embed=embedded.image_embed.detach(),
            text_embed=embedded.text_embed.detach(),
        )
