"""A folder that transformers opens as `CLIPModel` or `SiglipModel`, with its tokenizer and image processor."""

import json
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mmclip.errors import UserError
from mmclip.release.formats.comparison import CHECK_TEXTS, check_pictures, does_not_open, largest_difference
from mmclip.release.hf import clip, siglip
from mmclip.release.hf.key_map import to_theirs
from mmclip.release.hf.pictures import processor_of
from mmclip.release.hf.texts import tokenizer_for_others
from mmclip.towers.two_tower import TwoTower


class TransformersWriter:
    """Weights under the names of transformers, configuration, tokenizer and processor."""

    name = "transformers"
    library = "transformers"
    weights_file = "model.safetensors"
    files = frozenset({"config.json", "model.safetensors"})

    def write(self, model: TwoTower, folder: Path) -> None:
        import transformers

        try:
            kind, config, rules = _described(model)
            pictures = processor_of(model.spec, kind)
            tokenizer = tokenizer_for_others(model, kind)
        except UserError as error:
            raise UserError(
                f"transformers has no model of this architecture: {error}; nothing was written. "
                "--format open_clip keeps all of it"
            ) from error
        names = {"clip": transformers.CLIPModel, "siglip": transformers.SiglipModel}
        processors = {"clip": transformers.CLIPProcessor, "siglip": transformers.SiglipProcessor}
        for token in ("bos_token_id", "eos_token_id", "pad_token_id") if kind == "siglip" else ("bos_token_id",):
            setattr(config.text_config, token, getattr(tokenizer, token))
        stock = names[kind](config)
        state = {name: tensor.detach().cpu() for name, tensor in model.backbone.state_dict().items()}
        theirs = to_theirs(rules, state, "this model")
        theirs["logit_scale"] = theirs["logit_scale"].reshape(stock.logit_scale.shape)
        stock.load_state_dict(theirs)
        stock.save_pretrained(folder)
        processors[kind](image_processor=pictures, tokenizer=tokenizer).save_pretrained(folder)

    def difference(self, model: TwoTower, folder: Path) -> float:
        from transformers import AutoImageProcessor, AutoModel, AutoTokenizer

        try:
            stock = AutoModel.from_pretrained(folder).eval()
            tokenizer = AutoTokenizer.from_pretrained(folder)
            # The other backend resizes tensors, and differs from Pillow by a grey level here and there.
            pictures = AutoImageProcessor.from_pretrained(folder, backend="pil")
        except (OSError, RuntimeError, ValueError, ImportError, AttributeError, TypeError, KeyError) as error:
            raise does_not_open("transformers", error) from error
        length = stock.config.text_config.max_position_embeddings
        with torch.inference_mode():
            pixels = pictures(images=check_pictures(), return_tensors="pt").pixel_values
            tokens = tokenizer(
                list(CHECK_TEXTS), padding="max_length", truncation=True, max_length=length, return_tensors="pt"
            ).input_ids
            image_embed = F.normalize(_embedding(stock.get_image_features(pixel_values=pixels)), dim=-1)
            text_embed = F.normalize(_embedding(stock.get_text_features(input_ids=tokens)), dim=-1)
        return largest_difference(model, "transformers", image_embed, text_embed)

    def usage(self, folder: str) -> str:
        quoted = json.dumps(folder, ensure_ascii=False)
        return f"""\
import torch
from PIL import Image
from transformers import AutoModel, AutoProcessor

model = AutoModel.from_pretrained({quoted}).eval()
processor = AutoProcessor.from_pretrained({quoted})
names = ["a cat", "a dog", "a red apple"]
inputs = processor(
    text=names, images=Image.open("picture.png"), padding="max_length", truncation=True, return_tensors="pt"
)
with torch.no_grad():
    print(model(**inputs).logits_per_image.softmax(dim=-1))"""


def _described(model: TwoTower) -> tuple[str, Any, Any]:
    """The family, its configuration and the rules for its weights.

    Raises:
        UserError: a part of the architecture has no equal in transformers.
    """
    table = model.model_cfg
    if "hf_model_name" in table["text_cfg"]:
        raise UserError("its text tower is another encoder of transformers (text_cfg.hf_model_name)")
    if table["vision_cfg"].get("timm_model_name"):
        return "siglip", siglip.config_of(table), siglip.rules(table)
    if table.get("custom_text"):
        raise UserError("its text tower stands beside an image tower that is none of SigLIP's (custom_text)")
    if isinstance(table["vision_cfg"].get("layers", 12), list | tuple):
        raise UserError("its image tower is OpenAI's residual network (vision_cfg.layers)")
    end = model.tokenizer.end_id
    if end is None:
        raise UserError("its tokenizer ends no caption, and CLIPModel reads a caption at its end")
    return "clip", clip.config_of(table, end), clip.rules(table)


def _embedding(output: Any) -> Tensor:
    return output if isinstance(output, Tensor) else output.pooler_output
