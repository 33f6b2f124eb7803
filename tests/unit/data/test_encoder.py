"""The encode pass with a store: what is there is not encoded again, and nothing but speed depends on how it is done."""

import io
import json
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

from mmclip.errors import UserError
from mmclip.towers.two_tower import TwoTower
from mmclip_data.cache_home import cache_home
from mmclip_data.features import encoder as encoder_module
from mmclip_data.features.cache import FeatureKey
from mmclip_data.features.encode import refuse_bad
from mmclip_data.features.encoder import Encoder, Pace
from mmclip_data.features.model import Towers
from mmclip_data.features.store import FeatureStore
from mmclip_data.features.tower_threads import in_order, tower_threads

CFG = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "patch_size": 16, "width": 16, "layers": 1, "head_width": 16},
    "text_cfg": {"context_length": 8, "vocab_size": 49408, "width": 16, "heads": 1, "layers": 1},
}
ROWS, CHUNK = 22, 4
TEXTS = ["red", "a red thing", "blue", "red", "green", "something green"]


class Pictures:
    """Pictures in memory, some of them cut."""

    def __init__(self, rows: int = ROWS, bad: Sequence[int] = (), fingerprint: str = "f") -> None:
        self.rows, self.bad, self.fingerprint = rows, bad, fingerprint
        self.closed = 0

    def __len__(self) -> int:
        return self.rows

    def sample_id(self, index: int) -> str:
        return f"set/0.tar/{index}"

    def image_bytes(self, index: int) -> bytes:
        pixels = torch.randint(0, 256, (40, 36, 3), generator=torch.Generator().manual_seed(index), dtype=torch.uint8)
        buffer = io.BytesIO()
        Image.fromarray(pixels.numpy()).save(buffer, "PNG")
        return buffer.getvalue()[:60] if index in self.bad else buffer.getvalue()

    def close(self) -> None:
        self.closed += 1


def made(seed: int = 0, **vision: Any) -> TwoTower:
    torch.manual_seed(seed)
    return TwoTower({**CFG, "vision_cfg": {**CFG["vision_cfg"], **vision}}).eval()


@pytest.fixture(scope="module")
def model() -> TwoTower:
    return made()


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """How many chunks each tower was given."""
    counts = {"image": 0, "text": 0}
    for name, kind in (("embed_uint8", "image"), ("embed_tokens", "text")):
        embed: Callable[..., Tensor] = getattr(TwoTower, name)

        def counted(self: TwoTower, batch: Tensor, kind: str = kind, embed: Callable[..., Tensor] = embed) -> Tensor:
            assert len(batch) == CHUNK
            counts[kind] += 1
            return embed(self, batch)

        monkeypatch.setattr(TwoTower, name, counted)
    return counts


def towers(model: TwoTower, **settings: Any) -> Towers:
    return Towers(model, chunk_size=CHUNK, **settings)


def plain(model: TwoTower) -> Tensor:
    return Encoder(towers(model)).images(Pictures(), {}).embed


def test_what_a_store_has_is_not_encoded_again(model: TwoTower, calls: dict[str, int], tmp_path: Path):
    first = Encoder(towers(model), store=FeatureStore(tmp_path))
    images, texts = first.images(Pictures(), {}), first.texts(TEXTS)
    assert first.images(Pictures(), {}) is images, "one pass serves every task"
    first.texts(TEXTS)
    assert calls == {"image": 6, "text": 2}
    assert str(first.tally) == "22 pictures and 5 texts encoded"
    progress: list[tuple[int, int]] = []
    again = Encoder(towers(made()), store=FeatureStore(tmp_path))  # equal weights that were made anew
    assert torch.equal(again.images(Pictures(), {}, lambda *step: progress.append(step)).embed, images.embed)
    assert torch.equal(again.texts(TEXTS), texts)
    assert calls == {"image": 6, "text": 2}
    assert progress == [(22, 22)]
    assert str(again.tally) == "22 pictures and 5 texts reused"
    assert torch.equal(images.embed, plain(model))
    assert torch.equal(texts[0], texts[3])
    assert torch.allclose(images.embed.norm(dim=1), torch.ones(ROWS))


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("pace", [Pace(), Pace(batch_size=1), Pace(batch_size=9, decode_threads=1), Pace(1024, 5)])
def test_neither_batch_size_nor_threads_change_a_bit(model: TwoTower, pace: Pace, threads: int):
    expected, expected_texts = plain(model), Encoder(towers(model)).texts(TEXTS)
    torch.set_num_threads(threads)
    try:
        encoder = Encoder(towers(model), pace=pace)
        assert torch.equal(encoder.images(Pictures(), {}).embed, expected)
        assert torch.equal(encoder.texts(TEXTS), expected_texts)
        assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(1)


def test_a_chunk_is_the_work_of_one_thread_whatever_a_launcher_says():
    torch.set_num_threads(3)  # on larger towers another number of threads would move the last digits
    try:
        assert tower_threads(torch.device("cpu")) == 3
        assert tower_threads(torch.device("cpu"), 2) == 2
        assert tower_threads(torch.device("cuda")) == 1
        assert list(in_order([torch.get_num_threads] * 5, threads=3, ahead=1)) == [1] * 5
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(1)


def test_jobs_come_in_their_order_and_few_are_taken_ahead():
    taken: list[int] = []

    def jobs():
        for number in range(20):
            taken.append(number)
            yield lambda number=number: (time.sleep(0.002 * (number % 3)), number)[1]

    found = in_order(jobs(), threads=3, ahead=2)
    assert next(found) == 0
    assert len(taken) == 5
    assert list(found) == [*range(1, 20)]


def test_a_pass_that_is_killed_goes_on_where_it_was(model: TwoTower, calls: dict[str, int], tmp_path: Path):
    class Killed(Pictures):
        def image_bytes(self, index: int) -> bytes:
            if index == 14:
                raise KeyboardInterrupt
            return super().image_bytes(index)

    with pytest.raises(KeyboardInterrupt):
        Encoder(towers(model), store=FeatureStore(tmp_path)).images(Killed(), {})
    expected, before = plain(model), calls["image"]
    encoder = Encoder(towers(model), store=FeatureStore(tmp_path))
    assert torch.equal(encoder.images(Pictures(), {}).embed, expected)
    assert calls["image"] == before + 3
    assert str(encoder.tally) == "10 pictures encoded, 12 pictures reused"


def test_finished_chunks_reach_the_disk_while_the_pass_goes_on(
    model: TwoTower, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(encoder_module, "FLUSH_SECONDS", 0.0)
    lines: list[int] = []

    def look(done: int, total: int) -> None:
        lines.append(sum(len(path.read_text().splitlines()) for path in tmp_path.glob("*/done-*.jsonl")))

    Encoder(towers(model), store=FeatureStore(tmp_path)).images(Pictures(), {}, look)
    assert lines == [1, 2, 3, 4, 5, 6]  # what a kill -9 would leave


def test_a_damaged_chunk_is_encoded_again(model: TwoTower, calls: dict[str, int], tmp_path: Path):
    Encoder(towers(model), store=FeatureStore(tmp_path)).images(Pictures(), {})
    (file,) = tmp_path.glob("*/features.f32")
    content = bytearray(file.read_bytes())
    content[5 * CFG["embed_dim"] * 4] ^= 1
    file.write_bytes(content)
    encoder = Encoder(towers(model), store=FeatureStore(tmp_path))
    embed = encoder.images(Pictures(), {}).embed
    assert str(encoder.tally) == "4 pictures encoded, 18 pictures reused"
    assert torch.equal(embed, plain(model))


def test_features_are_never_those_of_another_model_precision_preprocessing_or_set(model: TwoTower, tmp_path: Path):
    other_mean = made()
    other_mean.spec = replace(other_mean.spec, mean=(0.0, 0.0, 0.0))
    quick = TwoTower({**CFG, "quick_gelu": True}).eval()  # the same weights, and another activation
    quick.load_state_dict(model.state_dict())
    scaled = made()
    torch.nn.init.constant_(scaled.logit_scale, 1.0)  # no embedding depends on it
    cases: dict[str, tuple[Towers, Pictures]] = {
        "plain": (towers(model), Pictures()),
        "weights": (towers(made(1)), Pictures()),
        "activation": (towers(quick), Pictures()),
        "precision": (towers(model, precision="bf16"), Pictures()),
        "preprocessing": (towers(other_mean), Pictures()),
        "set": (towers(model), Pictures(fingerprint="g")),
        "rows": (towers(model), Pictures(rows=ROWS - 1)),
        "chunk": (Towers(model, chunk_size=8), Pictures()),
    }
    expected = {name: Encoder(own).images(pictures, {}).embed for name, (own, pictures) in cases.items()}
    for name, (own, pictures) in cases.items():
        encoder = Encoder(own, store=FeatureStore(tmp_path))
        assert torch.equal(encoder.images(pictures, {}).embed, expected[name]), name
        assert "reused" not in str(encoder.tally), name
    assert len(list(tmp_path.glob("*/key.json"))) == len(cases)
    encoder = Encoder(towers(scaled), store=FeatureStore(tmp_path))
    encoder.images(Pictures(), {})
    assert "encoded" not in str(encoder.tally)


def test_texts_are_known_by_their_tokens(model: TwoTower, tmp_path: Path):
    Encoder(towers(model), store=FeatureStore(tmp_path)).texts(["Red", "blue"])
    same = Encoder(towers(model), store=FeatureStore(tmp_path))
    same.texts(["red", "blue"])  # the tokenizer lowers
    assert str(same.tally) == "2 texts reused"
    longer = made()
    longer.set_context_length(10)
    other = Encoder(towers(longer), store=FeatureStore(tmp_path))
    other.texts(["red", "blue"])
    assert str(other.tally) == "2 texts encoded"


@pytest.mark.parametrize("stored", [False, True])
def test_bad_pictures_are_noted_and_change_no_other_row(model: TwoTower, stored: bool, tmp_path: Path):
    store = FeatureStore(tmp_path) if stored else None
    bad = (1, 8, 9, 10, 11)  # the last four are a whole chunk
    for _ in range(2):
        encoding = Encoder(towers(model), store=store).images(Pictures(bad=bad), {})
        assert sorted(encoding.bad) == [*bad]
        assert encoding.bad[9].startswith("cannot be decoded: ")
        good = [row for row in range(ROWS) if row not in bad]
        assert torch.equal(encoding.embed[good], plain(model)[good])
        assert not encoding.embed[[*bad]].any()


def test_who_refuses_bad_pictures_is_told_of_them_before_the_rest_is_encoded(
    model: TwoTower, calls: dict[str, int], tmp_path: Path
):
    for _ in range(2):  # also where the store knows
        pictures = Pictures(rows=200, bad=(5,))
        encoder = Encoder(towers(model), store=FeatureStore(tmp_path))
        with pytest.raises(UserError, match=r"sample set/0\.tar/5 cannot be decoded: .*; mend it or take it out"):
            encoder.images(pictures, {}, refuse=lambda bad, pictures=pictures: refuse_bad(pictures, bad))
        assert calls["image"] < 8
        assert pictures.closed == 1


def test_a_store_that_cannot_keep_says_so_once_and_the_pass_goes_on(model: TwoTower, tmp_path: Path):
    said: list[str] = []
    (tmp_path / "file").touch()
    for store in (
        FeatureStore(tmp_path / "file", warn=said.append),
        FeatureStore(tmp_path / "small", 100, said.append),
    ):
        encoder = Encoder(towers(model), store=store)
        assert torch.equal(encoder.images(Pictures(), {}).embed, plain(model))
        encoder.texts(TEXTS)
    assert len(said) == 2
    assert "Not a directory" in said[0]
    assert "are more than the 100 that it may hold" in said[1]


def test_a_store_stays_below_its_size_and_what_is_in_use_stays(tmp_path: Path):
    def key(source: str) -> FeatureKey:
        return FeatureKey("t", "fp32", None, source, rows=4096, embed_dim=16, block_rows=4096)

    def put(store: FeatureStore, source: str, used_at: int) -> Path:
        cache = store.open(key(source))
        assert cache is not None
        cache.write(0, torch.ones(4096, 16), {}, 0, 1)
        os.utime(cache.folder / "key.json", (used_at, used_at))
        return cache.folder

    size = 4096 * 16 * 4
    store = FeatureStore(tmp_path, max_bytes=int(3.2 * size))
    a, b, c = (put(store, name, used_at=number) for number, name in enumerate("abc", 1))
    store.close()
    reader = FeatureStore(tmp_path, max_bytes=store.max_bytes)
    assert reader.open(key("a")) is not None  # which also makes it the one that was used last
    os.utime(a / "key.json", (0, 0))  # if it were not in use, it would go first
    d = put(store, "d", 4)
    assert [folder.exists() for folder in (a, b, c, d)] == [True, False, True, True]
    assert store.bytes() <= store.max_bytes
    reader.close()
    e = put(store, "e", 5)
    assert [folder.exists() for folder in (a, c, d, e)] == [False, True, True, True]


def test_the_place_of_what_is_kept_follows_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.delenv("MMCLIP_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert FeatureStore().folder == tmp_path / "mmclip" / "features"
    monkeypatch.setenv("MMCLIP_CACHE", str(tmp_path / "own"))
    assert FeatureStore().folder == tmp_path / "own" / "features"
    monkeypatch.delenv("MMCLIP_CACHE")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_home() == tmp_path / ".cache" / "mmclip"


def test_the_key_beside_the_features_says_what_they_are_of(model: TwoTower, tmp_path: Path):
    Encoder(towers(model), store=FeatureStore(tmp_path)).images(Pictures(), {})
    (path,) = tmp_path.glob("*/key.json")
    table = json.loads(path.read_text())
    assert (table["rows"], table["embed_dim"], table["precision"], table["source"]) == (ROWS, 16, "fp32", "f")
    assert table["spec"]["size"] == [32, 32]
    assert {f"torch {torch.__version__}", "image"} <= set(table["made_with"])
    assert table["tower"] == towers(model).hashes["image"] != towers(model).hashes["text"]
