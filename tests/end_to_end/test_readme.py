"""The README's commands, every one, as written and in order, in a copy of the checkout."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
FASHION = Path("/usr/share/datasets/fashion-mnist")
RUN_BY_A_TEST = (
    "## See it work",
    "## Three stories",
    "### With your own pictures",
    "### A real data set in two minutes",
    "### On several processes",
    "## From Python",
    "## Moving over from open_clip",
    "### A new objective",
    "### A new source",
    "### A new evaluator",
)
# One worker runs them all, in order: later commands use what earlier ones made, as a reader's would.
pytestmark = pytest.mark.xdist_group("readme")


def blocks(heading: str, language: str) -> list[str]:
    """The fenced blocks of a language between a heading and the next one of any rank."""
    section = re.split(r"^#+ ", README.split(f"\n{heading}\n")[1], flags=re.MULTILINE)[0]
    return re.findall(rf"^```{language}\n(.*?)^```", section, flags=re.DOTALL | re.MULTILINE)


def test_no_command_of_the_readme_is_left_out():
    found, heading, inside = set(), "", False
    for line in README.splitlines():
        if line.startswith("```"):
            found |= {heading} if line in ("```bash", "```python", "```toml") else set()
            inside = not inside
        elif line.startswith("#") and not inside:
            heading = line
    assert found == set(RUN_BY_A_TEST)


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tracked files, the environment of this process as `.venv`, and the pictures that a reader would bring."""
    folder = tmp_path_factory.mktemp("checkout")
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in filter(None, tracked.split("\0")):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, folder / name)
    for name in ("pyproject.toml", "constraints.txt"):
        os.utime(folder / name, (0, 0))  # older than the environment's stamp: make must not install from this copy
    (folder / ".venv").symlink_to(sys.prefix)
    assert (folder / ".venv" / ".installed").exists(), "this environment was not made by make"
    rng = np.random.default_rng(0)
    for name, colour in (("red things", (220, 30, 30)), ("blue things", (30, 30, 220))):
        (folder / "pictures" / name).mkdir(parents=True)
        for number in range(80):
            pixels = (np.array(colour) + rng.integers(-20, 20, (64, 64, 3))).astype(np.uint8)
            Image.fromarray(pixels).save(folder / "pictures" / name / f"{number}.png")
    shutil.copy(folder / "pictures" / "red things" / "0.png", folder / "cat.png")
    embedded = ROOT / "data_pipelines/mmclip_data/embedded/emoji"
    (folder / "your-shards").mkdir()
    for number, name in enumerate(("train-noto.tar", "train-twemoji.tar")):
        shutil.copy(embedded / name, folder / "your-shards" / f"{number:05d}.tar")
    return folder


@pytest.fixture(scope="module")
def demo(checkout: Path) -> Path:
    """The finished run of the first command."""
    run("## See it work", checkout)
    return checkout / "runs/demo"


def run(heading: str, folder: Path) -> str:
    """Run the shell blocks under a heading, each as one script, and return what they printed."""
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    printed = ""
    for script in blocks(heading, "bash"):
        # Packages of the system are installed by tests/system_packages.sh.
        script = "\n".join(line for line in script.splitlines() if not line.startswith("sudo apt-get install"))
        command = ["bash", "-e", "-o", "pipefail", "-c", script]
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{script}\n{done.stdout[-1000:]}\n{done.stderr[-3000:]}"
        printed += done.stdout + done.stderr
    return printed


def result(folder: Path, name: str) -> dict[str, dict[str, float]]:
    (path,) = folder.glob(f"{name}_*.json")
    return json.loads(path.read_text())


@pytest.mark.slow
def test_demo_learns_what_it_promises(demo: Path):
    style = result(demo / "results", "emoji-unseen-style")["metrics"]
    # One seed; the promise is a mean of .22 and .45 over three.
    assert style["acc1"] >= 0.2
    assert style["acc5"] >= 0.42
    concept = result(demo / "results", "emoji-unseen-concept")
    assert concept["intervals"]["acc1"][0] > concept["chance"]["acc1"]
    page = demo / "report/index.html"
    assert 100_000 < page.stat().st_size < 5_000_000


@pytest.mark.slow
def test_the_three_stories_run_as_written(checkout: Path):
    printed = run("## Three stories", checkout)
    (unseen,) = (checkout / "runs/tiny-vit/results").glob("unseen-style_*.json")
    scores = json.loads(unseen.read_text())
    assert scores["intervals"]["acc5"][0] > scores["chance"]["acc5"]
    results = {path.name.split("_")[0] for path in (checkout / "runs/finetune/results").iterdir()}
    assert results == {"new-style", "old-styles"}
    assert (checkout / "runs/finetune/report/index.html").is_file()
    assert (checkout / "exported/README.md").is_file()
    assert "ViT-B-32" in printed


@pytest.mark.slow
def test_own_pictures_and_own_shards_train_as_written(checkout: Path):
    run("### With your own pictures", checkout)
    assert (checkout / "your-shards/00001.tar.mmidx").is_file()
    assert list((checkout / "runs/pictures/checkpoints").iterdir())


@pytest.mark.slow
def test_two_processes_train_as_written(checkout: Path):
    run("### On several processes", checkout)
    ledgers = [(checkout / "runs" / name / "ledger.jsonl").read_text() for name in ("two", "two-again")]
    ids = [[json.loads(line)["ids"] for line in ledger.splitlines()] for ledger in ledgers]
    assert ids[0] == ids[1]
    assert len(ids[0]) == 21


@pytest.mark.slow
@pytest.mark.skipif(not FASHION.is_dir(), reason="needs Debian's dataset-fashion-mnist: tests/system_packages.sh")
def test_fashion_mnist_reaches_its_score_as_written(checkout: Path):
    assert "dataset-fashion-mnist" in (ROOT / "tests/system_packages.sh").read_text()
    run("### A real data set in two minutes", checkout)
    assert result(checkout / "runs/fashion-mnist/results", "fashion-mnist")["metrics"]["acc1"] >= 0.85


@pytest.mark.slow
def test_python_examples_run_as_written(checkout: Path, demo: Path):
    for heading in ("## From Python", "### A new objective", "### A new source", "### A new evaluator"):
        for code in blocks(heading, "python"):
            done = subprocess.run(
                [sys.executable, "-c", code], cwd=checkout, capture_output=True, text=True, check=False
            )
            assert done.returncode == 0, f"{code}\n{done.stderr[-3000:]}"


@pytest.mark.slow
def test_an_open_clip_command_line_moves_over_as_written(checkout: Path):
    run("## Moving over from open_clip", checkout)
