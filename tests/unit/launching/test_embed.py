"""`mmclip embed`: clip-retrieval's layout, rows that belong together, and nothing encoded or lost twice."""

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as parquet
import pytest
import torch
import torch.nn.functional as F

from mmclip.errors import UserError
from mmclip.release import load
from mmclip.towers.two_tower import TwoTower
from mmclip.towers.weights import save_weights
from mmclip_data.clip_retrieval.embed import EmbedJob
from mmclip_data.clip_retrieval.pairs import open_pairs
from mmclip_data.features.model import Towers
from mmclip_data.loading.decode import decode_image
from mmclip_data.shards import ShardWriter
from mmclip_data.testing.shard_faults import make_shard
from mmclip_launch.cli import run_verb
from mmclip_launch.embed import embed, main
from mmclip_launch.screen import Screen

MODEL = {
    "embed_dim": 8,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 16, "head_width": 16, "patch_size": 16},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 16, "heads": 1, "layers": 1},
}
SAMPLES = {f"{number:06d}": sample for number, sample in enumerate(make_shard(150).samples.values())}
NO_PICTURE, NO_CAPTION, BROKEN = "000003", "000070", "000140"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("model")
    save_weights(TwoTower(MODEL), folder)
    return folder


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """150 samples in two tars, of which three cannot be embedded; facts that do not agree on their types."""
    folder = tmp_path_factory.mktemp("embed") / "shards"
    with ShardWriter(folder, "{:05d}.tar", 80) as writer:
        for key, sample in SAMPLES.items():
            number = int(key)
            facts = {"number": number, "caption": "another", "of": {"deep": number if number % 2 else "odd"}}
            members = {"jpg": sample["jpg"], "txt": sample["txt"], "json": json.dumps(facts).encode()}
            members |= {"jpg": members["jpg"][:40]} if key == BROKEN else {}
            lacking = {NO_PICTURE: "jpg", NO_CAPTION: "txt"}.get(key)
            writer.add(key, {name: data for name, data in members.items() if name != lacking})
    return folder


def files_of(folder: Path) -> dict[str, bytes]:
    """All that was written, by path."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_rows_are_aligned_half_precision_and_unit_length(checkpoint, shards, tmp_path, capsys):
    out = tmp_path / "out"
    assert run_verb(main, [str(checkpoint), "--data", str(shards), "--output", str(out)]) == 0
    images = np.load(out / "img_emb" / "img_emb_0.npy")
    texts = np.load(out / "text_emb" / "text_emb_0.npy")
    table = parquet.read_table(out / "metadata" / "metadata_0.parquet").to_pydict()
    assert images.dtype == texts.dtype == np.float16
    assert images.shape == texts.shape == (147, 8)
    assert np.abs(np.linalg.norm(images.astype(np.float32), axis=1) - 1).max() < 2e-3
    kept = [key for key in SAMPLES if key not in (NO_PICTURE, NO_CAPTION, BROKEN)]
    assert table["image_path"] == [f"{int(key) // 80:05d}.tar/{key}" for key in kept]
    assert table["caption"] == [SAMPLES[key]["txt"].decode() for key in kept]
    assert table["number"] == [int(key) for key in kept]
    assert table["of.deep"][:3] == ["odd", "1", "odd"]
    model = load(str(checkpoint))
    for row in (0, 68, 146):  # before, between and behind what was left out
        sample = SAMPLES[kept[row]]
        image = F.normalize(model.embed_uint8(model.spec.to_uint8(decode_image(sample["jpg"]))[None]), dim=1)
        text = F.normalize(model.embed_texts([sample["txt"].decode()]), dim=1)
        assert np.abs(images[row] - image.detach().numpy()).max() < 1e-3
        assert np.abs(texts[row] - text.detach().numpy()).max() < 1e-3
    dropped = [json.loads(line) for line in (out / "dropped" / "dropped_0.jsonl").read_text().splitlines()]
    assert [line["source"][10:] for line in dropped] == [NO_PICTURE, NO_CAPTION, BROKEN]
    assert [line["detail"].partition(":")[0] for line in dropped[:2]] == ["no picture", "no caption in txt"]
    said = " ".join(capsys.readouterr().err.split())
    assert "dropped 3 (sample cannot be read)" in said
    assert "147 rows" in said
    assert not [name for name in files_of(out) if name.startswith(".")]


def test_ranks_and_a_second_start_write_what_one_process_writes_at_once(checkpoint, shards, tmp_path, capsys):
    pairs, towers = open_pairs([str(shards)]), Towers(load(str(checkpoint)))
    whole = EmbedJob(pairs, towers, tmp_path / "whole", 64)
    embed(whole, Screen(quiet=True))
    assert {name for name in files_of(whole.output) if "img" in name} == {f"img_emb/img_emb_{n}.npy" for n in range(3)}
    for place in (0, 1):
        assert "dropped" not in capsys.readouterr().err
        embed(EmbedJob(pairs, towers, tmp_path / "shared", 64), Screen(quiet=True), place, 2)
    assert "dropped 3 (sample cannot be read)" in capsys.readouterr().err  # the last one tells of all
    assert files_of(tmp_path / "shared") == files_of(whole.output)
    (tmp_path / "shared" / "metadata" / "metadata_1.parquet").unlink()  # a kill before the end of a partition
    again = EmbedJob(pairs, towers, tmp_path / "shared", 64)
    assert again.missing() == [1]
    embed(again, Screen(quiet=True))
    assert files_of(tmp_path / "shared") == files_of(whole.output)


def test_ten_partitions_are_numbered_with_two_digits(checkpoint, tmp_path):
    with ShardWriter(tmp_path / "in", "0.tar", None) as writer:
        for number in range(64 * 9 + 1):
            writer.add(f"{number:04d}", {"jpg": SAMPLES["000000"]["jpg"], "txt": b"x"})
    job = EmbedJob(open_pairs([str(tmp_path / "in")]), Towers(load(str(checkpoint))), tmp_path / "out", 64)
    assert job.partitions == 10
    embed(job, Screen(quiet=True), place=9, ranks=10)
    assert {*files_of(job.output)} == {
        "embed.json",
        "dropped/dropped_09.jsonl",
        "img_emb/img_emb_09.npy",
        "metadata/metadata_09.parquet",
        "text_emb/text_emb_09.npy",
    }


def test_a_folder_of_pictures_is_named_by_its_files(checkpoint, tmp_path):
    (tmp_path / "in" / "deep").mkdir(parents=True)
    for name, key in (("b", "000001"), ("deep/a", "000002"), ("none", "000004")):
        (tmp_path / "in" / f"{name}.JPG").write_bytes(SAMPLES[key]["jpg"])
        if name != "none":
            (tmp_path / "in" / f"{name}.txt").write_bytes(SAMPLES[key]["txt"])
    arguments = [str(checkpoint), "--data", str(tmp_path / "in"), "--output"]
    main([*arguments, str(tmp_path / "both")])
    table = parquet.read_table(tmp_path / "both" / "metadata" / "metadata_0.parquet").to_pydict()
    assert table == {
        "image_path": [str(tmp_path / "in" / "b.JPG"), str(tmp_path / "in" / "deep" / "a.JPG")],
        "caption": [SAMPLES[key]["txt"].decode() for key in ("000001", "000002")],
    }
    main([*arguments, str(tmp_path / "alone"), "--no-captions"])
    assert len(np.load(tmp_path / "alone" / "img_emb" / "img_emb_0.npy")) == 3
    assert not (tmp_path / "alone" / "text_emb").exists()


def test_a_folder_of_something_else_is_not_mixed_with(checkpoint, shards, tmp_path):
    pairs, towers = open_pairs([str(shards)]), Towers(load(str(checkpoint)))
    EmbedJob(pairs, towers, tmp_path / "out").missing()
    with pytest.raises(UserError, match=r"holds the embeddings of something else \(precision: 'fp32', now 'bf16'\)"):
        EmbedJob(pairs, Towers(towers.model, "bf16"), tmp_path / "out").missing()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "mine.txt").touch()
    with pytest.raises(UserError, match="is not empty, and no embeddings are in it"):
        EmbedJob(pairs, towers, tmp_path / "other").missing()
    with pytest.raises(UserError, match="partition_rows=100: expected a multiple of 64, .*; nearest: 128"):
        EmbedJob(pairs, towers, tmp_path / "out", 100)


def test_weights_that_are_no_numbers_name_the_first_sample(checkpoint, shards, tmp_path):
    model = load(str(checkpoint))
    with torch.no_grad():
        model.backbone.visual.proj.fill_(float("nan"))
    with pytest.raises(UserError, match=r"^sample 00000\.tar/000000: its embedding is not finite"):
        embed(EmbedJob(open_pairs([str(shards)]), Towers(model), tmp_path / "out"), Screen(quiet=True))
