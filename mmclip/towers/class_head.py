"""A linear classifier on the image embedding, which goes with the weights: what a probe or a fine-tuning on classes leaves."""

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from mmclip.errors import UserError

HEAD_FILE = "class_head.safetensors"
"""Beside the weights; other programs pass it over."""


class ClassHead(nn.Module):
    """Logits of named classes from L2-normalised image embeddings."""

    def __init__(self, names: Sequence[str], embed_dim: int) -> None:
        super().__init__()
        self.names = tuple(names)
        self.weight = nn.Parameter(torch.zeros(len(self.names), embed_dim))
        self.bias = nn.Parameter(torch.zeros(len(self.names)))

    def forward(self, image_embed: Float[Tensor, "batch embed"]) -> Float[Tensor, "batch class"]:
        """Scores, of which a softmax gives probabilities."""
        return image_embed @ self.weight.T + self.bias

    @torch.no_grad()
    def fill(self, weight: Float[Tensor, "class embed"], bias: Float[Tensor, " class"]) -> None:
        """Take these values."""
        self.weight.copy_(weight)
        self.bias.copy_(bias)


def save_head(head: ClassHead, folder: Path) -> None:
    """Write the head beside the weights."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in head.state_dict().items()}
    save_file(tensors, folder / HEAD_FILE, metadata={"classes": json.dumps(head.names)})


def load_head(folder: Path) -> ClassHead | None:
    """The head beside the weights; None where there is none.

    Raises:
        UserError: the file is damaged, or is no head.
    """
    path = folder / HEAD_FILE
    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            names = json.loads((file.metadata() or {})["classes"])
            weight, bias = file.get_tensor("weight"), file.get_tensor("bias")
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        raise UserError(f"{path} is no class head of mmclip ({error}): copy it again from where it is whole") from error
    if weight.ndim != 2 or weight.shape[0] != len(names) or bias.shape != weight.shape[:1]:
        raise UserError(f"{path}: {len(names)} classes, weights {list(weight.shape)} and biases {list(bias.shape)}")
    head = ClassHead(names, weight.shape[1]).to(weight.dtype)
    head.fill(weight, bias)
    return head
