"""A small transformer that tells hidden patches from the tokens of the others (MAE, He et al. 2022, section 3)."""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from mmclip.objectives.parts.heads import Head


class Block(nn.Module):
    """Attention and MLP, each behind a norm (Xiong et al. 2020)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.attention_norm, self.mlp_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.queries_keys_values, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, tokens: Float[Tensor, "batch patch width"]) -> Float[Tensor, "batch patch width"]:
        """Each token after it has looked at all."""
        projected = self.queries_keys_values(self.attention_norm(tokens))
        split = projected.unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(*split.unbind(0)).transpose(1, 2).flatten(2)
        tokens = tokens + self.out(attended)
        return tokens + self.mlp(self.mlp_norm(tokens))


class PatchDecoder(nn.Module):
    """From the tokens of some patches of a grid to `out` numbers of every patch."""

    positions: Tensor
    HEAD_WIDTH = 32

    def __init__(
        self, in_width: int, width: int, depth: int, out: int, grid: tuple[int, int], masks: bool = True
    ) -> None:
        super().__init__()
        self.embed = Head(nn.Linear(in_width, width))
        # Where nothing is hidden it would never get a gradient, and DDP waits for that of every parameter.
        self.mask_token = nn.Parameter(torch.randn(width) * 0.02) if masks else None
        self.blocks = nn.Sequential(*[Block(width, max(1, width // self.HEAD_WIDTH)) for _ in range(depth)])
        self.norm, self.out = nn.LayerNorm(width), nn.Linear(width, out)
        self.register_buffer("positions", grid_positions(width, *grid), persistent=False)  # a function of the shape

    def forward(
        self, tokens: Float[Tensor, "batch kept _"], kept: Int[Tensor, "batch kept"] | None
    ) -> Float[Tensor, "batch patch out"]:
        """Of all patches, row by row; `kept` are the numbers of those that `tokens` are of, all where it is None."""
        embedded = self.embed(tokens.flatten(0, 1)).unflatten(0, tokens.shape[:2])
        if kept is not None:
            assert self.mask_token is not None, "built for tokens of every patch"
            hidden = self.mask_token.to(embedded.dtype).expand(len(tokens), len(self.positions), -1)
            embedded = hidden.scatter(1, kept[:, :, None].expand_as(embedded), embedded)
        return self.out(self.norm(self.blocks(embedded + self.positions)))


def grid_positions(width: int, rows: int, columns: int) -> Float[Tensor, "patch width"]:
    """Fixed sines and cosines (Vaswani et al. 2017, section 3.5): half of the width of the row, half of the column."""
    quarter = width // 4
    frequency = 10000 ** (-torch.arange(quarter, dtype=torch.float64) / quarter)
    parts = []
    for place in torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij"):
        angle = place.flatten()[:, None] * frequency
        parts += [angle.sin(), angle.cos()]
    return torch.cat(parts, dim=1).float()
