"""Tip-Adapter (Zhang et al., 2022): zero-shot logits plus the votes of a few examples, without any training."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from mmclip_eval.metrics.classification import top_k_accuracy, true_class_rank
from mmclip_eval.probes.logistic import Examples

BLOCK_ELEMENTS = 1 << 24
"""Size of one block of affinities; fixed, so that no setting moves a last digit."""


@dataclass(frozen=True)
class TipAdapter:
    """Cosines of the classifier, and a cache of examples: its keys are their embeddings, its values their classes."""

    class_embed: Float[Tensor, "class embed"]
    cache: Examples
    logit_scale: float = 100.0
    """The paper's; it sets what `alpha` weighs against."""

    def scores(self, embed: Float[Tensor, "sample embed"], alpha: float, beta: float) -> Float[Tensor, "sample class"]:
        """`logit_scale * cos(class) + alpha * sum of exp(-beta * (1 - cos(example)))` over the class (equation 4)."""
        blocks = embed.split(max(1, BLOCK_ELEMENTS // len(self.cache.labels)))
        return torch.cat([self._zero_shot(block) + alpha * self._votes(block, beta) for block in blocks])

    def search(self, held_out: Examples, alphas: Sequence[float], betas: Sequence[float]) -> tuple[float, float]:
        """The pair of the highest accuracy on `held_out`; of equals the smallest alpha, then the smallest beta."""
        zero_shot = self._zero_shot(held_out.embed)
        found: list[tuple[float, float, float]] = []
        for beta in betas:
            votes = self._votes(held_out.embed, beta)
            for alpha in alphas:
                rank = true_class_rank(zero_shot + alpha * votes, held_out.labels)
                found.append((-top_k_accuracy(rank, 1), alpha, beta))
        _, alpha, beta = min(found)
        return alpha, beta

    def _zero_shot(self, embed: Tensor) -> Tensor:
        return self.logit_scale * (embed.double() @ self.class_embed.double().T)

    def _votes(self, embed: Tensor, beta: float) -> Tensor:
        member = F.one_hot(self.cache.labels, len(self.class_embed)).double()
        return (-beta * (1 - embed.double() @ self.cache.embed.double().T)).exp() @ member
