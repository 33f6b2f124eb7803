"""A folder that stock open_clip opens as `local-dir:FOLDER`."""

import json
from pathlib import Path
from typing import Any

import torch

from mmclip.errors import UserError
from mmclip.release.formats.comparison import CHECK_TEXTS, check_pictures, does_not_open, largest_difference
from mmclip.towers.own_keys import why_not_stock
from mmclip.towers.two_tower import TwoTower
from mmclip.towers.weights import CONFIG_FILE, WEIGHTS_FILE, save_weights


class OpenClipWriter:
    """Weights, configuration and tokenizer in open_clip's layout, which is that of our checkpoints too."""

    name = "open_clip"
    library = "open_clip"
    weights_file = WEIGHTS_FILE
    files = frozenset({CONFIG_FILE, WEIGHTS_FILE})

    def write(self, model: TwoTower, folder: Path) -> None:
        reason = why_not_stock(model.model_cfg)
        if reason is not None:
            raise UserError(
                f"stock open_clip cannot build these towers: {reason}; nothing was written. --format transformers keeps all of "
                "it, and mmclip opens its own checkpoints as they are"
            )
        save_weights(model, folder)

    def difference(self, model: TwoTower, folder: Path) -> float:
        import open_clip

        try:
            stock, _, transform = open_clip.create_model_and_transforms(f"local-dir:{folder}")
            tokenizer = open_clip.get_tokenizer(f"local-dir:{folder}")
        except (OSError, RuntimeError, ValueError, ImportError, AttributeError, TypeError) as error:
            raise does_not_open("open_clip", error) from error
        tower: Any = stock.eval()
        with torch.inference_mode():
            pixels = torch.stack([torch.as_tensor(transform(image)) for image in check_pictures()])  # pyright: ignore
            image_embed = tower.encode_image(pixels, normalize=True)
            text_embed = tower.encode_text(tokenizer(list(CHECK_TEXTS)), normalize=True)
        return largest_difference(model, "open_clip", image_embed, text_embed)

    def usage(self, folder: str) -> str:
        local = json.dumps(f"local-dir:{folder}", ensure_ascii=False)
        return f"""\
import open_clip
import torch
from PIL import Image

model, _, preprocess = open_clip.create_model_and_transforms({local})
tokenizer = open_clip.get_tokenizer({local})
names = ["a cat", "a dog", "a red apple"]
model.eval()
with torch.no_grad():
    image_embed = model.encode_image(preprocess(Image.open("picture.png")).unsqueeze(0), normalize=True)
    text_embed = model.encode_text(tokenizer(names), normalize=True)
print((model.logit_scale.exp() * image_embed @ text_embed.T).softmax(dim=-1))"""
