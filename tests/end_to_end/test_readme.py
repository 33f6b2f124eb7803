"""The README's commands, as written, in a folder that holds nothing but what a checkout would."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FASHION = Path("/usr/share/datasets/fashion-mnist")


def commands(heading: str) -> list[str]:
    """The lines of the shell blocks between a heading and the next of its rank or higher, without their comments."""
    rank = heading.split()[0]
    text = (ROOT / "README.md").read_text()
    section = re.split(rf"^#{{1,{len(rank)}}} ", text.split(f"\n{heading}\n")[1], flags=re.MULTILINE)[0]
    blocks = re.findall(r"```bash\n(.*?)```", section, flags=re.DOTALL)
    return [line.split(" #")[0].strip() for block in blocks for line in block.splitlines() if line.strip()]


def run_all(lines: list[str], folder: Path) -> float:
    """Run each line in `folder` and return the CPU seconds of all of them."""
    (folder / "launch").symlink_to(ROOT / "launch")
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    before = os.times()
    for line in lines:
        done = subprocess.run(
            line, shell=True, cwd=folder, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{line}\n{done.stderr[-3000:]}"
    after = os.times()
    return after.children_user + after.children_system - before.children_user - before.children_system


def metrics(folder: Path, name: str) -> dict[str, float]:
    (path,) = folder.glob(f"{name}_*.json")
    return json.loads(path.read_text())["metrics"]


@pytest.mark.slow
def test_the_three_stories_run_as_written(tmp_path: Path):
    pretrain, score, finetune = [
        line for line in commands("## Three stories") if "tiny-vit" in line and "pictures" not in line
    ][:3]
    run_all([pretrain, score, finetune], tmp_path)
    unseen = json.loads(next((tmp_path / "runs/tiny-vit/results").glob("*.json")).read_text())
    assert unseen["dataset"] == "unseen-style"
    assert unseen["intervals"]["acc5"][0] > unseen["chance"]["acc5"]
    results = {path.name for path in (tmp_path / "runs/finetune/results").iterdir()}
    assert {name.split("_")[0] for name in results} == {"new-style", "old-styles"}


@pytest.mark.slow
def test_two_processes_train_as_written(tmp_path: Path):
    run_all([f"{line} --length.epochs 0.2" for line in commands("### On several processes")], tmp_path)
    ledgers = [(tmp_path / "runs" / name / "ledger.jsonl").read_text() for name in ("two", "two-again")]
    ids = [[json.loads(line)["ids"] for line in ledger.splitlines()] for ledger in ledgers]
    assert ids[0] == ids[1]
    assert len(ids[0]) == 5


@pytest.mark.slow
@pytest.mark.skipif(not FASHION.is_dir(), reason="needs Debian's dataset-fashion-mnist: tests/system_packages.sh")
def test_fashion_mnist_reaches_its_score_as_written(tmp_path: Path):
    lines = [line for line in commands("### A real data set in two minutes") if not line.startswith("sudo")]
    assert len(lines) == 3
    run_all(lines, tmp_path)
    assert metrics(tmp_path / "runs/fashion-mnist/results", "fashion-mnist")["acc1"] >= 0.85


@pytest.mark.slow
def test_demo_learns_what_it_promises(tmp_path: Path):
    run_all(["mmclip demo"], tmp_path)
    results = tmp_path / "runs/demo/results"
    style = metrics(results, "emoji-unseen-style")
    # One seed; the promise is a mean of .22 and .45 over three.
    assert style["acc1"] >= 0.2
    assert style["acc5"] >= 0.42
    (path,) = results.glob("emoji-unseen-concept_*.json")
    concept = json.loads(path.read_text())
    assert concept["intervals"]["acc1"][0] > concept["chance"]["acc1"]
    assert style["acc1"] > 100 * 1 / 1324
