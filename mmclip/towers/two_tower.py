"""`TwoTower`: an open_clip model with its preprocessing and its tokenizer, as one module."""

import math
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from copy import deepcopy
from dataclasses import replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from mmclip.batch import TowerOutput, ViewOutput
from mmclip.errors import UserError
from mmclip.preprocess import ImageSpec
from mmclip.tokenizer import Tokenizer
from mmclip.towers.architecture import check_context_length, check_model_cfg
from mmclip.towers.class_head import ClassHead
from mmclip.towers.embedding import Embedder, ZeroShotPrediction, evaluating
from mmclip.towers.settings import TowersConfig
from mmclip.towers.text_groups import Lengths

if TYPE_CHECKING:
    from mmclip.towers.abilities import TowerAbilities
    from mmclip.towers.frozen import FrozenPart, TowerName


class TwoTower(Embedder):
    """Image tower, text tower, scale and bias, over a model of open_clip whose parameter names it keeps.

    Raises:
        UserError: `model_cfg` does not describe a model that this open_clip can build.
    """

    def __init__(
        self, model_cfg: dict[str, Any], spec: ImageSpec | None = None, tokenizer: Tokenizer | None = None
    ) -> None:
        super().__init__()
        check_model_cfg(model_cfg, "model_cfg")
        from mmclip.towers.encoders import Encoders  # imports open_clip, which takes seconds

        self.model_cfg = deepcopy(model_cfg)
        """open_clip's table, saved as `open_clip_config.json`."""
        self._encoders = Encoders(self.model_cfg)
        self.backbone: Any = self._encoders.backbone
        """open_clip's own module: `state_dict` of this part is what stock open_clip loads."""
        self.spec = spec or ImageSpec.from_open_clip({}, self.backbone.visual.image_size)
        self.tokenizer = tokenizer or Tokenizer(self.model_cfg["text_cfg"])
        self.class_head: ClassHead | None = None
        """A classifier over named classes, where a run has made one."""

    @property
    def logit_scale(self) -> nn.Parameter:
        """Log of the inverse temperature, shape [1] (files hold a 0-d tensor, as open_clip's do)."""
        return self.backbone.logit_scale

    @property
    def logit_bias(self) -> nn.Parameter | None:
        """Added to every logit by the sigmoid loss; None where the model has none."""
        return self.backbone.logit_bias

    @property
    def preprocess(self) -> ImageSpec:
        """Evaluation-time preprocessing, under the name that open_clip's users look for."""
        return self.spec

    @property
    def settings(self) -> TowersConfig:
        """How the towers compute, and which parts learn; see `set_up`."""
        return self._encoders.settings

    @property
    def is_compiled(self) -> bool:
        """Whether blocks are compiled when they train; the `embed_*` methods run them as they are."""
        return self.settings.compile

    @property
    def abilities(self) -> "TowerAbilities":
        """What these towers can do, and why not what they cannot."""
        return self._encoders.abilities()

    @property
    def trims_text(self) -> bool:
        """Whether tokens behind a caption may be cut without changing an embedding."""
        return self._encoders.text.why_padded is None

    @property
    def image_grid(self) -> tuple[int, int] | None:
        """Rows and columns of patches, where the image tower has them."""
        return self._encoders.image_grid

    @property
    def patch_dropout(self) -> float:
        """Share of the patches that training drops: the setting, or the architecture's own."""
        return self._share(self.settings)

    def set_up(self, settings: TowersConfig) -> None:
        """Lock, compile and compute as `settings` say; once, before an optimizer is built.

        Raises:
            UserError: these towers cannot do what was asked for; the message holds the reason.
        """
        self._encoders.set_up(settings, self._share(settings))
        self.train(self.training)

    def plain_state(self) -> dict[str, Tensor]:
        """Weights under the names that stock code knows, adapters merged into them."""
        if self.settings.adapters is None:
            return self.backbone.state_dict()
        from mmclip.towers.lora import merged_state  # imports open_clip

        return merged_state(self.backbone)

    def merged(self) -> "TwoTower":
        """Towers of plain weights that embed as these do with their adapters; without adapters, these towers themselves."""
        if self.settings.adapters is None:
            return self
        with torch.random.fork_rng(devices=()):  # weights are drawn only to be replaced
            plain = TwoTower(self.model_cfg, self.spec, self.tokenizer)
        if self.logit_bias is not None and plain.logit_bias is None:
            plain.backbone.logit_bias = nn.Parameter(torch.zeros_like(self.logit_bias))
        plain.to(self.device, self.logit_scale.dtype)
        plain.backbone.load_state_dict(self.plain_state())
        plain.class_head = self.class_head
        return plain.eval()

    def train(self, mode: bool = True) -> "TwoTower":
        """As any module, but that locked parts stay in evaluation mode: their dropout and statistics rest."""
        super().train(mode)
        self._encoders.rest_locked_parts()
        return self

    def moving_batch_norms(self) -> list[str]:
        """Names of the batch norms whose statistics follow the batches of a training run."""
        return self._encoders.moving_batch_norms()

    def dropped_share(self, samples_seen: int, total_samples: int) -> float:
        """Share of the patches that the step after `samples_seen` drops: none in the un-masked tail of a run."""
        tail = self.settings.unmasked_tail * total_samples
        return 0.0 if samples_seen >= total_samples - tail else self.patch_dropout

    def encode_image(self, images: Float[Tensor, "batch 3 height width_px"]) -> Float[Tensor, "batch embed"]:
        """Image embeddings, not normalised, of pixels normalised by `spec`."""
        return self._encoders.encode_image(images)

    def encode_text(
        self, tokens: Int[Tensor, "batch token"], lengths: Lengths | None = None
    ) -> Float[Tensor, "batch embed"]:
        """Text embeddings, not normalised; `tokens` may be narrower than the context length.

        `lengths` are `text_lengths(tokens)`, taken while the tokens were on the host: without them a device is waited for.
        """
        return self._encoders.encode_text(tokens, lengths)

    def forward(
        self,
        images: UInt8[Tensor, "batch 3 height width_px"],
        tokens: Int[Tensor, "batch token"],
        lengths: Lengths | None = None,
        keys: Int[Tensor, " batch"] | None = None,
        dropped: float = 0.0,
        image_features: Float[Tensor, "batch feature"] | None = None,
        text_features: Float[Tensor, "batch text_feature"] | None = None,
        image_embed: Float[Tensor, "batch embed"] | None = None,
    ) -> TowerOutput:
        """Both embeddings of a batch of raw pixels and tokens, normalised in single precision or better.

        `lengths` are as in `encode_text`; `keys` (`ImageTextBatch.keys`) decide which patches a `dropped` share drops.
        `image_features` and `text_features` (`ImageTextBatch`) stand for what the frozen parts of the towers (`freeze`) make of
        pictures and captions: those then do not run. `image_embed` is what the pictures' embeddings are already.

        Raises:
            ValueError: patches are to be dropped, and there are no keys.
        """
        if dropped and keys is None:
            raise ValueError(f"dropped={dropped} without keys: which patches go is a function of the samples' keys")
        dtype = self.logit_scale.dtype
        with _attention_of(self.device):
            if image_embed is not None:
                pass
            elif image_features is not None:
                image_embed = self._encoders.embed_features("image", image_features.to(dtype))
            elif dropped and keys is not None:
                image_embed = self._encoders.encode_some_patches(images, keys, dropped, self.spec)
            else:
                image_embed = self.encode_image(self.spec.normalise(images, dtype))
            if text_features is not None:
                text_embed = self._encoders.embed_features("text", text_features.to(dtype))
            else:
                text_embed = self.encode_text(tokens, lengths)
        image_embed = F.normalize(image_embed.to(dtype), dim=-1)
        return TowerOutput(
            image_embed=image_embed,
            text_embed=F.normalize(text_embed.to(dtype), dim=-1),
            logit_scale=self.logit_scale.exp(),
            logit_bias=None if self.logit_bias is None else self.logit_bias.clone(),  # an output is no parameter
            class_logits=None if self.class_head is None else self.class_head(image_embed).to(dtype),
        )

    def encode_view(
        self,
        pixels: Float[Tensor, "batch 3 height width_px"],
        kept: Int[Tensor, "batch patch"] | None = None,
        *,
        embeds: bool = False,
        tokens: bool = False,
    ) -> ViewOutput:
        """What the image tower makes of pixels normalised by `spec`, of any size that it takes (`abilities.small_crops`).

        Only the patches `kept` are read, where they are given. `embeds` and `tokens` ask for more than the pooled features.
        """
        dtype = self.logit_scale.dtype
        with _attention_of(self.device):
            found = self._encoders.encode_view(pixels, kept, embeds, tokens)
        embed = None if found.embed is None else F.normalize(found.embed.to(dtype), dim=-1)
        return replace(found, pooled=found.pooled.to(dtype), embed=embed)

    @property
    def pooled_width(self) -> int:
        """Dimensions of what the image tower pools, before its projection."""
        width = self._encoders.image.pooled_width
        return width if width > 0 else int(self.model_cfg["embed_dim"])

    @property
    def patch_size(self) -> tuple[int, int] | None:
        """Height and width of a patch in pixels, where the image tower reads patches one by one."""
        height, width = self._encoders.image.patch_size
        return (height, width) if height else None

    def freeze(self, tower: "TowerName") -> "FrozenPart":
        """What of a tower stays as it is in this run; to be asked before features of it are.

        Raises:
            UserError: more than its head learns.
        """
        return self._encoders.freeze(tower, int(self.model_cfg["embed_dim"]))

    @property
    def frozen_parts(self) -> "Mapping[TowerName, FrozenPart]":
        """What was asked of `freeze`; a copy of the towers knows its own."""
        return MappingProxyType(self._encoders.frozen)

    @torch.inference_mode()
    def image_features(self, images: UInt8[Tensor, "batch 3 height width_px"]) -> Float[Tensor, "batch feature"]:
        """On the CPU, what the frozen part of the image tower makes of pictures from `spec.to_uint8`, in evaluation mode."""
        with evaluating(self):
            pixels = self.spec.normalise(images.to(self.device), self.logit_scale.dtype)
            return self._encoders.image_features(pixels).float().cpu()

    @torch.inference_mode()
    def text_features(self, tokens: Int[Tensor, "batch token"]) -> Float[Tensor, "batch feature"]:
        """The same of captions."""
        with evaluating(self):
            lengths = self.text_lengths(tokens)
            return self._encoders.text_features(self.trim(tokens).to(self.device), lengths).float().cpu()

    @torch.inference_mode()
    def embed_features(
        self, tower: "TowerName", features: Float[Tensor, "batch feature"]
    ) -> Float[Tensor, "batch embed"]:
        """L2-normalised embeddings on the CPU, of features of the frozen part of a tower."""
        with evaluating(self):
            given = features.to(self.device, self.logit_scale.dtype)
            return F.normalize(self._encoders.embed_features(tower, given).float(), dim=-1).cpu()

    def text_lengths(self, tokens: Int[Tensor, "batch token"]) -> Lengths:
        """Columns of each caption that reach its embedding, on the host: taken before the tokens go to a device."""
        return self._encoders.text.lengths(tokens)

    def trim(self, tokens: Int[Tensor, "batch token"]) -> Int[Tensor, "batch short"]:
        """Cut the columns that no embedding depends on; all of them stay where the tower reads its padding."""
        return tokens[:, : int(self.text_lengths(tokens).max())]

    def set_image_size(self, size: int | tuple[int, int]) -> dict[str, Tensor]:
        """Take pictures of another size from now on, as a resolution schedule does (CLIPA, RECLIP).

        The position embedding is interpolated as open_clip does at loading; `spec` follows. Its parameter is replaced, so
        an optimizer has to be built anew. Returns replaced parameters as they were, by their name in `backbone`.

        Raises:
            UserError: the image tower is bound to its size, or the size does not fit its patches.
        """
        pair = (size, size) if isinstance(size, int) else size
        before = self._encoders.resize_images(pair)
        self.model_cfg["vision_cfg"]["image_size"] = pair[0] if pair[0] == pair[1] else list(pair)
        self.spec = replace(self.spec, size=pair)
        return before

    def replace_image_tower(self, visual: nn.Module) -> None:
        """Take another module for pictures, which makes embeddings of normalised pixels."""
        self.backbone.visual = visual
        self._encoders.choose(self._encoders.text.context_length)

    def refuse_image_sizes(self, sizes: Sequence[tuple[int, int]]) -> None:
        """Try sizes out on a copy of the image tower.

        Raises:
            UserError: the tower is bound to its size, or one of them does not fit its patches.
        """
        self._encoders.refuse_sizes(sizes)

    def set_context_length(self, length: int) -> dict[str, Tensor]:
        """Take captions of another length from now on: positions are interpolated as open_clip does, the tokenizer follows.

        Returns replaced parameters as they were, by their name in `backbone`.

        Raises:
            UserError: the text tower has fewer positions.
        """
        check_context_length(length, "model.context_length")
        before = self._encoders.resize_context(length)
        self.model_cfg["text_cfg"]["context_length"] = length
        self.tokenizer = self.tokenizer.with_context_length(length)
        return before

    def _share(self, settings: TowersConfig) -> float:
        if settings.patch_dropout is not None:
            return settings.patch_dropout
        learns = not settings.lock_image or settings.unlocked_image_groups > 0
        return float(self.model_cfg["vision_cfg"].get("patch_dropout") or 0.0) if learns else 0.0


def _attention_of(device: torch.device) -> AbstractContextManager[Any]:
    """The kernel for blocks that are not ours: in bf16 on CPUs torch's fused one costs several times its plain one."""
    is_half = device.type == "cpu" and torch.is_autocast_enabled("cpu")
    return sdpa_kernel(SDPBackend.MATH) if is_half else nullcontext()


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


__all__ = ["TwoTower", "ZeroShotPrediction", "initial_log_scale"]
