import sys
from collections.abc import Iterator

import numpy as np
import pytest
import torch
import torch._dynamo
from torch._dynamo.utils import counters

# torch.compile looks at the gradient of every input, and torch warns of each that is no leaf.
pytestmark = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")

TwoTower = TowersConfig = LoraTable = UserError = None


@pytest.fixture(autouse=True, scope="module")
def unchecked_copy(request: pytest.FixtureRequest) -> Iterator[None]:
    """mmclip.towers once more, without the checks of shapes that pytest adds: torch.compile cannot read them."""
    checked = {name: sys.modules.pop(name) for name in [*sys.modules] if name.startswith("mmclip.towers")}
    finders = [finder for finder in sys.meta_path if "jaxtyping" in type(finder).__module__]
    assert finders, "the checks are no longer made by an import hook"
    for finder in finders:
        sys.meta_path.remove(finder)
    try:
        from mmclip.errors import UserError
        from mmclip.towers.settings import LoraTable, TowersConfig
        from mmclip.towers.two_tower import TwoTower

        for copied in (TwoTower, TowersConfig, LoraTable, UserError):
            setattr(request.module, copied.__name__, copied)
        yield
    finally:
        sys.meta_path[:0] = finders
        for name in [*sys.modules]:
            if name.startswith("mmclip.towers"):
                del sys.modules[name]
        sys.modules.update(checked)


@pytest.fixture(autouse=True)
def fresh_compiler() -> Iterator[None]:
    limit = torch._dynamo.config.recompile_limit
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()
    torch._dynamo.config.recompile_limit = limit


def graphs() -> int:
    return counters["stats"]["unique_graphs"]


def steps(towers, captions, count: int, batch: int = 64) -> list[torch.Tensor]:
    images = torch.randint(0, 256, (batch, 3, *towers.spec.size), dtype=torch.uint8)
    rng = np.random.default_rng(0)
    outputs = []
    for _ in range(count):
        tokens = captions(rng.integers(2, 25, batch).tolist(), getattr(towers, "pad", 0))
        output = towers(images, towers.trim(tokens))
        outputs.append(torch.cat([output.image_embed, output.text_embed]))
        outputs[-1].sum().backward()
    return outputs


def test_compiled_towers_give_the_same_embeddings_and_gradients_from_few_graphs(model_cfg, captions):
    torch.manual_seed(0)
    towers = TwoTower(model_cfg(vision={"layers": 4}, text={"layers": 3})).double()
    plain = TwoTower(towers.model_cfg).double()
    plain.load_state_dict(towers.state_dict())
    towers.set_up(TowersConfig(compile=True, compile_backend="eager"))
    seen = []
    for seed in range(3):
        torch.manual_seed(seed)
        ours = steps(towers, captions, 1)
        torch.manual_seed(seed)
        theirs = steps(plain, captions, 1)
        assert torch.allclose(ours[0], theirs[0], atol=1e-12)
        seen.append(graphs())
    assert list(towers.state_dict()) == list(plain.state_dict())
    for (name, ours), theirs in zip(towers.named_parameters(), plain.parameters(), strict=True):
        if "logit" not in name:
            assert torch.allclose(ours.grad, theirs.grad, atol=1e-9), name
    # Pictures: a common block and the last one. Captions: the same two for each of the widths 8, 16 and 24.
    assert seen == [8, 8, 8]
    assert not counters["graph_break"]


def test_nothing_is_compiled_unless_asked_for(model_cfg, captions):
    steps(TwoTower(model_cfg()), captions, 1)
    assert graphs() == 0


@pytest.mark.parametrize(
    ("vision", "text"),
    [
        ({"timm_model_name": "test_vit", "timm_pool": "avg", "image_size": 160}, "roberta"),
        ({"timm_model_name": "test_convnext", "timm_pool": "avg", "image_size": 160}, "mt5"),
        ({"layers": [1, 1, 1, 1], "width": 16, "image_size": 64, "head_width": 16}, "m2m_100"),
    ],
)
def test_blocks_of_other_libraries_are_compiled(vision: dict, text: str, model_cfg, captions, hugging_face):
    torch.manual_seed(0)
    table = model_cfg(vision=vision, text={"hf_model_name": hugging_face(text), "hf_proj_type": "linear"})
    towers = TwoTower(table).eval()
    towers.pad = towers.backbone.text.config.pad_token_id
    torch.manual_seed(0)
    expected = steps(towers, captions, 1, batch=8)[0]
    assert graphs() == 0
    towers.set_up(TowersConfig(compile=True, compile_backend="eager"))
    torch.manual_seed(0)
    assert torch.allclose(steps(towers, captions, 1, batch=8)[0], expected, atol=1e-5)
    assert graphs() >= 2


def test_embedding_compiles_nothing_for_its_odd_shapes(model_cfg):
    towers = TwoTower(model_cfg(text={"vocab_size": 49408}))
    towers.set_up(TowersConfig(compile=True, compile_backend="eager"))
    assert towers.embed_texts(["a", "b c d"]).shape == (2, 16)
    assert graphs() == 0


def test_checkpointed_blocks_can_be_compiled(model_cfg, captions):
    torch.manual_seed(0)
    towers = TwoTower(model_cfg()).double()
    torch.manual_seed(0)
    expected = steps(towers, captions, 1)[0]
    gradient = towers.backbone.visual.conv1.weight.grad.clone()
    towers.zero_grad()
    towers.set_up(TowersConfig(compile=True, compile_backend="eager", activation_checkpointing=True))
    torch.manual_seed(0)
    assert torch.allclose(steps(towers, captions, 1)[0], expected, atol=1e-12)
    assert torch.allclose(towers.backbone.visual.conv1.weight.grad, gradient, atol=1e-10)


def test_blocks_with_adapters_are_compiled_whole(model_cfg, captions):
    found = []
    for compiled in (False, True):
        torch.manual_seed(0)
        towers = TwoTower(model_cfg()).double()
        lora = LoraTable(rank=2, targets=("attention", "c_fc"))
        towers.set_up(TowersConfig(compile=compiled, compile_backend="eager", lora=lora))
        for name, parameter in towers.named_parameters():
            if "lora_B" in name and parameter.requires_grad:
                torch.nn.init.normal_(parameter, std=0.2, generator=torch.Generator().manual_seed(1))
        torch.manual_seed(0)
        embed = steps(towers, captions, 1)[0]
        found.append((embed, [p.grad for p in towers.parameters() if p.grad is not None]))
    (plain, wanted), (ours, gradients) = found
    assert graphs() == 8
    assert not counters["graph_break"]
    assert torch.allclose(ours, plain, atol=1e-12)
    assert len(gradients) == len(wanted) == 16
    assert all(torch.allclose(one, other, atol=1e-9) for one, other in zip(gradients, wanted, strict=True))


def test_an_unknown_backend_is_refused(model_cfg):
    with pytest.raises(UserError, match="towers.compile_backend='inductr': expected one of .*inductor"):
        TwoTower(model_cfg()).set_up(TowersConfig(compile=True, compile_backend="inductr"))


@pytest.mark.slow
def test_the_default_backend_gives_the_same_embeddings(model_cfg, captions):
    torch.manual_seed(0)
    towers = TwoTower(model_cfg(vision={"layers": 1}, text={"layers": 1}))
    torch.manual_seed(0)
    expected = steps(towers, captions, 1, batch=8)[0]
    towers.set_up(TowersConfig(compile=True))
    torch.manual_seed(0)
    assert torch.allclose(steps(towers, captions, 1, batch=8)[0], expected, atol=1e-6)
    assert graphs() >= 2
