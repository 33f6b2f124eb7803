import pytest
import torch
import torch.nn.functional as F
from open_clip.loss import ClipLoss, SigLipLoss
from torch import Tensor

from mmclip.ops.infonce import infonce, infonce_reference
from mmclip.ops.sigmoid import sigmoid_loss, sigmoid_reference


def embeddings(seed: int = 0) -> tuple[Tensor, Tensor]:
    torch.manual_seed(seed)
    image, text = (F.normalize(torch.randn(7, 5, dtype=torch.float64), dim=-1) for _ in range(2))
    return image.requires_grad_(), text.requires_grad_()


def scalar(value: float) -> Tensor:
    return torch.tensor([value], dtype=torch.float64, requires_grad=True)


def gradients(loss: Tensor, *inputs: Tensor) -> list[Tensor]:
    return list(torch.autograd.grad(loss, inputs))


def close(first: list[Tensor], second: list[Tensor]) -> bool:
    return all(torch.allclose(a, b, rtol=1e-12, atol=1e-14) for a, b in zip(first, second, strict=True))


def test_infonce_equals_its_definition_with_gradients():
    image, text = embeddings()
    scale = scalar(14.3)
    loss, _ = infonce(image, text, scale)
    expected = infonce_reference(image, text, scale)
    assert torch.allclose(loss, expected, rtol=1e-12)
    assert close(gradients(loss, image, text, scale), gradients(expected, image, text, scale))


def test_infonce_equals_the_peer():
    image, text = embeddings(1)
    scale = scalar(30.0)
    loss, _ = infonce(image, text, scale)
    peer = ClipLoss()(image, text, scale)
    assert torch.allclose(loss, peer, rtol=1e-12)
    assert close(gradients(loss, image, text, scale), gradients(peer, image, text, scale))


def test_top_1_counts_images_whose_own_caption_is_nearest():
    image = torch.eye(4)
    text = torch.eye(4)[[0, 1, 3, 2]]
    scale, bias = torch.tensor([10.0]), torch.tensor([-10.0])
    assert infonce(image, text, scale)[1].item() == 0.5
    assert sigmoid_loss(image, text, scale, bias)[1].item() == 0.5


def test_sigmoid_equals_its_definition_with_gradients():
    image, text = embeddings(2)
    scale, bias = scalar(10.0), scalar(-10.0)
    loss, _ = sigmoid_loss(image, text, scale, bias)
    expected = sigmoid_reference(image, text, scale, bias)
    assert torch.allclose(loss, expected, rtol=1e-12)
    assert close(gradients(loss, image, text, scale, bias), gradients(expected, image, text, scale, bias))


def test_sigmoid_equals_the_peer():
    image, text = embeddings(3)
    scale, bias = scalar(10.0), scalar(-10.0)
    loss, _ = sigmoid_loss(image, text, scale, bias)
    assert torch.allclose(loss, SigLipLoss()(image, text, scale, bias), rtol=1e-12)


@pytest.mark.parametrize("scale", [1.0, 100.0])
def test_losses_are_computed_in_single_precision_under_autocast(scale: float):
    image, text = (embedding.detach().float() for embedding in embeddings(4))
    factor, bias = torch.tensor([scale]), torch.tensor([-10.0])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = infonce(image, text, factor)[0], sigmoid_loss(image, text, factor, bias)[0]
    outside = infonce(image, text, factor)[0], sigmoid_loss(image, text, factor, bias)[0]
    assert [loss.dtype for loss in inside] == [torch.float32] * 2
    assert [loss.item() for loss in inside] == [loss.item() for loss in outside]
