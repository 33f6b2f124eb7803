"""`mmclip export`: opened by stock open_clip, described by a card that the Hub's own reader accepts."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import open_clip
import pytest
import torch
import yaml
from huggingface_hub import ModelCard
from PIL import Image

import mmclip
from mmclip.envelope import sha256, verify
from mmclip.tokenizer import Tokenizer
from mmclip.towers.architecture import model_cfg_of
from mmclip.towers.two_tower import TwoTower
from mmclip.towers.weights import save_weights
from mmclip_launch.cli import run_verb
from mmclip_launch.export import main
from mmclip_launch.train import main as train

RUN = """
output = "{folder}/run"
global_batch_size = 8
length = {{ steps = 2 }}
precision = "fp32"
seed = 5
checkpoint = {{ keep = 1 }}
[data]
workers = 0
source = {{ type = "tars", shards = "embedded:emoji/train-noto.tar" }}
[model]
arch = "nano-vit-32"
[objective]
type = "siglip"
[optimizer]
lr = 0.00123
[[evaluation.datasets]]
name = "odd | name `x`"
path = "embedded:emoji/unseen-concept-noto.tar"
label = "json:name"
templates = ["a {{c}} | `drawn`", "{{c}}"]
[[evaluation.datasets]]
name = "captions"
path = "embedded:emoji/unseen-concept-noto.tar"
tasks = ["zero_shot_retrieval"]
"""
FILES = {"MANIFEST.json", "README.md", "open_clip_config.json", "open_clip_model.safetensors"}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    (folder / "run.toml").write_text(RUN.format(folder=folder))
    train([str(folder / "run.toml")])
    return folder / "run"


@pytest.fixture(scope="module")
def exported(trained: Path) -> Path:
    folder = trained.parent / "for-others"
    main([str(trained), str(folder), "--license", "mit", "--hub-dataset", "someone/emoji"])
    return folder


def exits(*words: object) -> int:
    return run_verb(main, [str(word) for word in words])


def rows_of(card: str, heading: str) -> list[list[str]]:
    """The cells of the table under a heading, unescaped as a reader of GitHub's tables sees them."""
    section = card.split(f"## {heading}\n", 1)[1].split("\n## ", 1)[0]
    lines = [line for line in section.splitlines() if line.startswith("|")][2:]
    cells = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]
    return [[re.sub(r"\\([|`])", r"\1", cell) for cell in row] for row in cells]


def test_export_holds_the_towers_and_nothing_of_the_training(trained: Path, exported: Path):
    assert {path.name for path in exported.iterdir()} == FILES
    (checkpoint,) = (trained / "checkpoints").glob("step-*")
    assert {"optimizer.safetensors", "training_state.json"} < {path.name for path in checkpoint.iterdir()}
    assert sha256(exported / "open_clip_model.safetensors") == sha256(checkpoint / "open_clip_model.safetensors")
    verify(exported)


def test_stock_open_clip_and_mmclip_read_the_export_and_embed_as_the_run_does(trained: Path, exported: Path):
    run = mmclip.load(trained)
    stock, _, transform = open_clip.create_model_and_transforms(f"local-dir:{exported}")
    tokenizer = open_clip.get_tokenizer(f"local-dir:{exported}")
    pictures = [Image.effect_mandelbrot((40 + 9 * n, 50), (-2, -1, 1, 1), 60 + n).convert("RGB") for n in range(3)]
    texts = ["red apple", "two cats"]
    with torch.no_grad():
        image_embed = stock.eval().encode_image(torch.stack([transform(p) for p in pictures]), normalize=True)
        text_embed = stock.encode_text(tokenizer(texts), normalize=True)
    assert (run.embed_images(pictures) - image_embed).abs().max() < 1e-5
    assert (run.embed_texts(texts) - text_embed).abs().max() < 1e-5
    again = mmclip.load(f"local-dir:{exported}")
    assert torch.equal(again.embed_images(pictures), run.embed_images(pictures))
    assert stock.logit_bias.item() == run.logit_bias.item()  # pyright: ignore
    for picture in pictures:
        ours = run.spec.normalise(run.spec.to_uint8(picture)[None])[0]
        assert (ours - transform(picture)).abs().max() < 1e-5


def test_card_table_is_that_of_the_results(trained: Path, exported: Path):
    card = (exported / "README.md").read_text()
    expected = []
    for path in sorted((trained / "results").glob("*.json")):
        result = json.loads(path.read_text())
        for name, value in result["metrics"].items():
            low, high = result["intervals"][name]
            figures = [f"{value:.4f}", f"{low:.4f} to {high:.4f}", f"{result['chance'][name]:.4f}"]
            expected.append([result["dataset"], name, *figures, f"{result['n_seen']:,}"])
    rows = rows_of(card, "Evaluation")
    assert [[row[0], row[2].replace("\\", ""), *row[3:7]] for row in rows] == expected
    assert len(expected) >= 4
    assert rows[-1][7] == "`` a {c} | `drawn` `` and 1 more"
    facts = {name: value.strip("`") for name, value in rows_of(card, "Training")}
    assert (facts["objective"], facts["samples seen"], facts["batch"], facts["seed"]) == ("siglip", "16", "8", "5")
    assert facts["learning rate"].startswith("0.00123 ")
    assert facts["data"] == "embedded:emoji/train-noto.tar"
    assert sha256(exported / "open_clip_model.safetensors") in card


def test_front_matter_is_what_the_hub_reads(trained: Path, exported: Path):
    text = (exported / "README.md").read_text()
    metadata = yaml.safe_load(text.split("---\n")[1])
    assert {name: metadata[name] for name in ("library_name", "pipeline_tag", "license", "datasets")} == {
        "library_name": "open_clip",
        "pipeline_tag": "zero-shot-image-classification",
        "license": "mit",
        "datasets": ["someone/emoji"],
    }
    data = ModelCard(text, ignore_metadata_errors=False).data
    assert data.model_name == "for-others"  # pyright: ignore
    found = {(r.dataset_name, r.metric_type): r.metric_value for r in data.eval_results}  # pyright: ignore
    for path in (trained / "results").glob("*.json"):
        result = json.loads(path.read_text())
        for name, value in result["metrics"].items():
            assert found.pop((result["dataset"], name)) == pytest.approx(value, abs=1e-9)
    assert not found


def test_a_card_without_licence_and_results_says_so(tmp_path: Path, exported: Path):
    main([f"local-dir:{exported}", str(tmp_path / "bare"), "--no-verify", "--name", "no: [x]"])
    text = (tmp_path / "bare" / "README.md").read_text()
    metadata = yaml.safe_load(text.split("---\n")[1])
    assert set(metadata) == {"library_name", "pipeline_tag", "tags"}
    assert "no recorded results" in text
    assert "no record of their training" in text
    assert "Not compared with stock open_clip" in text
    assert "# no: \\[x\\]" in text


@pytest.mark.slow
def test_the_commands_in_the_card_run(exported: Path, tmp_path: Path):
    Image.new("RGB", (60, 50), (200, 30, 30)).save(tmp_path / "picture.png")
    blocks = re.findall(r"```python\n(.*?)```", (exported / "README.md").read_text(), flags=re.DOTALL)
    assert len(blocks) == 2
    for block in reversed(blocks):  # mmclip first: torchvision may not fit torch on this machine, and mmclip mends that
        code = f"import mmclip\n{block}"
        done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert done.stdout.strip()


def test_results_of_other_weights_are_left_out_and_named(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    run = shutil.copytree(trained, tmp_path / "run")
    first, second = sorted((run / "results").glob("*.json"))
    stale = json.loads(first.read_text())
    stale["checkpoint"]["weights_sha256"] = "f" * 64
    first.write_text(json.dumps(stale))
    main([str(run), str(tmp_path / "out"), "--no-verify"])
    card = (tmp_path / "out" / "README.md").read_text()
    assert {row[0] for row in rows_of(card, "Evaluation")} == {json.loads(second.read_text())["dataset"]}
    assert f"{first.name.replace('_', chr(92) + '_')}, of weights ffffffffffff" in card
    assert f"left out: {first.name}" in capsys.readouterr().err
    second.write_text("{]")
    assert exits(run, tmp_path / "third", "--no-verify") == 2
    assert not (tmp_path / "third").exists()


def test_an_existing_folder_is_replaced_only_where_an_export_stands(
    trained: Path, exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    export = shutil.copytree(exported, tmp_path / "export")
    before = (export / "README.md").read_text()
    assert exits(trained, export, "--no-verify") == 2
    assert "--force to replace it" in capsys.readouterr().err
    assert exits(trained, export, "--no-verify", "--force") == 0
    assert (export / "README.md").read_text() != before
    (export / "notes.txt").write_text("mine")
    assert exits(trained, export, "--no-verify", "--force") == 2
    assert "notes.txt" in capsys.readouterr().err
    assert (export / "notes.txt").read_text() == "mine"
    other = tmp_path / "other"
    other.mkdir()
    (other / "thesis.tex").write_text("years")
    assert exits(trained, other, "--force") == 2
    assert (other / "thesis.tex").is_file()
    checkpoint = shutil.copytree(next((trained / "checkpoints").glob("step-*")), tmp_path / "checkpoint")
    assert exits(trained, checkpoint, "--force") == 2
    assert "training checkpoint" in capsys.readouterr().err
    assert (checkpoint / "optimizer.safetensors").is_file()
    assert exits(trained, trained, "--force") == 2
    link = tmp_path / "link"
    link.symlink_to(export)
    assert exits(trained, link, "--force") == 2
    (tmp_path / "file").write_text("x")
    assert exits(trained, tmp_path / "file", "--force") == 2
    (tmp_path / "empty").mkdir()
    assert exits(trained, tmp_path / "empty", "--no-verify") == 0


def test_what_open_clip_reads_differently_is_not_written(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """The check is real: a preprocessing that the configuration does not say makes it fail."""
    from mmclip.preprocess import ImageSpec

    honest = ImageSpec.to_open_clip
    monkeypatch.setattr(ImageSpec, "to_open_clip", lambda spec: honest(spec) | {"mean": [0.1, 0.2, 0.3]})
    assert exits(trained, tmp_path / "out") == 2
    assert re.search(r"embeds differently by \S+, over 1e-05; nothing was written", capsys.readouterr().err)
    assert list(tmp_path.iterdir()) == []
    assert exits(trained, tmp_path / "out", "--no-verify") == 0


def test_a_source_that_does_not_load_is_one_message(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert exits(tmp_path / "nothing", tmp_path / "out") == 2
    assert "is no folder" in capsys.readouterr().err


@pytest.mark.slow
def test_tokenizer_files_travel_with_the_export(tmp_path: Path):
    """A Hugging Face tokenizer made here, of twelve words: stock open_clip reads it from the folder, not from a hub."""
    tokenizers = pytest.importorskip("tokenizers")
    transformers = pytest.importorskip("transformers")
    words = ["<pad>", "</s>", "<unk>", "a", "red", "cat", "two", "dogs", "on", "sofa", "x", "blue"]
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="<unk>"))
    made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    source = tmp_path / "source"
    source.mkdir()
    tokens = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    transformers.PreTrainedTokenizerFast(tokenizer_object=made, **tokens).save_pretrained(str(source))
    model_cfg = model_cfg_of("nano-vit-32") | {"custom_text": True}
    model_cfg["text_cfg"] |= {"hf_tokenizer_name": "nowhere/to-be-found", "vocab_size": 12, "pool_type": "last"}
    torch.manual_seed(2)
    save_weights(TwoTower(model_cfg, tokenizer=Tokenizer(model_cfg["text_cfg"], source)), source)
    main([f"local-dir:{source}", str(tmp_path / "out")])
    assert {"tokenizer.json", "tokenizer_config.json"} <= {path.name for path in (tmp_path / "out").iterdir()}
    shutil.rmtree(source)
    assert mmclip.load(tmp_path / "out").embed_texts(["a red cat"]).shape == (1, 32)
