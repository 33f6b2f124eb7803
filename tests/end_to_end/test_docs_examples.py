"""The code on the pages of `docs/`: parsed always, and run where the slow tests run.

Run: every Python block, page by page in one namespace; every `mmclip` command, with trainings cut to two steps; the
worked examples of extending.md, placed into a copy of the packages. Parsed only: other commands (make, pip, torchrun,
accelerate, whose words are checked), TOML (as run files, or as parts of one) and JSON.
"""

import ast
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from PIL import Image

from mmclip_data.shards import ShardWriter
from mmclip_eval.compare.verdict import Thresholds
from mmclip_launch.cli import VERBS
from mmclip_launch.run.beginning.fork import take_fork
from mmclip_launch.run.config import RunConfig, load_run_config
from mmclip_launch.run.config_files import run_file
from mmclip_launch.run.scoring.suite_files import SuiteConfig
from mmclip_launch.run.tables import from_table

ROOT = Path(__file__).parents[2]
NOT_OURS_TO_RUN = {"log", "errors", "from_open_clip"}
"""Pages whose own tests run them, or that have no code: here they are parsed."""
UNION = re.compile(r"^ *\w+(?: =|:) Annotated\[(?:[^\n]*\]|\n.*?^\])$", re.MULTILINE | re.DOTALL)
BLOCK = re.compile(r'^```(\w+)(?: title="([^"]+)")?\n(.*?)^```$', re.MULTILINE | re.DOTALL)
BASE = {
    "output": "runs/base",
    "global_batch_size": 8,
    "length": {"steps": 1},
    "data": {"source": {"type": "tars", "shards": "embedded:emoji/train-*.tar"}},
}
SHORT = {"steps": "2", "samples": "16", "epochs": "0.05"}
LONGER = {"steps": "4", "samples": "32", "epochs": "0.1"}
"""For what goes on from a run of that length."""


class Block(NamedTuple):
    language: str
    title: str
    text: str


def blocks(page: Path, language: str = "") -> list[Block]:
    found = [Block(*match) for match in BLOCK.findall(page.read_text())]
    return [block for block in found if language in ("", block.language)]


def commands(page: Path) -> list[str]:
    joined = (block.text.replace("\\\n", " ") for block in blocks(page, "bash"))
    lines = [line for text in joined for line in text.splitlines()]
    return [line.split(" #")[0].strip() for line in lines if line.strip() and not line.startswith("#")]


PAGES = sorted((ROOT / "docs").glob("*.md"))
RUN_PAGES = [page for page in PAGES if page.stem not in NOT_OURS_TO_RUN]
WITH_PYTHON = [p for p in RUN_PAGES if any(not block.title for block in blocks(p, "python"))]
WITH_COMMANDS = [p for p in RUN_PAGES if p.stem != "extending" and any(c.startswith("mmclip ") for c in commands(p))]


def is_suite(block: Block) -> bool:
    return bool(block.title) and tomllib.loads(block.text).keys() == {"datasets"}


def name_of(page: Path) -> str:
    return page.stem


def test_the_pages_hold_the_blocks_that_are_tested():
    assert {"batches", "towers", "checkpoints", "shards", "evaluation"} <= {page.stem for page in WITH_PYTHON}
    assert {"shards", "towers", "checkpoints", "evaluation", "report"} <= {page.stem for page in WITH_COMMANDS}
    languages = {block.language for page in PAGES for block in blocks(page)}
    assert {"bash", "python", "toml", "json"} <= languages


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_block_parses(page: Path):
    parsers: dict[str, Callable[[str], Any]] = {
        "python": ast.parse,
        "toml": tomllib.loads,
        "json": json.loads,
        "bash": lambda text: subprocess.run(["bash", "-n"], input=text, text=True, check=True),
    }
    for block in blocks(page):
        if block.language in parsers:
            parsers[block.language](block.text)


@pytest.mark.parametrize("page", RUN_PAGES, ids=name_of)
def test_every_table_of_a_run_file_is_one(page: Path):
    for block in blocks(page, "toml"):
        table = tomllib.loads(block.text)
        if is_suite(block):
            from_table(SuiteConfig, table, page.name)
        if table.keys() == {"rule"}:
            from_table(Thresholds, table, page.name)
        if block.title:  # a suite, rules, or a run file that needs the example before it
            continue
        whole = table if "global_batch_size" in table else {**BASE, **table}
        whole["data"] = {**BASE["data"], **whole["data"]}
        from_table(RunConfig, whole, page.name)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_command_names_what_exists(page: Path):
    makefile = (ROOT / "Makefile").read_text()
    for command in commands(page):
        words = shlex.split(command)
        if words[0] == "mmclip":
            assert words[1].startswith("-") or words[1] in VERBS, command
        if words[0] == "make":
            assert f"\n{words[1]}: " in makefile, command
        for word in words:
            if word.startswith("launch/") and word.endswith((".toml", ".yaml", ".sh")):
                assert (ROOT / word).is_file() or "mine" in word, command
        if words[0] in ("torchrun", "accelerate"):
            module = words.index("-m") + 1
            assert words[module] in {name for name, _ in VERBS.values()}, command
            if words[module] == "mmclip_launch.train":
                load_run_config(ROOT / words[module + 1], words[module + 2 :])


@pytest.fixture(scope="module")
def finished_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what a reader of the pages has: two short runs, some pictures, tars without an index."""
    folder = tmp_path_factory.mktemp("reader")
    (folder / "launch").symlink_to(ROOT / "launch")
    Image.new("RGB", (40, 30), "red").save(folder / "apple.png")
    for name, colour in (("cat", "grey"), ("apple", "red"), ("leaf", "green")):
        (folder / "pictures" / name).mkdir(parents=True)
        Image.new("RGB", (32, 32), colour).save(folder / "pictures" / name / "1.png")
    png = (folder / "apple.png").read_bytes()
    with ShardWriter(folder / "your-shards", "{:05d}.tar", samples_per_shard=1) as writer:
        for key in ("0001", "0002"):
            writer.add(key, {"png": png, "txt": b"an apple"})
    for index in (folder / "your-shards").glob("*.mmidx"):
        index.unlink()
    demo = (ROOT / "launch/configs/tiny-vit.toml").read_text().replace("runs/tiny-vit", "runs/demo")
    sets = '\n[[evaluation.datasets]]\nname = "concept"\npath = "embedded:emoji/unseen-concept-noto.tar"\n'
    (folder / "demo.toml").write_text(f'{demo}{sets}label = "json:name"\ntemplates = "emoji"\n')
    os.chdir(folder)
    for words in (["launch/configs/tiny-vit.toml"], ["demo.toml", "--model.arch", "nano-vit-32"]):
        run_verb("train", words)
    return folder


@pytest.fixture
def reader(finished_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it for one page, which is the working folder."""
    shutil.copytree(finished_run, tmp_path / "reader", symlinks=True)
    monkeypatch.chdir(tmp_path / "reader")
    return tmp_path / "reader"


def run_verb(verb: str, words: Sequence[str]) -> None:
    """What `mmclip VERB ...` does, in this process; a training is cut short."""
    words = list(words)
    if verb == "train":
        fields, fork = take_fork([word for word in words[1:] if word != "--resume"])
        config = load_run_config(run_file(words[0]), fields)
        (length,) = [key for key in SHORT if getattr(config.length, key) is not None]
        words += [f"--length.{length}", SHORT[length] if fork is None else LONGER[length]]
        if "--resume" not in words:
            shutil.rmtree(config.output, ignore_errors=True)
    try:
        import_module(VERBS[verb][0]).main(words)
    except SystemExit as end:
        if end.code:
            raise


@pytest.mark.slow
@pytest.mark.parametrize("page", WITH_COMMANDS, ids=name_of)
def test_mmclip_commands_of_a_page_run(page: Path, reader: Path):
    for block in blocks(page, "toml"):
        if is_suite(block):
            (reader / block.title).write_text(block.text)
    for command in commands(page):
        name, *words = shlex.split(command)
        if name == "mmclip":
            run_verb(words[0], words[1:])


@pytest.mark.slow
@pytest.mark.parametrize("page", WITH_PYTHON, ids=name_of)
def test_python_of_a_page_runs(page: Path, reader: Path):
    namespace: dict[str, Any] = {"__name__": "__docs__"}
    for block in blocks(page, "python"):
        if not block.title:
            exec(compile(block.text, str(page), "exec"), namespace)


@pytest.fixture(scope="module")
def extended(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The packages with the files and the lines of extending.md in their places."""
    overlay = tmp_path_factory.mktemp("extended")
    for source in (ROOT / "mmclip", ROOT / "data_pipelines" / "mmclip_data"):
        ignored = shutil.ignore_patterns("__pycache__", "embedded")
        shutil.copytree(source, overlay / source.name, ignore=ignored)
    (overlay / "mmclip_data" / "embedded").symlink_to(ROOT / "data_pipelines" / "mmclip_data" / "embedded")
    for block in blocks(ROOT / "docs" / "extending.md", "python"):
        place = overlay / block.title
        if place.is_file():
            place.write_text(with_new_member(place.read_text(), block.text))
        else:
            place.write_text(block.text)
    return overlay


def with_new_member(module: str, block: str) -> str:
    """`module` with the block's import in front and its annotated union in place of the one that is there."""
    (new_import,) = re.findall(r"^from .*$", block, re.MULTILINE)
    (new_union,) = UNION.findall(block)
    start = new_union.partition("Annotated")[0]
    (old_union,) = [union for union in UNION.findall(module) if union.startswith(start)]
    missing = set(re.findall(r"\w+Config", old_union)) - set(re.findall(r"\w+Config", new_union))
    assert not missing, f"the page leaves out {missing}"
    first = re.search(r"^(from|import) ", module, re.MULTILINE)
    assert first is not None
    placed = f"{module[: first.start()]}{new_import}\n{module[first.start() :]}"
    return placed.replace(old_union, new_union)


def run_extended(overlay: Path, folder: Path, *arguments: str) -> None:
    environment = {**os.environ, "PYTHONPATH": str(overlay)}
    done = subprocess.run(
        [sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.slow
def test_the_new_objective_trains_and_is_infonce_without_smoothing(extended: Path, reader: Path):
    (command,) = commands(ROOT / "docs" / "extending.md")
    words = shlex.split(command)[2:]
    run_extended(
        extended, reader, "-m", "mmclip_launch.train", *words, "--length.epochs", "0.05", "--output", "runs/new"
    )
    assert load_toml(reader / "runs/new/config.toml")["objective"] == {"type": "smoothed", "smoothing": 0.2}
    assert (reader / "runs/new/ledger.jsonl").read_text().count("\n") == 2
    check = """
import torch
from mmclip.batch import TowerOutput
from mmclip.objectives.base import ObjectiveContext
from mmclip.objectives.smoothed import SmoothedConfig
from mmclip.ops.infonce import infonce
x, y = (torch.nn.functional.normalize(torch.randn(6, 4, dtype=torch.float64), dim=1) for _ in range(2))
scale = torch.tensor([9.0], dtype=torch.float64)
loss = SmoothedConfig(smoothing=0.0).build()(TowerOutput(x, y, scale, None), ObjectiveContext(0, 0)).loss
assert torch.allclose(loss, infonce(x, y, scale).loss)
logits = scale * x @ y.T
own = (-logits.log_softmax(1) - logits.log_softmax(0)) / 2
expected = 0.7 * own.diagonal().mean() + 0.3 * own.mean()
loss = SmoothedConfig(smoothing=0.3).build()(TowerOutput(x, y, scale, None), ObjectiveContext(0, 0)).loss
assert torch.allclose(loss, expected)
"""
    run_extended(extended, reader, "-c", check)


@pytest.mark.slow
def test_the_new_source_trains_and_its_missing_picture_is_quarantined(extended: Path, reader: Path):
    (block,) = [block for block in blocks(ROOT / "docs" / "extending.md", "toml") if block.title]
    (reader / block.title).write_text(block.text)
    rows = [(f"{name}/1.png", f"a {name}") for name in ("cat", "apple", "leaf")] + [("gone.png", "not there")]
    rows += [("../apple.png", "an apple on its own")]
    (reader / "pictures" / "list.tsv").write_text("".join(f"{path}\t{caption}\n" for path, caption in rows))
    run_extended(extended, reader, "-m", "mmclip_launch.train", block.title)
    bad = [json.loads(line) for line in (reader / "runs/list/quarantine.jsonl").read_text().splitlines()]
    assert {line["sample_id"] for line in bad} == {"list/0/gone.png"}
    assert all("no such file" in line["reason"] for line in bad)


@pytest.mark.slow
def test_the_new_evaluator_scores_a_run(reader: Path, capsys: pytest.CaptureFixture[str]):
    (block,) = [b for b in blocks(ROOT / "docs" / "extending.md", "python") if b.title == "word_order.py"]
    namespace: dict[str, Any] = {"__name__": "__docs__"}
    exec(compile(block.text, block.title, "exec"), namespace)
    name, value = capsys.readouterr().out.split()[:2]
    assert name == "word_order_acc"
    assert 0 <= float(value) <= 1
    import torch

    rows = torch.eye(3)
    ((_, estimate),) = namespace["word_order"](rows, rows, rows.roll(1, 0))
    assert (estimate.value, estimate.chance) == (1.0, 0.5)
    ((_, tie),) = namespace["word_order"](rows, rows, rows)
    assert tie.value == 0.0


def load_toml(path: Path) -> dict[str, Any]:
    return tomllib.loads(path.read_text())
