"""What a trained pair of towers is used for: embeddings of pictures and captions, and zero-shot classification."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, UInt8
from PIL import Image
from torch import Tensor, nn

from mmclip.errors import UserError
from mmclip.preprocess import ImageSpec
from mmclip.tokenizer import Tokenizer
from mmclip.towers.text_groups import Lengths

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


class Embedder(nn.Module):
    """The uses of a model; `TwoTower` brings what it is made of."""

    spec: ImageSpec
    """Evaluation-time preprocessing."""
    tokenizer: Tokenizer

    @property
    def is_compiled(self) -> bool:
        """Whether blocks are compiled when they train."""
        raise NotImplementedError

    @property
    def logit_scale(self) -> nn.Parameter:
        """Log of the inverse temperature."""
        raise NotImplementedError

    @property
    def device(self) -> torch.device:
        """The device of the parameters."""
        return self.logit_scale.device

    def encode_image(self, images: Float[Tensor, "batch 3 height width_px"]) -> Float[Tensor, "batch embed"]:
        """Image embeddings, not normalised, of pixels normalised by `spec`."""
        raise NotImplementedError

    def encode_text(
        self, tokens: Int[Tensor, "batch token"], lengths: Lengths | None = None
    ) -> Float[Tensor, "batch embed"]:
        """Text embeddings, not normalised."""
        raise NotImplementedError

    def text_lengths(self, tokens: Int[Tensor, "batch token"]) -> Lengths:
        """Columns of each caption that reach its embedding."""
        raise NotImplementedError

    def trim(self, tokens: Int[Tensor, "batch token"]) -> Int[Tensor, "batch short"]:
        """Cut the columns that no embedding depends on."""
        raise NotImplementedError

    @torch.inference_mode()
    def embed_uint8(self, images: UInt8[Tensor, "batch 3 height width_px"]) -> Float[Tensor, "batch embed"]:
        """L2-normalised image embeddings on the CPU, in evaluation mode; `images` come from `spec.to_uint8`."""
        with evaluating(self):
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
        return self.embed_tokens(self.tokenizer(texts))

    @torch.inference_mode()
    def embed_tokens(self, tokens: Int[Tensor, "batch token"]) -> Float[Tensor, "batch embed"]:
        """`embed_texts` of what `tokenizer` made of them."""
        with evaluating(self):
            parts = [(part, self.text_lengths(part)) for part in tokens.split(EMBED_CHUNK)]
            embeds = [self.encode_text(self.trim(part).to(self.device), lengths) for part, lengths in parts]
            return torch.cat([F.normalize(embed.float(), dim=-1).cpu() for embed in embeds])

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


@contextmanager
def evaluating(model: Embedder) -> Iterator[None]:
    """Evaluation mode inside, the former mode of every part afterwards: embedding must not switch off a training run."""
    training = [part for part in model.modules() if part.training]
    model.eval()
    # The last chunk of every data set is another shape, which would cost more to compile than to run.
    eager = torch.compiler.set_stance("force_eager") if model.is_compiled else nullcontext()
    try:
        with eager:
            yield
    finally:
        for part in training:
            part.training = True
