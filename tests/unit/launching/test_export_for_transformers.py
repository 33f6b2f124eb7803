"""`mmclip export --format transformers`: the card's own lines open it, and it stands only where it is complete."""

import re
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image

from mmclip.envelope import verify
from mmclip.release import load
from mmclip.towers.architecture import model_cfg_of
from mmclip.towers.two_tower import TwoTower
from mmclip.towers.weights import save_weights
from mmclip_launch.cli import run_verb
from mmclip_launch.export import main


def test_the_lines_of_the_card_open_the_folder_and_mmclip_reads_it_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    torch.manual_seed(1)
    (tmp_path / "source").mkdir()
    save_weights(TwoTower(model_cfg_of("nano-vit-32")), tmp_path / "source")
    monkeypatch.chdir(tmp_path)
    main(["source", "out", "--format", "transformers", "--license", "mit"])
    assert "stock transformers embeds the same to" in capsys.readouterr().err
    verify(tmp_path / "out")
    card = (tmp_path / "out" / "README.md").read_text()
    assert yaml.safe_load(card.split("---\n")[1])["library_name"] == "transformers"
    Image.new("RGB", (60, 50), (200, 30, 30)).save("picture.png")
    exec(re.findall(r"```python\n(.*?)```", card, flags=re.DOTALL)[0], {})
    assert "tensor([[" in capsys.readouterr().out
    names = ["a cat", "2 dogs!"]
    assert (load("out").embed_texts(names) - load("source").embed_texts(names)).abs().max() < 1e-5
    assert run_verb(main, ["source", "out", "--format", "transformers", "--no-verify"]) == 2
    assert run_verb(main, ["source", "out", "--format", "transformers", "--no-verify", "--force"]) == 0


def test_what_does_not_fit_leaves_nothing_behind(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "source").mkdir()
    save_weights(TwoTower(model_cfg_of("tiny-resnet-32")), tmp_path / "source")
    assert run_verb(main, [str(tmp_path / "source"), str(tmp_path / "out"), "--format", "transformers"]) == 2
    assert "SiglipModel has no such tower" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["source"]
