"""The tiled losses on a device give what the readable ones give in fp64 on the CPU."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from mmclip.ops.infonce import infonce
from mmclip.ops.sigmoid import sigmoid

BATCH, EMBED = 3000, 64
"""Three tiles of 1,024 each way, the last one short."""


def inputs(names: str) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    image, text = (F.normalize(torch.randn(BATCH, EMBED, generator=generator), dim=1) for _ in range(2))
    scalars = {"scale": torch.tensor([30.0]), "bias": torch.tensor([-10.0])}
    return [image, text, *(scalars[name] for name in names.split())]


def value_and_gradients(loss: Callable[..., Tensor], given: list[Tensor]) -> list[Tensor]:
    leaves = [tensor.requires_grad_() for tensor in given]
    value = loss(*leaves)
    return [value.detach(), *torch.autograd.grad(value, leaves)]


@pytest.mark.parametrize(("loss", "names"), [(infonce, "scale"), (sigmoid, "scale bias")], ids=["infonce", "sigmoid"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-11), (torch.float32, 2e-5)])
def test_tiled_loss_and_its_gradients(
    cuda: torch.device, loss: Callable, names: str, dtype: torch.dtype, tolerance: float
):
    given = [tensor.to(dtype) for tensor in inputs(names)]
    expected = value_and_gradients(
        lambda *g: loss(*g, implementation="reference").loss, [tensor.double() for tensor in given]
    )
    found = value_and_gradients(
        lambda *g: loss(*g, implementation="tiled", tile=1024).loss, [tensor.to(cuda) for tensor in given]
    )
    for mine, theirs in zip(found, expected, strict=True):
        assert mine.device.type == "cuda"
        assert float((mine.cpu().double() - theirs).norm() / theirs.norm()) < tolerance


def test_loss_under_autocast_is_still_fp32(cuda: torch.device):
    given = [tensor.to(cuda) for tensor in inputs("scale")]
    expected = value_and_gradients(lambda *g: infonce(*g).loss, [tensor.clone() for tensor in given])
    with torch.autocast("cuda", torch.bfloat16):
        found = value_and_gradients(lambda *g: infonce(*g).loss, [tensor.clone() for tensor in given])
    for mine, theirs in zip(found, expected, strict=True):
        assert mine.dtype == torch.float32
        assert float((mine - theirs).norm() / theirs.norm()) < 1e-6
