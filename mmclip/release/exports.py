"""Weights out: a folder that stock open_clip opens as `local-dir:`, checked against it before anybody can see it."""

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from mmclip.envelope import MANIFEST, publish, sha256, verify
from mmclip.errors import UserError
from mmclip.release.sources import load, model_folder
from mmclip.towers.two_tower import TwoTower
from mmclip.towers.weights import CONFIG_FILE, RAW_WEIGHTS_FILE, WEIGHTS_FILE, is_averaged, save_weights
from mmclip.training.checkpoint import STATE_FILE

TOLERANCE = 1e-5
"""Largest difference between an embedding of ours and stock open_clip's, both of length 1."""

CHECK_TEXTS = ("a cat", "two dogs on a red sofa", "RÉSUMÉ: 3,141 apples & pears!", "x")


@dataclass(frozen=True)
class Exported:
    """What was written, and what is known of it."""

    folder: Path
    weights_sha256: str
    source_sha256: str | None
    """Of the weights file that was read; None for weights of open_clip's registry."""
    difference: float | None
    """Largest difference to stock open_clip on the fixed batch; None where nobody looked."""


Describe = Callable[[TwoTower, Exported], Mapping[str, str]]
"""Text files to add, by name, such as a model card."""


def export(
    source: str | Path,
    folder: Path,
    *,
    force: bool = False,
    ask_open_clip: bool = True,
    raw: bool = False,
    describe: Describe | None = None,
) -> Exported:
    """Write the towers of `source` (see `load`) to `folder`: weights, configuration, tokenizer, and nothing of the training.

    The folder appears whole and sealed by a manifest, or not at all. `force` replaces an earlier export;
    `ask_open_clip` compares with stock open_clip before that; `raw` takes the weights themselves of a run that averages them.

    Raises:
        UserError: the source does not load, something else stands at `folder`, or open_clip embeds differently.
    """
    check_target(folder, force)
    model, source_sha256 = _loaded(str(source), raw)
    written: list[Exported] = []

    def write(temporary: Path) -> None:
        save_weights(model, temporary)
        # safetensors writes for its owner alone; an export is for others.
        (temporary / WEIGHTS_FILE).chmod((temporary / CONFIG_FILE).stat().st_mode)
        difference = difference_to_open_clip(model, temporary) if ask_open_clip else None
        written.append(Exported(folder, sha256(temporary / WEIGHTS_FILE), source_sha256, difference))
        texts = describe(model, written[0]) if describe else {}
        for name, text in texts.items():
            (temporary / name).write_text(text, encoding="utf-8")

    try:
        publish(folder, write)
    except BaseException:
        shutil.rmtree(folder.parent / f".tmp-{folder.name}", ignore_errors=True)
        raise
    return written[0]


def check_target(folder: Path, force: bool) -> None:
    """Refuse a place where something else stands; `force` allows an earlier export there.

    Raises:
        UserError: saying what stands there.
    """
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        raise UserError(f"{folder} is a {'link' if folder.is_symlink() else 'file'}: give a folder that does not exist")
    if not folder.exists() or not any(folder.iterdir()):
        return
    problem = _no_export(folder)
    if problem:
        raise UserError(
            f"{folder} exists and {problem}: give another folder; --force replaces what `mmclip export` wrote, nothing else"
        )
    if not force:
        raise UserError(f"{folder} already holds an export: give another folder, or --force to replace it")


def difference_to_open_clip(model: TwoTower, folder: Path) -> float:
    """Open `folder` with stock open_clip and compare both towers on a fixed batch; returns the largest difference.

    Raises:
        UserError: open_clip cannot open it, or the difference is over `TOLERANCE`.
    """
    import open_clip

    images = _pictures()
    try:
        stock, _, transform = open_clip.create_model_and_transforms(f"local-dir:{folder}")
        tokenizer = open_clip.get_tokenizer(f"local-dir:{folder}")
    except (OSError, RuntimeError, ValueError, ImportError, AttributeError, TypeError) as error:
        reason = " ".join(str(error).split())[:300]
        raise UserError(
            f"stock open_clip does not open the export ({type(error).__name__}: {reason}); nothing was written. "
            "--no-verify writes it without asking open_clip"
        ) from error
    tower: Any = stock.eval()
    with torch.inference_mode():
        pixels = torch.stack([torch.as_tensor(transform(image)) for image in images])  # pyright: ignore
        image_embed = tower.encode_image(pixels, normalize=True)
        text_embed = tower.encode_text(tokenizer(list(CHECK_TEXTS)), normalize=True)
    pairs = ((model.embed_images(images), image_embed), (model.embed_texts(CHECK_TEXTS), text_embed))
    difference = max(float((ours - theirs).abs().max()) for ours, theirs in pairs)
    if not all(bool(torch.isfinite(ours).all()) for ours, _ in pairs):
        raise UserError("the weights give embeddings that are not finite: export an earlier checkpoint")
    if not difference <= TOLERANCE:
        raise UserError(
            f"stock open_clip embeds differently by {difference:.3g}, over {TOLERANCE:g}; nothing was written. "
            "--no-verify writes it all the same"
        )
    return difference


def _loaded(source: str, raw: bool) -> tuple[TwoTower, str | None]:
    if source.startswith("open_clip:"):
        return load(source), None
    folder = model_folder(source.removeprefix("local-dir:"))
    if (folder / STATE_FILE).is_file():  # a checkpoint is sealed; other folders need not be
        verify(folder)
    weights = folder / (RAW_WEIGHTS_FILE if raw and is_averaged(folder) else WEIGHTS_FILE)
    return load(folder, raw=raw), sha256(weights) if weights.is_file() else None


def _no_export(folder: Path) -> str | None:
    """Why `folder` is not exactly what an export wrote; None where it is."""
    try:
        listed = set(json.loads((folder / MANIFEST).read_text())["files"])
    except (OSError, ValueError, KeyError, TypeError):
        return f"is no export (it has no readable {MANIFEST})"
    if not {CONFIG_FILE, WEIGHTS_FILE} <= listed or STATE_FILE in listed:
        return "is no export, but a training checkpoint" if STATE_FILE in listed else "is no export"
    present = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_symlink() or not path.is_dir()}
    others = sorted(present - listed - {MANIFEST})
    return f"holds what no export wrote ({', '.join(others[:3])})" if others else None


def _pictures() -> list[Image.Image]:
    """Four pictures of different shapes, the same on every machine."""
    noise = np.random.default_rng(0)
    shapes = ((64, 64), (48, 80), (90, 40), (224, 224))
    small = [noise.integers(0, 256, (height // 8, width // 8, 3), dtype=np.uint8) for height, width in shapes]
    return [
        Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC)
        for pixels, (height, width) in zip(small, shapes, strict=True)
    ]
