"""`timm:NAME[@FILE]+hf:ID_OR_FOLDER[#key=value,...]`: two towers that were trained apart, joined by new projections."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar, get_args, get_type_hints

import torch
from pydantic import ValidationError

from mmclip.config import config
from mmclip.errors import UserError
from mmclip.release.pairs.image_tower import ImageTower, read_image_tower
from mmclip.release.pairs.text_tower import PARTS_OUTSIDE, POOLERS, TextTower, read_text_tower
from mmclip.tokenizer import Tokenizer
from mmclip.towers.own_keys import HF_CONFIG
from mmclip.towers.tokens import refuse_other_tokenizer
from mmclip.towers.two_tower import TwoTower

GRAMMAR = "timm:NAME[@FILE]+hf:ID_OR_FOLDER[#key=value,...]"
PROJECTIONS = ("linear", "mlp", "none")


@config
class PairOptions:
    """What stands behind `#`."""

    embed_dim: int | None = None
    """Numbers of an embedding; by default as many as the text tower gives."""
    image_proj: str = "linear"
    """Between the image tower and the embedding: linear, mlp or none."""
    text_proj: str = "linear"
    """Between the text tower and the embedding: linear, mlp or none."""
    pooler: str | None = None
    """mean, cls or pooled; by default what the folder records, else mean."""
    context_length: int | None = None
    """Tokens of a caption; by default what the folder records."""
    image_size: int | None = None
    """Side of the pictures in pixels; by default what timm records."""
    seed: int = 0
    """Of the new projections."""

    def __post_init__(self) -> None:
        for name in ("image_proj", "text_proj"):
            if getattr(self, name) not in PROJECTIONS:
                raise UserError(f"{name}={getattr(self, name)}: expected one of {', '.join(PROJECTIONS)}")
        for name in ("embed_dim", "context_length", "image_size"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UserError(f"{name}={value}: expected at least 1")


def load_pair(rest: str) -> TwoTower:
    """The model of a pair; its projections are drawn from `seed`, everything else is the towers' own.

    Raises:
        UserError: the string is no pair, or a tower cannot be had.
    """
    image_name, file, text_name, options = parsed(rest, PairOptions)
    image = read_image_tower(image_name, file, options.image_size)
    text = read_text_tower(text_name, options.pooler, options.context_length)
    return join(image, text, options)


Options = TypeVar("Options")


def parsed(rest: str, kind: type[Options]) -> tuple[str, Path | None, str, Options]:
    """The image model, its file, the text encoder and the options, whose fields are those of `kind`.

    Raises:
        UserError: the string is no pair, or an option is unknown.
    """
    match = re.fullmatch(r"(?P<image>[^@+]+)(?:@(?P<file>.+?))?\+hf:(?P<text>.+?)(?:#(?P<options>\w+=[^#]*))?", rest)
    if match is None:
        raise UserError(f"'timm:{rest}' is no pair of towers: expected {GRAMMAR}")
    file = Path(match["file"]) if match["file"] else None
    return match["image"], file, match["text"], _options(match["options"] or "", kind)


def _options(words: str, kind: type[Options]) -> Options:
    kinds = {name: get_args(kind) or (kind,) for name, kind in get_type_hints(kind).items()}
    given: dict[str, Any] = {}
    for word in filter(None, words.split(",")):
        name, _, value = word.partition("=")
        if name not in kinds:
            raise UserError(f"#{word}: expected one of {', '.join(kinds)}")
        try:
            given[name] = int(value) if int in kinds[name] else value
        except ValueError as error:
            raise UserError(f"#{word}: expected an integer") from error
    try:
        return kind(**given)
    except ValidationError as error:  # pydantic wraps what a check of ours says
        raise UserError(error.errors()[0]["msg"].removeprefix("Value error, ")) from error


def join(image: ImageTower, text: TextTower, options: PairOptions) -> TwoTower:
    """One model of two towers.

    Raises:
        UserError: their weights, widths or tokenizer do not fit together.
    """
    embed_dim = options.embed_dim or text.width
    for tower, width, projection in (
        ("image", image.features, options.image_proj),
        ("text", text.width, options.text_proj),
    ):
        if projection == "none" and width != embed_dim:
            raise UserError(
                f"{tower}_proj=none, but the {tower} tower gives {width} numbers and embed_dim={embed_dim}: "
                "make them equal, or take a linear projection"
            )
    if options.image_proj == "none" and not image.pool:
        raise UserError(
            f"image_proj=none, and timm's {image.timm_name} does not say how it pools: take a linear projection"
        )
    text_cfg = {
        "hf_model_name": text.name,
        "hf_tokenizer_name": text.name,
        "hf_pooler_type": POOLERS[text.pooler],
        "hf_proj_type": None if options.text_proj == "none" else options.text_proj,
        "context_length": text.context_length,
        HF_CONFIG: text.config,
    }
    size = image.spec.size
    model_cfg = {
        "embed_dim": embed_dim,
        "custom_text": True,
        "vision_cfg": {
            "timm_model_name": image.timm_name,
            "timm_pool": image.pool,
            "timm_proj": options.image_proj,
            "image_size": size[0] if size[0] == size[1] else list(size),
        },
        "text_cfg": text_cfg,
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(options.seed)
        model = TwoTower(model_cfg, image.spec, Tokenizer(text_cfg, text.folder))
    fill_part(model.backbone.visual.trunk, image.tensors, (f"{image.classifier}.",), f"timm:{image.timm_name}")
    fill_part(model.backbone.text.transformer, _own_names(text.tensors, text.config), PARTS_OUTSIDE, f"hf:{text.name}")
    refuse_other_tokenizer(model.tokenizer, model_cfg["text_cfg"], f"hf:{text.name}")
    return model


def _own_names(tensors: Mapping[str, torch.Tensor], config: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """Without the model's own prefix (`bert.`), which files of models with a head of pre-training have."""
    prefix = str(config["model_type"]).replace("xlm-", "") + "."
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}


def fill_part(part: torch.nn.Module, tensors: Mapping[str, torch.Tensor], outside: tuple[str, ...], where: str) -> None:
    """Load everything but what belongs `outside`, strictly."""
    state = part.state_dict()
    given = {name: tensor for name, tensor in tensors.items() if name in state or not _is_outside(name, outside)}
    counters = [name for name in state.keys() - given.keys() if name.endswith("num_batches_tracked")]
    given |= {name: state[name] for name in counters}  # files of before torch 0.4.1 have none, and nothing reads them
    missing, unknown = sorted(state.keys() - given.keys()), sorted(given.keys() - state.keys())
    wrong = [name for name in state.keys() & given.keys() if state[name].shape != given[name].shape]
    if missing or unknown or wrong:
        found = [
            *(f"it lacks {missing[0]} ({len(missing)} in all)" for _ in missing[:1]),
            *(f"it has an unknown {unknown[0]} ({len(unknown)} in all)" for _ in unknown[:1]),
            *(
                f"{name} should have shape {list(state[name].shape)} and has {list(given[name].shape)}"
                for name in wrong[:1]
            ),
        ]
        raise UserError(f"{where}: the weights are of another model: {'; '.join(found)}")
    part.load_state_dict(given)


def _is_outside(name: str, outside: tuple[str, ...]) -> bool:
    return name.startswith(outside) or name.endswith("position_ids")
