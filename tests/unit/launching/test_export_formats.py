"""`mmclip export --format` and `--push`: read by each format's own reader, taken by a stand-in of the Hub."""

import base64
import json
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import open_clip
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file

from mmclip.errors import MachineError, UserError
from mmclip.release import load
from mmclip.release.formats import FORMATS
from mmclip.release.formats import onnx as onnx_format
from mmclip.towers.architecture import model_cfg_of
from mmclip.towers.two_tower import TwoTower
from mmclip.towers.weights import WEIGHTS_FILE, save_weights
from mmclip_launch import evaluate
from mmclip_launch.cli import run_verb
from mmclip_launch.export import main
from mmclip_launch.push import check_repository, push

TEXTS = ["a cat", "two dogs on a red sofa", "x"]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with results of its own."""
    place = tmp_path_factory.mktemp("formats")
    torch.manual_seed(0)
    (place / "model").mkdir()
    save_weights(TwoTower(model_cfg_of("nano-vit-32") | {"quick_gelu": True}), place / "model")
    for name, colour in {"red": (250, 0, 0), "blue": (0, 0, 250)}.items():
        (place / "colours" / name).mkdir(parents=True)
        Image.new("RGB", (40, 50), colour).save(place / "colours" / name / "0.png")
    arguments = [str(place / "model"), "--dataset", str(place / "colours"), "--templates", "simple", "--no-cache"]
    assert run_verb(evaluate.main, [*arguments, "--no-report"]) == 0
    return place / "model"


@pytest.fixture(scope="module")
def exported(source: Path) -> Path:
    """As ONNX; the exporter takes seconds to import."""
    main([str(source), str(source.parent / "onnx"), "--format", "onnx", "--license", "mit"])
    return source.parent / "onnx"


def run(path: Path, **inputs: np.ndarray) -> np.ndarray:
    (output,) = onnxruntime.InferenceSession(str(path)).run(None, inputs)
    return np.asarray(output)


@pytest.mark.slow
def test_onnx_graphs_give_the_embeddings_of_the_towers_at_any_batch(source: Path, exported: Path):
    model, noise = load(source), np.random.default_rng(1)
    tokenizer = open_clip.get_tokenizer(f"local-dir:{exported}")
    for batch in (1, 2, 5):
        pictures = [Image.fromarray(noise.integers(0, 256, (40, 50 + batch, 3), dtype=np.uint8)) for _ in range(batch)]
        pixels = torch.stack([model.spec.to_uint8(picture) for picture in pictures])
        image_embed = run(exported / "image.onnx", images=pixels.numpy())
        assert np.abs(image_embed - model.embed_images(pictures).numpy()).max() < 1e-5
        texts = (TEXTS * 2)[:batch]
        text_embed = run(exported / "text.onnx", tokens=tokenizer(texts).numpy())
        assert np.abs(text_embed - model.embed_texts(texts).numpy()).max() < 1e-5
        assert np.allclose(np.linalg.norm(image_embed, axis=1), 1, atol=1e-5)


@pytest.mark.slow
def test_what_the_graphs_want_is_written_beside_them_and_true(source: Path, exported: Path):
    facts, model = json.loads((exported / "onnx.json").read_text()), load(source)
    for part in ("image", "text"):
        graph = onnx.load(exported / facts[part]["file"]).graph
        onnx.checker.check_model(str(exported / facts[part]["file"]))
        for told, there in ((facts[part]["input"], graph.input), (facts[part]["output"], graph.output)):
            assert [value.name for value in there] == [told["name"]]
            kind = there[0].type.tensor_type
            assert onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type) == np.dtype(told["type"])
            sizes = [size.dim_param or size.dim_value for size in kind.shape.dim]
            assert sizes[0] == told["shape"][0] == "batch"
            assert all(
                isinstance(wanted, str) or wanted == size for wanted, size in zip(told["shape"], sizes, strict=True)
            )
    assert facts["embed_dim"] == model.model_cfg["embed_dim"]
    assert facts["logit_scale"] == pytest.approx(float(model.logit_scale.detach().exp()))
    assert facts["preprocess"] == model.spec.to_open_clip()


@pytest.mark.slow
def test_the_code_in_the_card_of_an_onnx_export_runs(exported: Path, tmp_path: Path):
    Image.new("RGB", (60, 40), (200, 30, 30)).save(tmp_path / "picture.png")
    code = (exported / "README.md").read_text().split("```python\n", 1)[1].split("```", 1)[0]
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("[") == 2  # one picture, in one row


@pytest.mark.slow
def test_a_graph_that_embeds_something_else_does_not_appear(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    stock = onnx_format.ImageGraph.forward
    monkeypatch.setattr(onnx_format.ImageGraph, "forward", lambda self, images: stock(self, images).flip(1))
    assert run_verb(main, [str(source), str(tmp_path / "wrong"), "--format", "onnx"]) == 2
    assert "stock onnxruntime embeds differently by" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_the_safetensors_file_says_itself_what_it_is(source: Path, tmp_path: Path):
    folder = tmp_path / "plain"
    main([str(source), str(folder), "--format", "safetensors"])
    alone = tmp_path / "alone"
    alone.mkdir()
    shutil.copy(folder / "model.safetensors", alone)
    with safe_open(alone / "model.safetensors", framework="pt") as file:
        said = file.metadata()
    model = load(source)
    assert json.loads(said["preprocess_cfg"]) == json.loads(json.dumps(model.spec.to_open_clip()))
    assert json.loads(said["model_cfg"])["quick_gelu"] is True
    weights, wanted = load_file(alone / "model.safetensors"), load_file(source / WEIGHTS_FILE)
    assert weights.keys() == wanted.keys()
    assert all(torch.equal(weights[name], tensor) for name, tensor in wanted.items())
    assert torch.equal(load(folder).embed_texts(TEXTS), model.embed_texts(TEXTS))
    stock, _, _ = open_clip.create_model_and_transforms(f"local-dir:{folder}")
    assert torch.equal(stock.state_dict()["visual.proj"], wanted["visual.proj"])


@pytest.mark.parametrize("name", [name for name in FORMATS if name not in ("onnx", "transformers")])
def test_the_card_of_every_format_carries_the_evaluation(name: str, source: Path, tmp_path: Path):
    main([str(source), str(tmp_path / "out"), "--format", name])
    check_card(source, tmp_path / "out", name)


@pytest.mark.slow
def test_the_card_of_onnx_carries_the_evaluation(source: Path, exported: Path):
    check_card(source, exported, "onnx")


def check_card(source: Path, folder: Path, name: str) -> None:
    (path,) = (source / "results").glob("*.json")
    card = (folder / "README.md").read_text()
    assert f"{json.loads(path.read_text())['metrics']['acc1']:.4f}" in card
    assert "| colours |" in card
    assert f'library_name: "{FORMATS[name].library}"' in card


class Hub(BaseHTTPRequestHandler):
    """As much of the Hub's API as an upload of small files asks for."""

    files: dict[str, bytes]
    requests: list[tuple[str, str, Any]]
    refuses: int | None

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        lines = [json.loads(line) for line in body.splitlines()] if b"\n" in body.strip() else [json.loads(body)]
        self.requests.append((self.path, self.headers.get("Authorization", ""), lines[0]))
        if self.refuses:
            self.answer({"error": f"denied to {self.headers.get('Authorization')}"}, self.refuses)
        elif self.path == "/api/repos/create":
            self.answer({"url": f"http://{self.headers['Host']}/someone/model"})
        elif "/preupload/" in self.path:
            found = [{"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in lines[0]["files"]]
            self.answer({"files": found})
        elif "/commit/" in self.path:
            for line in lines:
                if line["key"] == "file":
                    self.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            host = self.headers["Host"]
            self.answer({"commitUrl": f"http://{host}/someone/model/commit/{'0' * 40}", "commitOid": "0" * 40})
        else:
            self.answer({"warnings": [], "errors": []})

    def do_GET(self) -> None:
        self.requests.append((self.path, self.headers.get("Authorization", ""), None))
        if self.refuses:
            self.answer({"error": f"denied to {self.headers.get('Authorization')}"}, self.refuses)
        else:
            self.answer(
                {"id": "someone/model", "sha": "1" * 40, "siblings": [], "private": False, "tags": [], "downloads": 0}
            )

    def answer(self, table: dict[str, Any], status: int = 200) -> None:
        data = json.dumps(table).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *_: Any) -> None:  # noqa: A002  (the base class has it so)
        """Nothing on the terminal."""


def online(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a token, and without the switch that keeps tests off the network."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_TOKEN", "hf_thisisasecret")


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Hub]]:
    Hub.files, Hub.requests, Hub.refuses = {}, [], None
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    online(monkeypatch)
    yield Hub
    server.shutdown()
    server.server_close()


def test_a_push_makes_the_repository_and_uploads_the_folder_as_it_stands(
    hub: type[Hub], source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    folder = tmp_path / "out"
    main([str(source), str(folder), "--push", "someone/model", "--private"])
    (created,) = (body for path, _, body in hub.requests if path == "/api/repos/create")
    assert (created["name"], created["organization"]) == ("model", "someone")
    assert created.get("private") is True or created.get("visibility") == "private"
    assert hub.files == {path.name: path.read_bytes() for path in folder.iterdir()}
    assert all(token == "Bearer hf_thisisasecret" for path, token, _ in hub.requests if "/commit/" in path)
    said = "".join(capsys.readouterr())
    assert "pushed: http://127.0.0.1" in said
    assert "secret" not in said


def test_a_push_that_is_denied_says_what_to_do_and_never_the_token(
    hub: type[Hub], source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    hub.refuses = 403
    assert run_verb(main, [str(source), str(tmp_path / "out"), "--push", "someone/model"]) == 2
    said = capsys.readouterr().err
    assert "--push someone/model: the Hub did not take it" in said
    assert "hf auth login" in said
    assert "secret" not in said
    assert (tmp_path / "out" / WEIGHTS_FILE).is_file()  # the export itself is whole
    assert hub.files == {}


def test_a_hub_that_is_not_there_is_a_fault_of_the_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    online(monkeypatch)
    with pytest.raises(MachineError, match="the Hub did not take it"):
        push(tmp_path, "someone/model")


@pytest.mark.parametrize("name", ["model", "a/b/c", "../x", "a/b c", "", "https://huggingface.co/a/b"])
def test_a_name_that_is_none_is_refused_before_anything_is_exported(name: str):
    with pytest.raises(UserError, match="expected ORG/NAME"):
        check_repository(name)
