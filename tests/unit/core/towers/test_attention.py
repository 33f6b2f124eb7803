import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from mmclip.towers.attention import attention


def heads(dtype: torch.dtype, tokens: int = 19, scale: float = 2.0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [(scale * torch.randn(5, 3, tokens, 16, generator=generator)).to(dtype) for _ in range(3)]


def with_gradients(attend, inputs: list[Tensor]) -> Tensor:
    leaves = [tensor.detach().requires_grad_() for tensor in inputs]
    out = attend(*leaves)
    out.backward(torch.ones_like(out) * torch.linspace(-1, 1, out.shape[-1], dtype=out.dtype))
    return torch.cat([out.detach().flatten(), *(leaf.grad.flatten() for leaf in leaves)])


def by_hand(query: Tensor, key: Tensor, value: Tensor, allowed: Tensor) -> Tensor:
    scores = (query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5).masked_fill(~allowed, -torch.inf)
    weights = scores.exp() / scores.exp().sum(-1, keepdim=True)
    return weights @ value


@pytest.mark.parametrize("causal", [False, True])
def test_attention_is_that_of_the_formula(causal: bool):
    allowed = torch.ones(19, 19, dtype=torch.bool)
    expected = with_gradients(lambda *x: by_hand(*x, allowed.tril() if causal else allowed), heads(torch.float64))
    got = with_gradients(lambda *x: attention(*x, causal=causal), heads(torch.float64))
    assert torch.allclose(got, expected, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_a_masked_query_looks_where_it_may(dtype: torch.dtype):
    query, key, value = heads(dtype)
    column = torch.tensor([0, 3, 18, 7, 1])
    mask = (torch.arange(19) <= column[:, None])[:, None, None]
    got = with_gradients(lambda q, k, v: attention(q, k, v, mask=mask), [query[:, :, :1], key, value])
    inputs = [query[:, :, :1].double(), key.double(), value.double()]
    expected = with_gradients(lambda q, k, v: by_hand(q, k, v, mask), inputs)
    assert torch.allclose(got.double(), expected, atol=1e-12 if dtype is torch.float64 else 0.1)


@pytest.mark.parametrize("causal", [False, True])
def test_half_precision_on_cpus_is_as_accurate_as_the_fused_kernel(causal: bool):
    exact = with_gradients(lambda *x: attention(*x, causal=causal), [x.double() for x in heads(torch.bfloat16, 50)])

    def error(attend) -> float:
        return float((with_gradients(attend, heads(torch.bfloat16, 50)).double() - exact).norm() / exact.norm())

    def fused(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
            return F.scaled_dot_product_attention(query, key, value, is_causal=causal)

    with torch.autocast("cpu", torch.bfloat16):  # which must not reach the scores
        ours = error(lambda *x: attention(*x, causal=causal))
    assert ours < 1.3 * error(fused)


def test_half_precision_on_cpus_does_not_take_the_slow_kernels(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(F, "scaled_dot_product_attention", None)
    assert attention(*heads(torch.bfloat16), causal=True).shape == (5, 3, 19, 16)
    with pytest.raises(TypeError, match="NoneType"):
        attention(*heads(torch.float32))
