"""Both towers as ONNX graphs, which run where torch does not: onnxruntime, browsers, phones."""

import json
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn

from mmclip.errors import UserError
from mmclip.release.formats.comparison import CHECK_TEXTS, check_pictures, does_not_open, largest_difference
from mmclip.towers.text import first
from mmclip.towers.two_tower import TwoTower
from mmclip.towers.weights import CONFIG_FILE, save_config

IMAGE_FILE, TEXT_FILE, FACTS_FILE = "image.onnx", "text.onnx", "onnx.json"
OPSET = 18
INLINE_BYTES = 1_500_000_000
"""Weights above this lie beside the graph: a protobuf ends at 2 GiB."""


class OnnxWriter:
    """`image.onnx` takes uint8 pixels and normalises them itself, `text.onnx` takes tokens; both give vectors of length 1."""

    name = "onnx"
    library = "onnxruntime"
    weights_file = IMAGE_FILE
    files = frozenset({IMAGE_FILE, TEXT_FILE, FACTS_FILE, CONFIG_FILE})

    def write(self, model: TwoTower, folder: Path) -> None:
        require_onnx()
        height, width = model.spec.size
        pixels = torch.zeros(2, 3, height, width, dtype=torch.uint8)
        pixels[0] = 255
        _save(ImageGraph(model), pixels, "images", "image_embed", folder / IMAGE_FILE)
        _save(TextGraph(model), model.tokenizer(CHECK_TEXTS[:2]), "tokens", "text_embed", folder / TEXT_FILE)
        (folder / FACTS_FILE).write_text(json.dumps(facts(model), indent=1, sort_keys=True) + "\n")
        save_config(model, folder)

    def difference(self, model: TwoTower, folder: Path) -> float:
        import open_clip

        pixels = torch.stack([model.spec.to_uint8(picture) for picture in check_pictures()])
        try:
            tokens = open_clip.get_tokenizer(f"local-dir:{folder}")(list(CHECK_TEXTS))
            image_embed, text_embed = (
                _run(folder / file, name, values)
                for file, name, values in ((IMAGE_FILE, "images", pixels), (TEXT_FILE, "tokens", tokens))
            )
        except Exception as error:  # onnxruntime has kinds of its own, none of which it exports
            raise does_not_open("onnxruntime", error) from error
        return largest_difference(model, "onnxruntime", image_embed, text_embed)

    def usage(self, folder: str) -> str:
        place, local = (json.dumps(text, ensure_ascii=False) for text in (folder, f"local-dir:{folder}"))
        return f"""\
import json

import onnxruntime
import open_clip  # for its tokenizer, and for the resizing that the model expects
from PIL import Image

folder = {place}
with open(f"{{folder}}/{FACTS_FILE}") as file:
    facts = json.load(file)
image_tower, text_tower = (onnxruntime.InferenceSession(f"{{folder}}/{{name}}.onnx") for name in ("image", "text"))
how = {{name: facts["preprocess"][name] for name in ("interpolation", "resize_mode", "fill_color")}}
to_pixels = open_clip.image_transform(facts["preprocess"]["size"], is_train=False, mean=(0, 0, 0), std=(1, 1, 1), **how)
tokenizer = open_clip.get_tokenizer({local})
names = ["a cat", "a dog", "a red apple"]
pixels = (to_pixels(Image.open("picture.png")) * 255).round().byte().unsqueeze(0)  # the graph normalises them
image_embed, = image_tower.run(None, {{"images": pixels.numpy()}})
text_embed, = text_tower.run(None, {{"tokens": tokenizer(names).numpy()}})
print(facts["logit_scale"] * image_embed @ text_embed.T)  # a softmax of it is how likely each name is"""


class ImageGraph(nn.Module):
    """From pixels as a picture has them to embeddings."""

    def __init__(self, model: TwoTower) -> None:
        super().__init__()
        self.visual = model.backbone.visual
        mean, std = (torch.tensor(values)[:, None, None] for values in (model.spec.mean, model.spec.std))
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", mean, persistent=False)
        self.register_buffer("std", std, persistent=False)

    def forward(self, images: UInt8[Tensor, "batch 3 height width_px"]) -> Float[Tensor, "batch embed"]:
        """Of length 1."""
        pixels = (images.to(torch.float32) / 255 - self.mean) / self.std
        return F.normalize(first(self.visual(pixels)).float(), dim=-1)


class TextGraph(nn.Module):
    """From tokens, padded to the context length, to embeddings."""

    def __init__(self, model: TwoTower) -> None:
        super().__init__()
        self.backbone = model.backbone

    def forward(self, tokens: Int[Tensor, "batch token"]) -> Float[Tensor, "batch embed"]:
        """Of length 1."""
        return F.normalize(first(self.backbone.encode_text(tokens)).float(), dim=-1)


def facts(model: TwoTower) -> dict[str, Any]:
    """What a program has to know of the two graphs, in plain values."""
    height, width = model.spec.size
    return {
        "schema_version": 1,
        "opset": OPSET,
        "image": {
            "file": IMAGE_FILE,
            "input": {
                "name": "images",
                "type": "uint8",
                "shape": ["batch", 3, height, width],
                "is": "RGB pixels, 0 to 255, resized and cropped as `preprocess` says; the graph normalises them",
            },
            "output": {"name": "image_embed", "type": "float32", "shape": ["batch", "embed"], "normalised": True},
        },
        "text": {
            "file": TEXT_FILE,
            "input": {
                "name": "tokens",
                "type": "int64",
                "shape": ["batch", model.tokenizer.context_length],
                "is": "token ids, padded to the context length as the tokenizer of this folder does",
            },
            "output": {"name": "text_embed", "type": "float32", "shape": ["batch", "embed"], "normalised": True},
        },
        "embed_dim": int(model.model_cfg["embed_dim"]),
        "preprocess": model.spec.to_open_clip(),
        "logit_scale": float(model.logit_scale.detach().exp()),
        "logit_bias": None if model.logit_bias is None else float(model.logit_bias.detach()),
    }


def require_onnx() -> None:
    """Refuse where a package is missing, before the towers are traced.

    Raises:
        UserError: naming the package, and how it is installed.
    """
    from importlib.util import find_spec

    missing = [name for name in ("onnx", "onnxruntime", "onnxscript") if find_spec(name) is None]
    if missing:
        raise UserError(f"--format onnx needs {', '.join(missing)}: pip install mmclip[export]")


def _save(graph: nn.Module, example: Tensor, name: str, output: str, path: Path) -> None:
    """Trace a tower at a batch of two, and let the batch vary."""
    outside = sum(parameter.nbytes for parameter in graph.parameters()) > INLINE_BYTES
    try:
        with _traceable(), torch.no_grad():
            program: Any = torch.onnx.export(
                graph.eval().cpu(),
                (example,),
                dynamo=True,
                dynamic_shapes=({0: torch.export.Dim("batch", min=1)},),
                input_names=[name],
                output_names=[output],
                opset_version=OPSET,
                verbose=False,
            )
            program.save(str(path), external_data=outside)
    except Exception as error:  # torch.export, onnxscript and onnx each have kinds of their own
        reason = " ".join(str(error).split())[:300]
        raise UserError(
            f"the tower of {path.name} cannot be written as ONNX ({type(error).__name__}: {reason}); choose another --format"
        ) from error


@contextmanager
def _traceable() -> Iterator[None]:
    """Without the fused attention that no ONNX operator stands for, and without what the exporter says of itself."""
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


def _run(path: Path, name: str, values: Tensor) -> Tensor:
    """The graph over the whole batch and over its rows one by one, which must agree: the batch was traced at two."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    whole = torch.from_numpy(session.run(None, {name: values.numpy()})[0])
    alone = torch.cat([torch.from_numpy(session.run(None, {name: row.numpy()})[0]) for row in values.split(1)])
    if whole.shape != alone.shape or not torch.allclose(whole, alone, rtol=0, atol=1e-5):
        raise ValueError(f"{path.name} embeds a row differently in another batch")
    return whole
