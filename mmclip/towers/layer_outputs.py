"""What each layer of a tower gives: of every block the pooled token and the mean of its tokens, and the embedding.

Layers are transformer blocks; of a network that makes maps of features they are its stages, each with its mean over positions.
A tower of neither kind has what it pools and its embedding alone.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float, Int, UInt8
from open_clip.modified_resnet import ModifiedResNet
from open_clip.timm_model import TimmModel
from torch import Tensor, nn

from mmclip.towers.blocks import blocks_of, image_tower, text_tower
from mmclip.towers.embedding import EMBED_CHUNK, evaluating
from mmclip.towers.frozen import TowerName
from mmclip.towers.image import StockImage
from mmclip.towers.layer_taps import Seen, Tap
from mmclip.towers.pooled_tokens import pooled_image_token, pooled_text_tokens, text_tokens
from mmclip.towers.text import unsort_captions
from mmclip.towers.two_tower import TwoTower

PROBED = 2
"""Rows of the run that finds the layers: one would not tell an axis of rows from another of length 1."""


@dataclass(frozen=True)
class LayerOutputs:
    """Of a batch, layer by layer; not normalised, fp32, on the CPU."""

    names: tuple[str, ...]
    """`block 1 pooled`, `block 1 mean`, ..., or `stage 1 mean`, ...; at last `embedding`."""
    outputs: tuple[Float[Tensor, "batch _"], ...]
    """The last is bit for bit what `encode_image` or `encode_text` gives."""


@dataclass(frozen=True)
class _Run:
    """One run of a tower: what its layers gave, and what came out, all in the order in which it ran."""

    seen: Seen
    out: dict[str, Tensor]
    back: Callable[[Tensor], Tensor] = field(default=lambda rows: rows)
    """Puts the rows that layers gave into the order of the batch."""

    def outputs(self, tap: Tap) -> LayerOutputs:
        found: dict[str, Tensor] = {}
        for layer in range(len(tap.layers)):
            for what, parts in (("pooled", self.seen.pooled), ("mean", self.seen.means)):
                if layer in parts:
                    found[f"{tap.word} {layer + 1} {what}"] = self.back(torch.cat(parts[layer]))
        found |= self.out
        return LayerOutputs(tuple(found), tuple(output.float().cpu() for output in found.values()))


class LayerRecorder:
    """Runs the towers of a model and keeps what their layers give.

    `pooled` is the class token, or the token that a caption is read at; a tower that pools in another way has means alone. A
    mean is over all tokens of a picture, its class token among them, and over those of a caption that are no padding.
    """

    def __init__(self, towers: TwoTower) -> None:
        self.towers = towers
        self._encoders = towers._encoders
        self._image, of_image = _first_heard(_image_taps(towers.backbone), self._blank_pictures)
        self._text, of_text = _first_heard([Tap("block", blocks_of(text_tower(towers.backbone)))], self._blank_captions)
        self._probed: dict[TowerName, LayerOutputs] = {"image": of_image, "text": of_text}

    def names(self, tower: TowerName) -> tuple[str, ...]:
        """What `images` or `texts` give, in their order."""
        return self._probed[tower].names

    def widths(self, tower: TowerName) -> tuple[int, ...]:
        """Their dimensions."""
        return tuple(output.shape[1] for output in self._probed[tower].outputs)

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Several threads may run the towers within; one alone need not ask for it."""
        with self._image.open(), self._text.open():
            yield

    def images(self, images: UInt8[Tensor, "batch 3 height width_px"]) -> LayerOutputs:
        """Of pictures from `spec.to_uint8`, in evaluation mode."""
        return self._run_images(images, self._image).outputs(self._image)

    def texts(self, tokens: Int[Tensor, "batch token"]) -> LayerOutputs:
        """Of captions as the tokenizer gives them, in evaluation mode."""
        chunks = tokens.split(EMBED_CHUNK)  # as `TwoTower.embed_tokens` does
        parts = [self._run_texts(chunk, self._text).outputs(self._text) for chunk in chunks]
        joined = zip(*(part.outputs for part in parts), strict=True)
        return LayerOutputs(parts[0].names, tuple(torch.cat(outputs) for outputs in joined))

    @torch.inference_mode()
    def _run_images(self, images: Tensor, tap: Tap) -> _Run:
        towers, token = self.towers, pooled_image_token(self.towers.backbone)
        columns = None if token is None else torch.full((len(images),), token, device=towers.device)
        with evaluating(towers), tap.hearing(Seen(columns)) as seen:
            pixels = towers.spec.normalise(images.to(towers.device), towers.logit_scale.dtype)
            if tap.layers or isinstance(self._encoders.image, StockImage):  # which hands out its embedding alone
                return _Run(seen, {"embedding": towers.encode_image(pixels)})
            found = self._encoders.encode_view(pixels, None, embeds=True, tokens=False)
        assert found.embed is not None, "it was asked for"
        return _Run(seen, {"pooled": found.pooled, "embedding": found.embed})

    @torch.inference_mode()
    def _run_texts(self, tokens: Tensor, tap: Tap) -> _Run:
        towers, encoder = self.towers, self._encoders.text
        lengths, short = towers.text_lengths(tokens), towers.trim(tokens).to(towers.device)
        ordered, plan = encoder.arrange(short, lengths, towers.settings.text_groups, self._encoders.work)
        places = pooled_text_tokens(encoder, ordered), text_tokens(encoder, ordered, towers.tokenizer.pad_id)
        with evaluating(towers), tap.hearing(Seen(*places)) as seen:
            embed = towers.encode_text(short, lengths)
        return _Run(seen, {"embedding": embed}, lambda rows: unsort_captions(rows, plan))

    def _blank_pictures(self, tap: Tap) -> _Run:
        size = self.towers.spec.size
        return self._run_images(torch.zeros(PROBED, 3, *size, dtype=torch.uint8), tap)

    def _blank_captions(self, tap: Tap) -> _Run:
        word = (self.towers.tokenizer.pad_id or 0) + 1  # any token that is no padding
        return self._run_texts(torch.full((PROBED, self._encoders.text.context_length), word), tap)


def _image_taps(backbone: Any) -> list[Tap]:
    """What the layers of an image tower may be, the likeliest first."""
    visual = image_tower(backbone)
    trunk = getattr(visual, "trunk", None)
    channels_last = getattr(trunk, "output_fmt", None) == "NHWC"
    return [Tap("block", blocks_of(visual)), Tap("stage", stages_of(visual), channels_last)]


def stages_of(visual: nn.Module) -> list[nn.Module]:
    """The stages of an image tower that makes maps of features; none where they are not known by name."""
    if isinstance(visual, ModifiedResNet):
        return [visual.layer1, visual.layer2, visual.layer3, visual.layer4]
    if not isinstance(visual, TimmModel):
        return []
    trunk: Any = visual.trunk
    parts = dict(trunk.named_modules())
    names = [stage["module"] for stage in getattr(trunk, "feature_info", None) or ()]
    return [parts[name] for name in names if name in parts]


def _first_heard(taps: Sequence[Tap], run: Callable[[Tap], _Run]) -> tuple[Tap, LayerOutputs]:
    """The first tap of sound layers, else one of none, and what was heard of it."""
    for tap in taps:
        if tap.layers and _is_sound(tap, (found := run(tap)).seen):
            return tap, found.outputs(tap)
    silent = Tap("block", ())
    return silent, run(silent).outputs(silent)


def _is_sound(tap: Tap, seen: Seen) -> bool:
    """Whether each layer has run once, on all rows: blocks by name may be another thing's, or share their weights."""
    whole = all(seen.rows(layer) == PROBED for layer in range(len(tap.layers)))
    return whole and (tap.word == "stage" or not seen.has_maps)
