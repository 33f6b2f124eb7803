"""Small models by name, chosen by measuring on two CPU cores; every one is a configuration that stock open_clip opens."""

from typing import Any


def _text(width: int, layers: int, context_length: int) -> dict[str, Any]:
    heads = max(1, width // 64)
    return {
        "context_length": context_length,
        "vocab_size": 49408,
        "width": width,
        "heads": heads,
        "layers": layers,
    }


def _vit(image_size: int, patch_size: int, width: int, layers: int) -> dict[str, Any]:
    return {
        "image_size": image_size,
        "patch_size": patch_size,
        "width": width,
        "layers": layers,
        "head_width": 32,
    }


def _timm(name: str, image_size: int) -> dict[str, Any]:
    return {"timm_model_name": name, "timm_pool": "avg", "timm_proj": "linear", "image_size": image_size}


PRESETS: dict[str, dict[str, Any]] = {
    # Learns fastest; its batch norms are synchronised on several ranks, and refused under accumulation.
    "tiny-resnet-48": {"embed_dim": 256, "vision_cfg": _timm("test_resnet", 48), "text_cfg": _text(128, 2, 24)},
    "tiny-resnet-32": {"embed_dim": 64, "vision_cfg": _timm("test_resnet", 32), "text_cfg": _text(64, 1, 16)},
    # Without batch norm: for several processes, and for tests that compare them.
    "tiny-vit-64": {"embed_dim": 128, "vision_cfg": _vit(64, 16, 128, 4), "text_cfg": _text(128, 2, 24)},
    "nano-vit-32": {"embed_dim": 32, "vision_cfg": _vit(32, 8, 64, 2), "text_cfg": _text(64, 1, 16)},
}
