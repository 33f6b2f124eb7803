"""Fields that stand deeper in a sample's JSON, and files of ids that are none."""

import json
from pathlib import Path

import pytest

from mmclip.errors import UserError
from mmclip_data.pipelines.filter import FilterConfig, make_filter
from mmclip_data.shards import ShardReader, ShardWriter, open_index
from mmclip_data.testing.shard_faults import make_shard

TABLES: list[object] = [{"meta": {"deep": {"score": number}}} for number in range(3)]


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    jpeg = make_shard(1).samples["000000"]["jpg"]
    with ShardWriter(tmp_path / "in", "0.tar", samples_per_shard=None) as writer:
        for number, table in enumerate([*TABLES, {"meta": 5}, {}]):
            writer.add(f"{number}", {"jpg": jpeg, "txt": b"x", "json": json.dumps(table).encode()})
    return tmp_path / "in"


@pytest.mark.parametrize(
    ("where", "kept"),
    [("meta.deep.score >= 1", ["1", "2"]), ("json.meta.deep.score < 1", ["0"]), ("meta.deep is None", ["3", "4"])],
)
def test_fields_of_tables_within_the_json_are_fields(shards: Path, where: str, kept: list[str]) -> None:
    out = shards.parent / "out"
    make_filter(FilterConfig(shards=(str(shards),), output=out, where=where, workers=1))
    with ShardReader(out / "00000.tar", open_index(out / "00000.tar")) as reader:
        assert [reader.index.key(row) for row in range(reader.index.num_samples)] == kept
    lines = [json.loads(line) for line in (out / "dropped.jsonl").read_text().splitlines()]
    reasons = {line["source"]: line["reason"] for line in lines}
    if "score" in where:
        path = where.partition(" ")[0].removeprefix("json.")
        assert reasons["0.tar/3"] == reasons["0.tar/4"] == f"no field {path}"


def test_a_file_of_ids_that_is_none_is_no_reason_to_unpickle_it(shards: Path) -> None:
    (shards / "ids.npy").write_bytes(b"no array")
    for name, message in (("ids.npy", r"ids\.npy: not a whole \.npy file of numbers$"), ("other.npy", "no such file$")):
        config = FilterConfig(shards=(str(shards),), output=shards.parent / "out", uids=shards / name, workers=1)
        with pytest.raises(UserError, match=message):
            make_filter(config)
