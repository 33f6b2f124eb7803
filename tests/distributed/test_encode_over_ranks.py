"""The encode pass on three processes: every row once and the same bits as alone, and an error of one reaches the first."""

import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from mmclip.release import load
from mmclip.towers.two_tower import TwoTower
from mmclip.towers.weights import save_weights
from mmclip_data.features.encode import encode_images, encode_texts

WORKER = Path(__file__).with_name("encode_worker.py")
TORCHRUN = [str(Path(sys.executable).parent / "torchrun"), "--standalone", "--nproc_per_node", "3"]
MODEL_CFG = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "patch_size": 16, "width": 16, "layers": 1, "head_width": 16},
    "text_cfg": {"context_length": 8, "vocab_size": 49408, "width": 16, "heads": 1, "layers": 1},
}
ROWS, CHUNK = 22, 4


class Pictures:
    def __init__(self, rows: int = ROWS) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return self.rows

    def sample_id(self, index: int) -> str:
        return str(index)

    def image_bytes(self, index: int) -> bytes:
        rng, buffer = np.random.default_rng(index), io.BytesIO()
        Image.fromarray(rng.integers(0, 256, (40, 36, 3), dtype=np.uint8)).save(buffer, "PNG")
        return buffer.getvalue()[: 40 if index == 5 else None]


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    torch.manual_seed(0)
    save_weights(TwoTower(MODEL_CFG), folder)
    (folder / "pictures").mkdir()
    for number in range(ROWS):
        (folder / "pictures" / f"{number}.png").write_bytes(Pictures().image_bytes(number))
    return folder


@pytest.fixture(scope="module")
def answers(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("answers")
    command = [*TORCHRUN, str(WORKER), str(model_folder), str(folder)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=400, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads((folder / "answers.json").read_text())


@pytest.mark.slow
def test_every_row_comes_once_and_is_that_of_one_process(answers: dict[str, Any], model_folder: Path):
    model = load(model_folder)
    blank = torch.zeros(1, 3, 32, 32, dtype=torch.uint8)
    expected = torch.cat(
        [
            encode_images(One(number), model.spec.to_uint8, model.embed_uint8, chunk_size=CHUNK)
            if number != 5
            else torch.zeros_like(model.embed_uint8(blank))
            for number in range(ROWS)
        ]
    )
    for case in ("plain", "after all that"):
        found = torch.tensor(answers[case]["embed"])
        torch.testing.assert_close(found, expected)
        assert list(answers[case]["bad"]) == ["5"]
        assert answers[case]["own"] == 2  # of six chunks on three processes
    assert answers["plain"]["embed"] == answers["after all that"]["embed"]
    assert answers["few"]["own"] == answers["one"]["own"] == 1
    assert answers["few"]["embed"][:8] == answers["plain"]["embed"][:8]  # whole chunks of the same pictures
    texts = [f"text {number}" for number in range(11)]
    assert torch.equal(torch.tensor(answers["texts"]), encode_texts(texts, model.embed_texts, chunk_size=CHUNK))


class One(Pictures):
    """A single picture."""

    def __init__(self, number: int) -> None:
        super().__init__(1)
        self.number = number

    def image_bytes(self, index: int) -> bytes:
        return super().image_bytes(self.number)


@pytest.mark.slow
def test_what_goes_wrong_on_another_rank_is_raised_on_the_first_with_its_traceback(answers: dict[str, Any]):
    assert answers["failing"]["error"].startswith("PeerError: rank 1 (")
    assert answers["failing"]["error"].endswith("OSError: [Errno 5] the disk of one rank: 'disk'")
    assert "in image_bytes" in answers["failing"]["notes"]
    assert "UserError: rank 2 finds other samples at " in answers["other data"]["error"]
    assert "(23, there 22): every process needs the same data" in answers["other data"]["error"]
    assert answers["refused"] == "not wanted"


@pytest.mark.slow
def test_a_rank_without_the_weights_or_with_others_is_named(answers: dict[str, Any]):
    assert answers["missing"].startswith("rank 1 (")
    assert answers["missing"].endswith("): no such folder")
    assert answers["other"].startswith("other: rank 2 finds other weights there than the first")
