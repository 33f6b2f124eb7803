"""One optimizer step. Nothing else in a training run calls backward."""

import gc
import math
import warnings
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from accelerate import Accelerator
from jaxtyping import Bool
from torch import Tensor
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from mmclip.batch import ImageTextBatch, ObjectiveOutput, StepReport, TowerOutput
from mmclip.objectives import ObjectiveContext
from mmclip.ops.shards import local, whole
from mmclip.randomness import step_seed
from mmclip.towers.patches import Grid
from mmclip.training.accumulate import AccumulationConfig, GraphBudget, accumulate, unchanged
from mmclip.training.checkpoint.contents import Trained
from mmclip.training.ema import WeightAverage
from mmclip.training.gradient_cosine import compared, compared_in_last
from mmclip.training.module import TrainingModule
from mmclip.training.momentum import MomentumTowers, part_of
from mmclip.training.optim import OptimizerConfig
from mmclip.training.precision import build_scaler
from mmclip.training.progress import Progress
from mmclip.training.reduce import average_gradients, not_finite
from mmclip.training.resolution import set_image_size
from mmclip.training.schedule import ScheduleConfig, learning_rate
from mmclip.training.sharding import is_sharded_module
from mmclip.training.teacher import Teacher


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
    """Towers, objective, backward, clip, update, clamp: in this order, for one batch.

    Raises:
        UserError: the batch does not divide into micro-batches.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        module: TrainingModule,
        optimizer: torch.optim.Optimizer,
        rule: UpdateRule,
        accumulation: AccumulationConfig,
        ema: WeightAverage | None = None,
        teacher: Teacher | None = None,
        momentum: MomentumTowers | None = None,
    ) -> None:
        self.micro_batches = accumulation.micro_batches(rule.global_batch_size, accelerator.num_processes)
        self.graph_bytes = int(accumulation.graph_gib * 2**30)
        self.accelerator = accelerator
        self.module = module
        self.bare_optimizer: Any = optimizer
        self.wrapped: Any = module
        self.optimizer: Any = optimizer
        self._prepare()
        self.rule = rule
        self.teacher = teacher
        self.momentum = momentum
        self.ema = ema
        self.scaler = build_scaler(module.precision, accelerator.device)
        self.trained = Trained(module, optimizer, ema, self.scaler, momentum)
        """What a checkpoint holds."""
        self.compare_every: int | None = None
        """Steps from one comparison of the gradients of several objectives to the next; None: never."""

    def release(self) -> None:
        """Let the wrapper go, before the process group is destroyed.

        A wrapper that outlives it holds its last reference, and torch then joins gloo's thread with the interpreter locked,
        while that thread waits for the interpreter: the process never ends (seen with torch 2.13, about one run in fifty).
        """
        self.wrapped = self.module
        self.accelerator.free_memory()
        gc.collect()

    def _prepare(self) -> None:
        # `prepare` may wrap both (DDP); the bare ones stay at hand for what a wrapper hides. A sharded module has own hooks.
        self.is_sharded = is_sharded_module(self.module)
        self.wrapped: Any
        self.optimizer: Any
        self.wrapped, self.optimizer = self.module, self.bare_optimizer
        if not self.is_sharded:
            with warnings.catch_warnings():  # accelerate 1.15 knows no newer word for it, torch 2.13 has one
                warnings.filterwarnings("ignore", "`broadcast_buffers` is deprecated", FutureWarning)
                prepared: tuple[Any, Any] = self.accelerator.prepare(self.module, self.bare_optimizer)
            self.wrapped, self.optimizer = prepared
        self.budget = GraphBudget(self.graph_bytes, list(self.module.parameters()))

    def set_image_size(self, size: Grid) -> tuple[str, ...]:
        """Go on at another size; parameters whose moments begin anew are returned by name.

        Raises:
            UserError: the image tower cannot take the size.
        """
        self.wrapped, self.optimizer = self.module, self.bare_optimizer
        self.accelerator.free_memory()  # a wrapper that is left would go on reducing the gradients of old parameters
        anew = set_image_size(self.trained, size)
        self._prepare()
        return anew

    def measured(self, batch: ImageTextBatch) -> ImageTextBatch:
        """`batch` with the lengths of its captions: read before it goes to a device, they cost no wait."""
        if batch.lengths is not None or batch.text_features is not None or not batch.tokens.shape[1]:
            return batch
        return replace(batch, lengths=self.module.towers.text_lengths(batch.tokens))

    def __call__(self, batch: ImageTextBatch, progress: Progress) -> StepReport:
        """Update the weights with `batch`; `progress` is the run's before this step."""
        self.module.train()
        lr = self.rule.learning_rate(progress)
        for group in self.optimizer.param_groups:
            group["lr"] = lr * group.get("lr_scale", 1.0)
        labels = self.module.pair_labels(batch)
        share = min(1.0, progress.samples_seen / self.rule.total_samples)
        teaches = self.module.objective.needs_at(share).momentum is not None
        context = ObjectiveContext(
            progress.step,
            progress.samples_seen,
            labels,
            batch.classes,
            None if self.teacher is None else self.teacher(batch, self.micro_batches),
            share,
            self.momentum(batch, self.micro_batches) if self.momentum is not None and teaches else None,
        )
        embedded, output = self._gradients(batch, context)
        grad_norm, skipped = self._update(output.loss)
        if self.module.towers.logit_scale.requires_grad:
            with torch.no_grad():
                local(self.module.towers.logit_scale).clamp_(0.0, math.log(self.rule.optimizer.max_logit_scale))
        if self.ema is not None:
            self.ema.update(self.module.towers, progress.step + 1, skipped)
        if self.momentum is not None:
            self.momentum.update(self.module.towers, share, skipped, teaches)
        self.module.objective.on_optimizer_step(output.staged, context, skipped)
        return StepReport(
            loss=output.loss.detach(),
            grad_norm=grad_norm.detach(),
            skipped=skipped,
            not_finite=_rows_not_finite(embedded),
            learning_rate=lr,
            metrics={**output.report, "logit_scale": whole(self.module.towers.logit_scale.detach())[0].exp()},
            image_embed=embedded.image_embed.detach(),
            text_embed=embedded.text_embed.detach(),
            features={**_pooled(embedded), **output.features},
        )

    def _gradients(self, batch: ImageTextBatch, context: ObjectiveContext) -> tuple[TowerOutput, ObjectiveOutput]:
        """Leave the gradient of the global batch, times the scaler's factor, in every parameter."""
        dropped = self.module.towers.dropped_share(context.samples_seen, self.rule.total_samples)
        micros = batch.split(self.micro_batches)
        seeds = [self._seed(context.step, number) for number in range(len(micros))]
        if len(micros) == 1:
            torch.manual_seed(seeds[0])
            embedded, output = self.wrapped(batch, context, dropped)
            output = compared(output, self.module.towers) if self._compares(context.step) else output
            self.scaler.scale(output.loss).backward()
            return embedded, output

        def encode(numbered: tuple[int, ImageTextBatch]) -> TowerOutput:
            number, micro = numbered
            torch.manual_seed(seeds[number])
            size = len(micro.ids)
            samples = slice(number * size, (number + 1) * size)
            taught = None if context.momentum is None else part_of(context.momentum, samples)
            return self.module.encode(micro, dropped, context.share, taught)

        # Every pass stays out of DDP's sight: its reducer counts the gradients of one forward, and here there are many.
        with self.accelerator.no_sync(self.wrapped):
            embedded, output = accumulate(
                list(enumerate(micros)),
                encode,
                lambda whole: self.module.objective(whole, context),
                lambda loss: self.scaler.scale(loss).backward(),
                self.budget,
                partial(compared_in_last, towers=self.module.towers) if self._compares(context.step) else unchanged,
            )
        if not self.is_sharded:  # there each backward has averaged what it left
            average_gradients(list(self.module.parameters()))
        return embedded, output

    def _compares(self, step: int) -> bool:
        """Whether the step is one whose objectives are compared; sharded, the weights of a block are nowhere whole."""
        return self.compare_every is not None and not self.is_sharded and (step + 1) % self.compare_every == 0

    def _update(self, loss: Tensor) -> tuple[Tensor, Tensor]:
        """Clip and update, on all ranks or on none: where the loss or a gradient is not finite, every weight stays.

        Returns the norm before clipping, and whether the step was skipped (a float on the device, so nobody waits).
        """
        self.scaler.unscale_(self.bare_optimizer)
        limit = self.rule.optimizer.max_grad_norm
        parameters = [p for p in self.module.parameters() if p.requires_grad]
        # `clip_grad_norm_` in its two halves: of sharded gradients the norm is first that of the rows here.
        grad_norm = whole(get_total_norm([p.grad for p in parameters if p.grad is not None]))
        clip_grads_with_norm_(parameters, math.inf if limit is None else limit, grad_norm)
        skipped = not_finite(loss, grad_norm)
        self.bare_optimizer.found_inf = skipped  # read by the fused kernel, as torch's own scaler has it
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.scaler.update()
        return grad_norm, skipped

    def _seed(self, step: int, micro: int) -> int:
        """Dropout, where a tower has it, replays after a resume and at a second pass: its seed is a function of the step."""
        return step_seed(self.rule.seed, step, self.accelerator.process_index * self.micro_batches + micro)


def _pooled(embedded: TowerOutput) -> dict[str, Tensor]:
    """What the image tower pools of the first of the views, where there are any."""
    first = next(iter(embedded.views.values()), None)
    return {} if first is None else {"pooled": first[0].pooled.detach()}


def _rows_not_finite(embedded: TowerOutput) -> Bool[Tensor, " batch"]:
    rows = [row.flatten(1) if row.ndim > 1 else row[:, None] for row in embedded.rows().values()]
    return ~torch.stack([row.isfinite().all(dim=1) for row in rows]).all(dim=0)
