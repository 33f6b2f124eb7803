"""Interpolated and averaged state dicts: against numpy in double precision, and what does not fit is named."""

import numpy as np
import pytest
import torch
from torch import Tensor

from mmclip.errors import UserError
from mmclip.release import average, interpolate


def state(seed: int, **more: Tensor) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    tensors = {
        "weight": torch.randn(7, 5, generator=generator),
        "half": torch.randn(6, generator=generator).to(torch.bfloat16),
        "logit_scale": torch.randn((), generator=generator),
        "mask": torch.full((2, 2), -torch.inf).triu(1),
        "position_ids": torch.arange(4),
    }
    return tensors | more


@pytest.mark.parametrize("alpha", [0.1, 0.5, 0.9, 1.5])
def test_each_tensor_is_the_double_precision_mean_rounded_once(alpha: float):
    a, b = state(1), state(2)
    mixed = interpolate(a, b, alpha)
    for name in ("weight", "logit_scale"):
        wanted = (1 - alpha) * a[name].numpy().astype(np.float64) + alpha * b[name].numpy().astype(np.float64)
        assert np.array_equal(mixed[name].numpy(), wanted.astype(np.float32))
    wanted = ((1 - alpha) * a["half"].double() + alpha * b["half"].double()).to(torch.bfloat16)
    assert torch.equal(mixed["half"], wanted)


def test_the_ends_are_the_two_models_themselves_bit_for_bit():
    a, b = state(1), state(2)
    for alpha, end in ((0.0, a), (1.0, b)):
        mixed = interpolate(a, b, alpha)
        assert list(mixed) == list(end)
        for name, tensor in end.items():
            assert torch.equal(mixed[name], tensor)
            assert mixed[name].dtype == tensor.dtype
            assert mixed[name].data_ptr() != tensor.data_ptr()


def test_a_uniform_soup_is_the_mean_and_a_weighted_one_follows_its_weights():
    states = [state(seed) for seed in (1, 2, 3)]
    stacked = np.stack([one["weight"].numpy().astype(np.float64) for one in states])
    assert np.allclose(average(states)["weight"].numpy(), stacked.mean(0), rtol=0, atol=1e-7)
    weighted = average(states, [0.5, 0.25, 0.25])["weight"].numpy()
    assert np.array_equal(weighted, np.tensordot([0.5, 0.25, 0.25], stacked, 1).astype(np.float32))


def test_a_counter_of_batch_norm_is_no_obstacle():
    name = "visual.bn1.num_batches_tracked"
    mixed = interpolate(state(1, **{name: torch.tensor(3)}), state(2, **{name: torch.tensor(9)}), 0.5)
    assert mixed[name] == 9


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (state(2, head=torch.zeros(1)), r"different architectures: A lacks head$"),
        (state(2, weight=torch.zeros(7, 6)), r"the shape of weight: \[7, 5\] and \[7, 6\]"),
        (state(2, weight=torch.zeros(7, 5).half()), r"the type of weight: torch.float32 and torch.float16"),
        (state(2, position_ids=torch.arange(4).flip(0)), r"other integers in position_ids"),
        (state(2, weight=torch.full((7, 5), torch.nan)), r"^B is not finite in weight"),
    ],
)
def test_what_does_not_fit_is_named(other: dict[str, Tensor], words: str):
    with pytest.raises(UserError, match=words):
        interpolate(state(1), other, 0.5)


def test_weights_of_a_soup_are_checked():
    states = [state(1), state(2)]
    with pytest.raises(UserError, match=r"have the sum 1\.5: expected 1"):
        average(states, [0.75, 0.75])
    with pytest.raises(UserError, match="1 weights for 2 sources"):
        average(states, [1.0])
    with pytest.raises(UserError, match="average of no weights"):
        average([])
