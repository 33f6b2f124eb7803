"""transformers' CLIPModel: open_clip's own two transformers under other names."""

from typing import Any

from mmclip.errors import UserError
from mmclip.release.hf.key_map import Rule, affine, joined, same
from mmclip.release.hf.parts import (
    HF_ACTIVATIONS,
    activation,
    activation_of,
    activation_settings,
    common,
    epsilon_of,
    refuse,
    whole,
)

LEGACY_END = 2
"""transformers reads a caption of a model with this `eos_token_id` at its highest id (their pull request 24773)."""
FOLLOWED = {
    "vision_cfg": {"image_size", "layers", "width", "head_width", "mlp_ratio", "patch_size", "act_kwargs", "norm_kwargs"},
    "text_cfg": {
        "context_length", "vocab_size", "width", "heads", "layers", "mlp_ratio", "act_kwargs", "norm_kwargs", "pad_id",
        "eos_id", "pool_type", "hf_tokenizer_name", "tokenizer_kwargs",
    },
}  # fmt: skip
"""Keys of open_clip's tables that a CLIPModel can follow."""


def model_cfg_of(config: Any) -> dict[str, Any]:
    """open_clip's table of a `CLIPConfig`.

    Raises:
        UserError: a setting has no equal.
    """
    vision, text = config.vision_config, config.text_config
    words = activation(vision, "vision_config"), activation(text, "text_config")
    if words[0] != words[1] and "quick_gelu" in words:
        raise UserError(
            f"hidden_act is {vision.hidden_act!r} in vision_config and {text.hidden_act!r} in text_config: open_clip has "
            "QuickGELU in both towers or in none"
        )
    refuse("vision_config", num_channels=(vision.num_channels, 3))
    end = text.eos_token_id
    if not isinstance(end, int):
        raise UserError(f"text_config.eos_token_id={end!r} has no equal in open_clip: expected one id")
    highest = end in (LEGACY_END, text.vocab_size - 1)
    return {
        "embed_dim": config.projection_dim,
        "quick_gelu": words[0] == "quick_gelu",
        "vision_cfg": {
            **common(vision, "vision_config"),
            **activation_settings(words[0]),
            "head_width": vision.hidden_size // vision.num_attention_heads,
            "patch_size": whole(vision.patch_size, "vision_config.patch_size"),
            "image_size": whole(vision.image_size, "vision_config.image_size"),
        },
        "text_cfg": {
            **common(text, "text_config"),
            **activation_settings(words[1]),
            "heads": text.num_attention_heads,
            "context_length": text.max_position_embeddings,
            "vocab_size": text.vocab_size,
            **({} if highest else {"pool_type": "eos", "eos_id": end}),
        },
    }


def rules(model_cfg: dict[str, Any]) -> list[Rule]:
    """All weights of the model."""
    towers = (("vision_model", "visual.transformer", "vision_cfg"), ("text_model", "transformer", "text_cfg"))
    found = [
        same("logit_scale", "logit_scale", "scalar"),
        same("text_projection", "text_projection.weight", "transposed"),
        same("visual.proj", "visual_projection.weight", "transposed"),
        same("token_embedding.weight", "text_model.embeddings.token_embedding.weight"),
        same("positional_embedding", "text_model.embeddings.position_embedding.weight"),
        same("visual.class_embedding", "vision_model.embeddings.class_embedding"),
        same("visual.conv1.weight", "vision_model.embeddings.patch_embedding.weight"),
        same("visual.positional_embedding", "vision_model.embeddings.position_embedding.weight"),
        *affine("ln_final", "text_model.final_layer_norm"),
        *affine("visual.ln_pre", "vision_model.pre_layrnorm"),  # their spelling
        *affine("visual.ln_post", "vision_model.post_layernorm"),
    ]
    for theirs, ours, table in towers:
        for layer in range(model_cfg[table].get("layers", 12)):
            found += block_rules(f"{ours}.resblocks.{layer}", f"{theirs}.encoder.layers.{layer}")
    return found


def block_rules(ours: str, theirs: str) -> list[Rule]:
    """One block of open_clip's transformer."""
    parts = ("q_proj", "k_proj", "v_proj")
    return [
        *affine(f"{ours}.ln_1", f"{theirs}.layer_norm1"),
        *affine(f"{ours}.ln_2", f"{theirs}.layer_norm2"),
        *affine(f"{ours}.attn.out_proj", f"{theirs}.self_attn.out_proj"),
        *affine(f"{ours}.mlp.c_fc", f"{theirs}.mlp.fc1"),
        *affine(f"{ours}.mlp.c_proj", f"{theirs}.mlp.fc2"),
        *(
            joined([f"{ours}.attn.in_proj_{kind}"], [f"{theirs}.self_attn.{part}.{kind}" for part in parts])
            for kind in ("weight", "bias")
        ),
    ]


def config_of(model_cfg: dict[str, Any], end_id: int) -> Any:
    """The `CLIPConfig` of open_clip's table.

    Raises:
        UserError: a part of the architecture has no equal in `CLIPModel`.
    """
    from transformers import CLIPConfig

    vision, text = model_cfg["vision_cfg"], model_cfg["text_cfg"]
    refuse_others(model_cfg, FOLLOWED, "CLIPModel")
    if model_cfg.get("init_logit_bias") is not None:
        raise UserError("CLIPModel of transformers has no logit bias, and this model has one (init_logit_bias)")
    if text.get("pool_type", "argmax") not in ("argmax", "eos"):
        raise UserError(
            f"text_cfg.pool_type={text['pool_type']!r}: CLIPModel of transformers reads a caption at its end"
        )
    quick = bool(model_cfg.get("quick_gelu", False))
    width = vision.get("width", 768)
    end_id = text.get("eos_id", end_id) if text.get("pool_type") == "eos" else end_id
    return CLIPConfig(
        projection_dim=model_cfg["embed_dim"],
        vision_config={
            "hidden_size": width,
            "num_hidden_layers": vision.get("layers", 12),
            "num_attention_heads": width // vision.get("head_width", 64),
            "intermediate_size": int(width * vision.get("mlp_ratio", 4.0)),
            "hidden_act": HF_ACTIVATIONS[activation_of(vision, quick)],
            "layer_norm_eps": epsilon_of(vision),
            "patch_size": whole(vision.get("patch_size", 16), "vision_cfg.patch_size"),
            "image_size": whole(vision.get("image_size", 224), "vision_cfg.image_size"),
            "projection_dim": model_cfg["embed_dim"],
        },
        text_config={**text_config(text, quick), "eos_token_id": end_id, "projection_dim": model_cfg["embed_dim"]},
    )


def text_config(text: dict[str, Any], quick: bool) -> dict[str, Any]:
    """Settings of open_clip's own text tower in the words of transformers."""
    width = text.get("width", 512)
    return {
        "hidden_size": width,
        "num_hidden_layers": text.get("layers", 12),
        "num_attention_heads": text.get("heads", 8),
        "intermediate_size": int(width * text.get("mlp_ratio", 4.0)),
        "hidden_act": HF_ACTIVATIONS[activation_of(text, quick)],
        "layer_norm_eps": epsilon_of(text),
        "max_position_embeddings": text.get("context_length", 77),
        "vocab_size": text.get("vocab_size", 49408),
    }


def refuse_others(model_cfg: dict[str, Any], followed: dict[str, set[str]], kind: str) -> None:
    """Refuse settings that a model of transformers does not have; those that say nothing are let through.

    Raises:
        UserError: naming the first.
    """
    for part, names in followed.items():
        for name, value in model_cfg[part].items():
            if name not in names and value not in (None, False, 0, 0.0, "tok", "learnable", "linear"):
                raise UserError(f"{part}.{name}={value!r}: {kind} of transformers has no such part")
