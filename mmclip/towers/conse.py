"""ConSE (Norouzi et al. 2014): image embeddings out of a classifier and the text embeddings of its classes."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn


class ConvexCombination(nn.Module):
    """In the place of an image tower: the names of the likeliest `top` classes, in the shares of their probability.

    Equation 4 of the paper, with embeddings of length 1. Nothing learns.
    """

    def __init__(
        self, classifier: nn.Module, class_embeds: Float[Tensor, "class embed"], top: int, image_size: Any
    ) -> None:
        super().__init__()
        self.trunk = classifier
        """Under the name that a timm tower of open_clip has."""
        self.class_embeds: Tensor
        self.register_buffer("class_embeds", class_embeds)
        self.top = top
        self.image_size = image_size

    def forward(self, pixels: Float[Tensor, "batch 3 height width_px"]) -> Float[Tensor, "batch embed"]:
        """Embeddings, not normalised."""
        probabilities, classes = self.trunk(pixels).float().softmax(dim=-1).topk(self.top, dim=-1)
        shares = probabilities / probabilities.sum(dim=-1, keepdim=True)
        return torch.einsum("bt,bte->be", shares, self.class_embeds[classes])
