"""Every layer's features through the encode pass and its store: each row once, under a key of their own."""

import io
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor

from mmclip.errors import UserError
from mmclip.towers.layer_outputs import LayerRecorder
from mmclip.towers.two_tower import TwoTower
from mmclip_data.features.encoder import Encoder
from mmclip_data.features.layers import LayerFeatures, LayerTowers, image_layers, text_layers
from mmclip_data.features.model import Towers
from mmclip_data.features.store import FeatureStore

CFG = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "patch_size": 16, "width": 24, "layers": 2, "head_width": 12},
    "text_cfg": {"context_length": 12, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
}
ROWS, CHUNK = 11, 4
TEXTS = ["red", "a red thing", "blue", "red", "green", "something green that is rather long for a caption"]


class Pictures:
    """Pictures in memory, some of them cut."""

    fingerprint = "f"

    def __init__(self, bad: Sequence[int] = ()) -> None:
        self.bad = bad

    def __len__(self) -> int:
        return ROWS

    def sample_id(self, index: int) -> str:
        return f"set/0.tar/{index}"

    def image_bytes(self, index: int) -> bytes:
        pixels = torch.randint(0, 256, (40, 36, 3), generator=torch.Generator().manual_seed(index)).byte()
        buffer = io.BytesIO()
        Image.fromarray(pixels.numpy()).save(buffer, "PNG")
        return buffer.getvalue()[:60] if index in self.bad else buffer.getvalue()

    def close(self) -> None:
        pass

    def pixels(self, towers: TwoTower) -> Tensor:
        opened = [Image.open(io.BytesIO(self.image_bytes(row))) for row in range(ROWS) if row not in self.bad]
        return torch.stack([towers.spec.to_uint8(picture) for picture in opened])


def made(seed: int = 0) -> TwoTower:
    torch.manual_seed(seed)
    return TwoTower(CFG).eval()


@pytest.fixture(scope="module")
def model() -> TwoTower:
    return made()


def encoder(model: TwoTower, store: FeatureStore | None = None) -> Encoder:
    return Encoder(LayerTowers(model, chunk_size=CHUNK), store=store)


def equal(one: LayerFeatures, other: LayerFeatures) -> bool:
    same = one.names == other.names and torch.equal(one.kept, other.kept)
    return same and all(map(torch.equal, one.features, other.features))


def test_a_row_holds_what_each_layer_gives_and_is_not_normalised(model: TwoTower):
    found, texts = image_layers(encoder(model), Pictures(), {}), text_layers(encoder(model), TEXTS)
    recorder = LayerRecorder(model)
    images, captions = recorder.images(Pictures().pixels(model)), recorder.texts(model.tokenizer(TEXTS))
    assert found.names == images.names == recorder.names("image")
    assert texts.names == captions.names == ("block 1 pooled", "block 1 mean", "embedding")
    assert [part.shape[1] for part in found.features] == [24, 24, 24, 24, 16]
    for part, expected in zip((*found.features, *texts.features), (*images.outputs, *captions.outputs), strict=True):
        assert torch.allclose(part, expected, atol=1e-5)
    assert torch.equal(texts["embedding"][0], texts["embedding"][3]), "equal texts are encoded once"
    assert found["block 2 mean"] is found.features[3]
    assert not torch.allclose(found["embedding"].norm(dim=1), torch.ones(ROWS))
    assert len(found) == ROWS


def test_a_second_pass_encodes_nothing(model: TwoTower, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    first = encoder(model, FeatureStore(tmp_path))
    images, texts = image_layers(first, Pictures(), {}), text_layers(first, TEXTS)
    assert str(first.tally) == "11 pictures and 5 texts encoded"
    again = encoder(made(), FeatureStore(tmp_path))  # equal weights that were made anew
    assert again.towers.width("image") == 112  # by a run on blank rows, before none is allowed any more
    monkeypatch.setattr(LayerRecorder, "images", None)
    monkeypatch.setattr(LayerRecorder, "texts", None)
    assert equal(image_layers(again, Pictures(), {}), images)
    assert equal(text_layers(again, TEXTS), texts)
    assert str(again.tally) == "11 pictures and 5 texts reused"


def test_embeddings_and_layers_and_other_weights_have_keys_of_their_own(model: TwoTower):
    towers = [Towers(model), LayerTowers(model), LayerTowers(made(1))]
    keys = [[one.image_key("f", ROWS), one.text_key(TEXTS)] for one in towers]
    digests = [key.digest for pair in keys for key in pair if key is not None]
    assert len(set(digests)) == 6


def test_neither_threads_nor_chunks_ahead_change_a_bit(model: TwoTower):
    expected = image_layers(encoder(model), Pictures(), {})
    torch.set_num_threads(3)
    try:
        assert equal(image_layers(encoder(model), Pictures(), {}), expected)
    finally:
        torch.set_num_threads(1)


def test_a_bad_picture_is_left_out_and_the_others_stay(model: TwoTower):
    whole = image_layers(encoder(model), Pictures(), {})
    some = image_layers(encoder(model), Pictures(bad=[0, 6]), {})
    assert some.kept.tolist() == [1, 2, 3, 4, 5, 7, 8, 9, 10]
    assert equal(some, whole.rows(some.kept))


def test_no_picture_at_all_is_an_error_that_names_one(model: TwoTower):
    with pytest.raises(UserError, match=r"sample set/0\.tar/0 cannot be decoded.*no other picture can be read"):
        image_layers(encoder(model), Pictures(bad=range(ROWS)), {})


def test_a_layer_that_is_not_finite_names_its_sample(model: TwoTower):
    broken = made()
    with torch.no_grad():
        broken.backbone.visual.transformer.resblocks[1].mlp.c_proj.bias[0] = float("nan")
    with pytest.raises(UserError, match=r"sample set/0\.tar/0: its embedding is not finite"):
        image_layers(encoder(broken), Pictures(), {})
