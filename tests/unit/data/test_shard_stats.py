"""Sizes and lengths of shards from their indexes alone, against Pillow's own reading of the same pictures."""

import io
import json
import random
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mmclip.errors import UserError
from mmclip_data.pipelines.stats import QUANTILES, StatsConfig, shard_stats
from mmclip_data.shards import ShardWriter, index_path, open_index
from mmclip_data.testing.shard_faults import picture


def write(folder: Path) -> list[tuple[bytes, bytes]]:
    source = random.Random(0)
    samples = []
    for number in range(30):
        image = Image.open(io.BytesIO(picture(source, 40))).resize((20 + 7 * number, 90 - 2 * number))
        buffer = io.BytesIO()
        image.save(buffer, ("JPEG", "PNG", "WEBP")[number % 3])
        samples.append((buffer.getvalue(), b"word " * (number + 1)))
    with ShardWriter(folder, "{:05d}.tar", 12) as writer:
        for number, (payload, text) in enumerate(samples):
            writer.add(f"{number:06d}", {("jpg", "png", "webp")[number % 3]: payload, "txt": text})
    return samples


def test_the_figures_are_those_of_the_pictures(tmp_path: Path) -> None:
    samples = write(tmp_path / "in")
    sizes = np.array([Image.open(io.BytesIO(payload)).size for payload, _ in samples], float)
    expected = {
        "short side": sizes.min(axis=1),
        "long side": sizes.max(axis=1),
        "aspect": sizes[:, 0] / sizes[:, 1],
        "picture": np.array([len(payload) for payload, _ in samples], float),
        "caption": np.array([len(text) for _, text in samples], float),
    }
    stats = shard_stats(StatsConfig(shards=(str(tmp_path / "in"),)))
    assert (stats.shards, stats.samples, stats.formats) == (3, 30, {"jpeg": 10, "png": 10, "webp": 10})
    assert {measure.name: measure.values.tolist() for measure in stats.measures} == {
        name: values.tolist() for name, values in expected.items()
    }
    facts = json.loads(json.dumps(stats.facts(), allow_nan=False))
    for name, values in expected.items():
        assert facts[name]["mean"] == pytest.approx(values.mean())
        for place in QUANTILES:
            assert facts[name][f"p{round(100 * place)}"] == pytest.approx(np.quantile(values, place))


@pytest.mark.parametrize("ending", ["png", "svg"])
def test_the_drawing_is_the_same_each_time(tmp_path: Path, ending: str) -> None:
    write(tmp_path / "in")
    drawings = []
    for name in ("a", "b"):
        shard_stats(StatsConfig(shards=(str(tmp_path / "in"),), output=tmp_path / f"{name}.{ending}"))
        drawings.append((tmp_path / f"{name}.{ending}").read_bytes())
    assert drawings[0] == drawings[1]
    assert len(drawings[0]) > 5000


def test_nothing_is_read_but_indexes(tmp_path: Path) -> None:
    write(tmp_path / "in")
    for tar in (tmp_path / "in").glob("*.tar"):
        tar.write_bytes(bytes(tar.stat().st_size))
        assert open_index(tar).num_samples
    assert shard_stats(StatsConfig(shards=(str(tmp_path / "in"),))).samples == 30
    index_path(tmp_path / "in" / "00001.tar").unlink()
    with pytest.raises(UserError, match="00001.tar has no index"):
        shard_stats(StatsConfig(shards=(str(tmp_path / "in"),)))
