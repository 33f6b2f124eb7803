"""`Encoders`: what makes frozen features comparable, one small network for each width of features."""

from collections.abc import Collection

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from mmclip_eval.contrasim.settings import ContraSimConfig


class Encoders(nn.Module):
    """Features of any of the given widths, each row to length 1 in one space.

    Features of one width share a network, whichever model or side they come from, as in the paper; where two sides have
    different widths each has its own. The weights are a function of the settings' seed and of the widths.
    """

    def __init__(self, widths: Collection[int], settings: ContraSimConfig) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=()):
            torch.manual_seed(settings.seed)
            self.networks = nn.ModuleDict({str(width): _network(width, settings) for width in sorted(set(widths))})

    def forward(self, features: Float[Tensor, "*rows width"]) -> Float[Tensor, "*rows out"]:
        """L2-normalised rows."""
        return F.normalize(self.networks[str(features.shape[-1])](features), dim=-1)


def _network(width: int, settings: ContraSimConfig) -> nn.Sequential:
    widths = (width, *settings.hidden, settings.out)
    layers: list[nn.Module] = []
    for before, after in zip(widths, widths[1:], strict=False):
        layers += [nn.Linear(before, after), nn.ReLU()]
    return nn.Sequential(*layers[:-1])
