"""`TwoTower`: an open_clip model with its preprocessing and its tokenizer, as one module."""

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, UInt8
from PIL import Image
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from mmclip.batch import TowerOutput
from mmclip.errors import UserError
from mmclip.preprocess import ImageSpec
from mmclip.tokenizer import Tokenizer
from mmclip.towers.architecture import check_model_cfg
from mmclip.towers.text import can_trim, encode_text, text_lengths

EMBED_CHUNK = 64
"""Pictures or captions encoded at a time by the `embed_*` methods."""


@dataclass(frozen=True)
class ZeroShotPrediction:
    """Which of the names fits each picture."""

    names: tuple[str, ...]
    probabilities: Float[Tensor, "batch class"]
    """Softmax over the names of the scaled cosine similarities; rows sum to 1."""

    def top(self, k: int = 1) -> list[list[tuple[str, float]]]:
        """Per picture, the `k` likeliest names with their probabilities, best first."""
        values, columns = self.probabilities.topk(min(k, len(self.names)), dim=1)
        rows = zip(values.tolist(), columns.tolist(), strict=True)
        return [[(self.names[c], v) for v, c in zip(*row, strict=True)] for row in rows]


class TwoTower(nn.Module):
    """Image tower, text tower, scale and bias, over a model of open_clip whose parameter names it keeps.

    Raises:
        UserError: `model_cfg` does not describe a model that this open_clip can build.
    """

    def __init__(
        self, model_cfg: dict[str, Any], spec: ImageSpec | None = None, tokenizer: Tokenizer | None = None
    ) -> None:
        super().__init__()
        check_model_cfg(model_cfg, "model_cfg")
        self.model_cfg = deepcopy(model_cfg)
        """open_clip's table, saved as `open_clip_config.json`."""
        self.backbone: Any = _build_backbone(self.model_cfg)
        """open_clip's own module: `state_dict` of this part is what stock open_clip loads."""
        self.spec = spec or ImageSpec.from_open_clip({}, self.backbone.visual.image_size)
        self.tokenizer = tokenizer or Tokenizer(self.model_cfg["text_cfg"])
        self.trims_text = can_trim(self.backbone)
        """Whether tokens after the last end token may be cut without changing an embedding."""

    @property
    def logit_scale(self) -> nn.Parameter:
        """Log of the inverse temperature, shape [1] (files hold a 0-d tensor, as open_clip's do)."""
        return self.backbone.logit_scale

    @property
    def logit_bias(self) -> nn.Parameter | None:
        """Added to every logit by the sigmoid loss; None where the model has none."""
        return self.backbone.logit_bias

    @property
    def device(self) -> torch.device:
        """The device of the parameters."""
        return self.logit_scale.device

    @property
    def preprocess(self) -> ImageSpec:
        """Evaluation-time preprocessing, under the name that open_clip's users look for."""
        return self.spec

    def encode_image(self, images: Float[Tensor, "batch 3 height width_px"]) -> Float[Tensor, "batch embed"]:
        """Image embeddings, not normalised, of pixels normalised by `spec`."""
        return self.backbone.encode_image(images)

    def encode_text(self, tokens: Int[Tensor, "batch token"]) -> Float[Tensor, "batch embed"]:
        """Text embeddings, not normalised; `tokens` may be narrower than the context length."""
        return encode_text(self.backbone, tokens)

    def forward(
        self, images: UInt8[Tensor, "batch 3 height width_px"], tokens: Int[Tensor, "batch token"]
    ) -> TowerOutput:
        """Both embeddings of a batch of raw pixels and tokens, normalised in single precision or better."""
        pixels = self.spec.normalise(images, self.logit_scale.dtype)
        if _is_channels_last(self.backbone):
            pixels = pixels.contiguous(memory_format=torch.channels_last)
        with _attention_of(self.device):
            image_embed, text_embed = self.encode_image(pixels), self.encode_text(tokens)
        dtype = self.logit_scale.dtype
        return TowerOutput(
            image_embed=F.normalize(image_embed.to(dtype), dim=-1),
            text_embed=F.normalize(text_embed.to(dtype), dim=-1),
            logit_scale=self.logit_scale.exp(),
            logit_bias=self.logit_bias,
        )

    def trim(self, tokens: Int[Tensor, "batch token"]) -> Int[Tensor, "batch short"]:
        """Cut the columns that no embedding depends on; all of them stay where the tower reads its padding."""
        return tokens[:, : int(text_lengths(tokens, self.backbone).max())] if self.trims_text else tokens

    @torch.inference_mode()
    def embed_uint8(self, images: UInt8[Tensor, "batch 3 height width_px"]) -> Float[Tensor, "batch embed"]:
        """L2-normalised image embeddings on the CPU, in evaluation mode; `images` come from `spec.to_uint8`."""
        with _evaluating(self):
            pixels = self.spec.normalise(images.to(self.device), self.logit_scale.dtype)
            return F.normalize(self.encode_image(pixels).float(), dim=-1).cpu()

    @torch.inference_mode()
    def embed_images(self, images: Sequence[Image.Image | str | Path]) -> Float[Tensor, "batch embed"]:
        """L2-normalised embeddings of pictures or of files, one row each, on the CPU."""
        if not images:
            raise UserError("embed_images: expected at least one picture, got an empty list")
        chunks = (images[start : start + EMBED_CHUNK] for start in range(0, len(images), EMBED_CHUNK))
        return torch.cat([self.embed_uint8(torch.stack([self._pixels(image) for image in chunk])) for chunk in chunks])

    @torch.inference_mode()
    def embed_texts(self, texts: Sequence[str]) -> Float[Tensor, "batch embed"]:
        """L2-normalised embeddings of captions, one row each, on the CPU."""
        if isinstance(texts, str) or not texts:
            raise UserError(f"embed_texts: expected a list with at least one text, got {texts!r}")
        with _evaluating(self):
            tokens = self.tokenizer(texts)
            parts = [self.trim(part).to(self.device) for part in tokens.split(EMBED_CHUNK)]
            return torch.cat([F.normalize(self.encode_text(part).float(), dim=-1).cpu() for part in parts])

    def zero_shot(
        self, images: Sequence[Image.Image | str | Path], names: Sequence[str], templates: Sequence[str] = ("{}",)
    ) -> ZeroShotPrediction:
        """Score each picture against each name; a name's embedding is the mean over `templates` (CLIP, section 3.1.4).

        `{}` in a template stands for the name.
        """
        if isinstance(names, str) or not names:
            raise UserError(f"zero_shot: expected a list with at least one name, got {names!r}")
        texts = [template.replace("{}", name) for name in names for template in templates]
        per_name = self.embed_texts(texts).unflatten(0, (len(names), len(templates))).mean(dim=1)
        logits = self.embed_images(images) @ F.normalize(per_name, dim=-1).T
        scale = float(self.logit_scale.detach().exp())
        return ZeroShotPrediction(names=tuple(names), probabilities=(logits * scale).softmax(dim=1))

    def _pixels(self, image: Image.Image | str | Path) -> UInt8[Tensor, "3 height width_px"]:
        if isinstance(image, Image.Image):
            return self.spec.to_uint8(image)
        try:
            with Image.open(image) as opened:
                return self.spec.to_uint8(opened)
        except OSError as error:
            raise UserError(f"picture {image} cannot be read: {error}") from error


def _attention_of(device: torch.device) -> AbstractContextManager[Any]:
    """The attention kernel for training: torch's fused one for CPUs costs several times its plain one on short sequences."""
    return sdpa_kernel(SDPBackend.MATH) if device.type == "cpu" else nullcontext()


class _evaluating:
    """Evaluation mode inside, the former mode of every part afterwards: embedding must not switch off a training run."""

    def __init__(self, module: nn.Module) -> None:
        self.training = [part for part in module.modules() if part.training]
        self.module = module

    def __enter__(self) -> None:
        self.module.eval()

    def __exit__(self, *_: object) -> None:
        for part in self.training:
            part.training = True


def _build_backbone(model_cfg: dict[str, Any]) -> nn.Module:
    from open_clip.model import CLIP, CustomTextCLIP

    table = deepcopy(model_cfg)
    custom = table.pop("custom_text", False) or "hf_model_name" in table["text_cfg"]
    # The weights come from our files alone: neither timm nor transformers may reach for a hub here.
    if "timm_model_name" in table["vision_cfg"]:
        table["vision_cfg"]["timm_model_pretrained"] = False
    if "hf_model_name" in table["text_cfg"]:
        table["text_cfg"]["hf_model_pretrained"] = False
    table["nonscalar_logit_scale"] = True  # FSDP2 cannot shard a 0-d parameter
    try:
        return (CustomTextCLIP if custom else CLIP)(**table)
    except (TypeError, RuntimeError, OSError, AssertionError, KeyError) as error:
        raise UserError(f"open_clip cannot build this model_cfg: {type(error).__name__}: {error}") from error


def _is_channels_last(backbone: nn.Module) -> bool:
    weights = (p for p in backbone.parameters() if p.dim() == 4 and p.shape[2] > 1)
    first = next(weights, None)
    return first is not None and first.is_contiguous(memory_format=torch.channels_last) and not first.is_contiguous()


def initial_log_scale(inverse_temperature: float) -> float:
    """The parameter value that stands for an inverse temperature.

    Raises:
        UserError: it is not positive.
    """
    if inverse_temperature <= 0:
        raise UserError(
            f"model.logit_scale={inverse_temperature}: expected a positive inverse temperature, such as 14.3"
        )
    return math.log(inverse_temperature)
