"""ContraSim on a device: the same figures each time, and those of the CPU where nothing is near a tie."""

import torch

from mmclip_data.features.layers import LayerFeatures
from mmclip_eval.contrasim import prediction as cases
from mmclip_eval.contrasim.match import match_pairs
from mmclip_eval.contrasim.matching import TRUE
from mmclip_eval.contrasim.predict import contrasim_of
from mmclip_eval.contrasim.settings import ContraSimConfig

SETTINGS = ContraSimConfig(hidden=(64,), out=16, steps=80, batch_size=16, lr=3e-3)


def models() -> list[LayerFeatures]:
    generator = torch.Generator().manual_seed(0)
    names = tuple(f"block {number} mean" for number in range(4))
    layers = [[torch.randn(120, 24, generator=generator) + 3 * torch.eye(24)[n] for n in range(4)] for _ in range(5)]
    return [LayerFeatures("image", names, tuple(rows), torch.arange(120)) for rows in layers]


def test_layer_prediction_repeats_on_cuda_and_finds_what_the_cpu_finds(cuda: torch.device):
    names = ["a", "b", "c", "d", "e"]
    first, again = (contrasim_of(models(), names, SETTINGS, device=cuda) for _ in range(2))
    assert first == again
    here = contrasim_of(models(), names, SETTINGS)
    for case in (cases.SEEN, cases.HELD_OUT):
        assert first.of(case).value == here.of(case).value == 1
    assert first.closed_form == here.closed_form


def test_pairs_are_matched_on_cuda(cuda: torch.device):
    left = torch.randn(300, 8, generator=torch.Generator().manual_seed(0))
    right = left @ torch.randn(8, 10, generator=torch.Generator().manual_seed(1))
    first, again = (
        match_pairs(left.to(cuda), right.to(cuda), settings=SETTINGS, set_size=20, measures={}) for _ in range(2)
    )
    assert first == again
    assert first.of(TRUE).random.value == 1
