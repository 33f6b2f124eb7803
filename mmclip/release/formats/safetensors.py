"""One safetensors file that says itself what it is: weights, and in its head architecture and preprocessing."""

import json
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from mmclip.preprocess import ImageSpec
from mmclip.release.formats.comparison import CHECK_TEXTS, check_pictures, does_not_open, largest_difference
from mmclip.tokenizer import Tokenizer
from mmclip.towers.two_tower import TwoTower
from mmclip.towers.weights import CONFIG_FILE, explicit, file_tensors, save_config

PLAIN_FILE = "model.safetensors"


class SafetensorsWriter:
    """`model.safetensors` under open_clip's names; the configuration stands in its metadata and beside it."""

    name = "safetensors"
    library = "safetensors"
    weights_file = PLAIN_FILE
    files = frozenset({PLAIN_FILE, CONFIG_FILE})

    def write(self, model: TwoTower, folder: Path) -> None:
        table = {"model_cfg": explicit(model), "preprocess_cfg": model.spec.to_open_clip()}
        metadata = {name: json.dumps(value, sort_keys=True) for name, value in table.items()}
        save_file(file_tensors(model), folder / PLAIN_FILE, metadata={"format": "pt", **metadata})
        save_config(model, folder)

    def difference(self, model: TwoTower, folder: Path) -> float:
        try:
            other = built_of(folder)
        except (OSError, SafetensorError, RuntimeError, ValueError, KeyError, TypeError) as error:
            raise does_not_open("safetensors", error) from error
        return largest_difference(
            model, "safetensors", other.embed_images(check_pictures()), other.embed_texts(CHECK_TEXTS)
        )

    def usage(self, folder: str) -> str:
        place = json.dumps(f"{folder}/{PLAIN_FILE}", ensure_ascii=False)
        return f"""\
import json

from safetensors import safe_open

with safe_open({place}, framework="pt") as file:
    model_cfg, preprocess_cfg = (json.loads(file.metadata()[name]) for name in ("model_cfg", "preprocess_cfg"))
    weights = {{name: file.get_tensor(name) for name in file.keys()}}
print(len(weights), "tensors of", model_cfg["embed_dim"], "dimensions for pictures of", preprocess_cfg["size"])"""


def built_of(folder: Path) -> TwoTower:
    """The model that the file alone describes; of the folder, the tokenizer's files are read too."""
    with safe_open(folder / PLAIN_FILE, framework="pt") as file:
        said = file.metadata()
        weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (no mapping)
    model_cfg = json.loads(said["model_cfg"])
    model = TwoTower(model_cfg, tokenizer=Tokenizer(model_cfg["text_cfg"], folder))
    model.spec = ImageSpec.from_open_clip(json.loads(said["preprocess_cfg"]), model.backbone.visual.image_size)
    for name in ("logit_scale", "logit_bias"):
        if name in weights:
            weights[name] = torch.atleast_1d(weights[name])
    model.backbone.load_state_dict(weights)
    return model.eval()
