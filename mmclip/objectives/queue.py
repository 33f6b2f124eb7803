"""`queue`: InfoNCE against a momentum teacher's embeddings, this step's and a queue of earlier ones (ALBEF, Li et al. 2021)."""

from collections.abc import Mapping
from typing import Literal

from torch import Tensor

from mmclip.batch import ObjectiveOutput, TowerOutput
from mmclip.config import config
from mmclip.objectives.base import ModelShape, MomentumNeed, Objective, ObjectiveContext, ObjectiveNeeds
from mmclip.objectives.parts.candidates import candidates
from mmclip.objectives.parts.checks import at_least, shares
from mmclip.objectives.parts.given import needed_labels, needed_momentum
from mmclip.objectives.parts.ring import Ring
from mmclip.ops.momentum_targets import momentum_cross_entropy


@config
class QueueConfig:
    """Image-text contrast with queues of both modalities and momentum distillation."""

    type: Literal["queue"] = "queue"
    queue_size: int = 65536
    """Embeddings of earlier steps that are held of each modality, beside those of this step."""
    momentum: float = 0.995
    """Share of the teacher that stays at each optimizer step."""
    alpha: float = 0.4
    """Share of the targets that the teacher's softmax has; the pairs have the rest."""
    alpha_ramp: float = 0.05
    """Share of the run in which that of the teacher grows from 0 to `alpha`."""
    duplicates: Literal["ignored", "positive"] = "ignored"
    """What a key of the same caption or the same picture is, other than the pair's own: neither, or a further positive."""

    def __post_init__(self) -> None:
        at_least(0, queue_size=self.queue_size)
        shares(momentum=self.momentum, alpha=self.alpha, alpha_ramp=self.alpha_ramp)

    @property
    def needs(self) -> ObjectiveNeeds:
        """What the run must provide."""
        return ObjectiveNeeds(pair_labels=True, momentum=MomentumNeed(self.momentum, self.momentum, pairs=True))

    def build(self, shape: ModelShape) -> "QueueObjective":
        """The objective of this configuration."""
        return QueueObjective(self, shape)

    def alpha_at(self, share: float) -> float:
        """The teacher's share of the targets once a `share` of the run is done."""
        return self.alpha * (min(1.0, share / self.alpha_ramp) if self.alpha_ramp else 1.0)


class QueueObjective(Objective):
    """Each picture must find its caption among the teacher's captions, and each caption its picture among its pictures."""

    def __init__(self, settings: QueueConfig, shape: ModelShape) -> None:
        super().__init__()
        self.settings = settings
        self.needs = settings.needs
        self.images, self.texts = (Ring(settings.queue_size, shape.embed, factors=2) for _ in range(2))

    def forward(self, outputs: TowerOutput, context: ObjectiveContext) -> ObjectiveOutput:
        """The mean over both directions; this step's keys stand before those of the queue."""
        taught, labels = needed_momentum(context), needed_labels(context)
        image, text, duplicates = taught.image_embed.detach(), taught.text_embed.detach(), self.settings.duplicates
        captions = candidates(text, labels.text, labels.image, self.texts, duplicates)
        pictures = candidates(image, labels.image, labels.text, self.images, duplicates)
        scale, alpha = outputs.logit_scale, self.settings.alpha_at(context.share)
        to_text = momentum_cross_entropy(outputs.image_embed, image, captions, scale, alpha)
        to_image = momentum_cross_entropy(outputs.text_embed, text, pictures, scale, alpha)
        report = {
            "teacher_similarity": (outputs.image_embed.detach() * image).sum(1).mean(),
            "queue_filled": self.texts.share_filled(),
            "queue_age": self.texts.mean_age(context.step),
            "queue_agreement": self.images.agreement(image, labels.image),
        }
        return ObjectiveOutput((to_text + to_image) / 2, report, {"image": image, "text": text})

    def on_optimizer_step(self, staged: Mapping[str, Tensor], context: ObjectiveContext, skipped: Tensor) -> None:
        """This step's keys become candidates of the next."""
        labels = needed_labels(context)
        self.images.push(staged["image"], labels.image, context.step, skipped)
        self.texts.push(staged["text"], labels.text, context.step, skipped)
