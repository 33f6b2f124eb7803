"""transformers' SiglipModel (SigLIP, and SigLIP 2 of fixed resolution): timm's image tower, open_clip's text tower."""

from typing import Any

from mmclip.errors import UserError
from mmclip.release.hf.clip import block_rules, refuse_others, text_config
from mmclip.release.hf.key_map import Rule, affine, joined, same
from mmclip.release.hf.parts import (
    HF_ACTIVATIONS,
    activation,
    activation_settings,
    common,
    mlp_ratio,
    refuse,
    whole,
)
from mmclip.towers.own_keys import TIMM_SIZES

TIMM_EPSILON = 1e-6
BASE = "vit_base_patch16_siglip_224"
"""The name from which towers of other sizes are built."""
STOCK = {
    (768, 12, 12, 3072, 16, "gelu"): ("vit_base_patch16_siglip", (224, 256, 384, 512)),
    (768, 12, 12, 3072, 32, "gelu_tanh"): ("vit_base_patch32_siglip", (256,)),
    (1024, 24, 16, 4096, 16, "gelu"): ("vit_large_patch16_siglip", (256, 384)),
    (1024, 24, 16, 4096, 16, "gelu_tanh"): ("vit_large_patch16_siglip", (512,)),
    (1152, 27, 16, 4304, 14, "gelu"): ("vit_so400m_patch14_siglip", (224, 378, 384)),
    (1152, 27, 16, 4304, 16, "gelu_tanh"): ("vit_so400m_patch16_siglip", (256, 384, 512)),
    (1536, 40, 16, 6144, 16, "gelu_tanh"): ("vit_giantopt_patch16_siglip", (256, 384)),
}
"""Width, layers, heads, width between, patch size and activation, and timm's name with the sizes that it is built for."""
FOLLOWED = {
    "vision_cfg": {"timm_model_name", "timm_pool", "timm_proj", "image_size", TIMM_SIZES},
    "text_cfg": {
        "context_length", "vocab_size", "width", "heads", "layers", "mlp_ratio", "act_kwargs", "norm_kwargs", "pad_id",
        "eos_id", "pool_type", "no_causal_mask", "proj_bias", "hf_tokenizer_name", "tokenizer_kwargs",
    },
}  # fmt: skip


def model_cfg_of(config: Any) -> dict[str, Any]:
    """open_clip's table of a `SiglipConfig`.

    Raises:
        UserError: a setting has no equal.
    """
    vision, text = config.vision_config, config.text_config
    refuse("vision_config", num_channels=(vision.num_channels, 3), vision_use_head=(vision.vision_use_head, True))
    refuse("text_config", projection_size=(text.projection_size, vision.hidden_size))
    word = activation(text, "text_config")
    return {
        "embed_dim": vision.hidden_size,
        "init_logit_bias": -10,
        "custom_text": True,
        "quick_gelu": word == "quick_gelu",
        "vision_cfg": _vision_cfg(vision),
        "text_cfg": {
            **common(text, "text_config"),
            **activation_settings(word),
            "heads": text.num_attention_heads,
            "context_length": text.max_position_embeddings,
            "vocab_size": text.vocab_size,
            "no_causal_mask": True,
            "proj_bias": True,
            "pool_type": "last",
        },
    }


def _vision_cfg(vision: Any) -> dict[str, Any]:
    """By timm's name where it has this very tower, so that stock open_clip builds it; else with its sizes written out."""
    refuse("vision_config", layer_norm_eps=(vision.layer_norm_eps, TIMM_EPSILON))
    refuse("vision_config", attention_dropout=(float(vision.attention_dropout), 0.0))
    word = activation(vision, "vision_config")
    size = whole(vision.image_size, "vision_config.image_size")
    patch = whole(vision.patch_size, "vision_config.patch_size")
    shape = (vision.hidden_size, vision.num_hidden_layers, vision.num_attention_heads, vision.intermediate_size, patch)
    name, sizes = STOCK.get((*shape, word), (None, ()))
    tower = {"timm_pool": "map", "timm_proj": "none", "image_size": size}
    if name is not None and size in sizes:
        return {"timm_model_name": f"{name}_{size}", **tower}
    own = {
        "patch_size": patch,
        "embed_dim": vision.hidden_size,
        "depth": vision.num_hidden_layers,
        "num_heads": vision.num_attention_heads,
        "mlp_ratio": mlp_ratio(vision.intermediate_size, vision.hidden_size),
        "act_layer": word,
    }
    return {"timm_model_name": BASE, **tower, TIMM_SIZES: own}


def rules(model_cfg: dict[str, Any]) -> list[Rule]:
    """All weights of the model."""
    trunk, vision, head = "visual.trunk", "vision_model", "vision_model.head"
    pool = f"{trunk}.attn_pool"
    found = [
        same("logit_scale", "logit_scale", "scalar"),
        same("logit_bias", "logit_bias", "scalar"),
        same("text.token_embedding.weight", "text_model.embeddings.token_embedding.weight"),
        same("text.positional_embedding", "text_model.embeddings.position_embedding.weight"),
        *affine("text.ln_final", "text_model.final_layer_norm"),
        *affine("text.text_projection", "text_model.head"),
        *affine(f"{trunk}.patch_embed.proj", f"{vision}.embeddings.patch_embedding"),
        same(f"{trunk}.pos_embed", f"{vision}.embeddings.position_embedding.weight", "row of one"),
        *affine(f"{trunk}.norm", f"{vision}.post_layernorm"),
        same(f"{pool}.latent", f"{head}.probe"),
        *(
            Rule({f"{pool}.q.{kind}": 1, f"{pool}.kv.{kind}": 2}, {f"{head}.attention.in_proj_{kind}": 3})
            for kind in ("weight", "bias")
        ),
        *affine(f"{pool}.proj", f"{head}.attention.out_proj"),
        *affine(f"{pool}.norm", f"{head}.layernorm"),
        *affine(f"{pool}.mlp.fc1", f"{head}.mlp.fc1"),
        *affine(f"{pool}.mlp.fc2", f"{head}.mlp.fc2"),
    ]
    for layer in range(model_cfg["text_cfg"].get("layers", 12)):
        found += block_rules(f"text.transformer.resblocks.{layer}", f"text_model.encoder.layers.{layer}")
    for layer in range(tower_shape(model_cfg["vision_cfg"])[1]):
        found += _timm_block_rules(f"{trunk}.blocks.{layer}", f"{vision}.encoder.layers.{layer}")
    return found


def _timm_block_rules(ours: str, theirs: str) -> list[Rule]:
    parts = ("q_proj", "k_proj", "v_proj")
    return [
        *affine(f"{ours}.norm1", f"{theirs}.layer_norm1"),
        *affine(f"{ours}.norm2", f"{theirs}.layer_norm2"),
        *affine(f"{ours}.attn.proj", f"{theirs}.self_attn.out_proj"),
        *affine(f"{ours}.mlp.fc1", f"{theirs}.mlp.fc1"),
        *affine(f"{ours}.mlp.fc2", f"{theirs}.mlp.fc2"),
        *(
            joined([f"{ours}.attn.qkv.{kind}"], [f"{theirs}.self_attn.{part}.{kind}" for part in parts])
            for kind in ("weight", "bias")
        ),
    ]


def tower_shape(vision_cfg: dict[str, Any]) -> tuple[int, int, int, int, int, str]:
    """Width, layers, heads, width between, patch size and activation of the image tower.

    Raises:
        UserError: it is none of SigLIP's.
    """
    own = vision_cfg.get(TIMM_SIZES)
    if own:
        width = own["embed_dim"]
        between = int(width * own["mlp_ratio"])
        return width, own["depth"], own["num_heads"], between, own["patch_size"], own["act_layer"]
    name, _, size = str(vision_cfg.get("timm_model_name", "")).partition(".")[0].rpartition("_")
    for shape, (stock, sizes) in STOCK.items():
        if name == stock and size.isdecimal() and int(size) in sizes:
            return shape
    raise UserError(f"vision_cfg.timm_model_name={vision_cfg.get('timm_model_name')!r}: SiglipModel has no such tower")


def config_of(model_cfg: dict[str, Any]) -> Any:
    """The `SiglipConfig` of open_clip's table.

    Raises:
        UserError: a part of the architecture has no equal in `SiglipModel`.
    """
    from transformers import SiglipConfig

    vision, text = model_cfg["vision_cfg"], model_cfg["text_cfg"]
    width, layers, heads, between, patch, word = tower_shape(vision)
    refuse_others(model_cfg, FOLLOWED, "SiglipModel")
    wanted = {"no_causal_mask": True, "proj_bias": True, "pool_type": "last"}
    for name, value in wanted.items():
        if text.get(name) != value:
            raise UserError(f"text_cfg.{name}={text.get(name)!r}: the text tower of SiglipModel has {value!r}")
    if (vision.get("timm_pool"), vision.get("timm_proj")) != ("map", "none"):
        raise UserError(
            "vision_cfg: SiglipModel pools by attention (timm_pool = map) and projects no more (timm_proj = none)"
        )
    quick = bool(model_cfg.get("quick_gelu", False))
    return SiglipConfig(
        vision_config={
            "hidden_size": width,
            "num_hidden_layers": layers,
            "num_attention_heads": heads,
            "intermediate_size": between,
            "patch_size": patch,
            "image_size": whole(vision["image_size"], "vision_cfg.image_size"),
            "hidden_act": HF_ACTIVATIONS[word],
            "layer_norm_eps": TIMM_EPSILON,
        },
        text_config={**text_config(text, quick), "projection_size": model_cfg["embed_dim"]},
    )
