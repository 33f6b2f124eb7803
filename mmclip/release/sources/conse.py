"""`conse:timm:NAME[@FILE]+hf:ID_OR_FOLDER[#key=value,...]`: the line that a trained pair of towers must beat."""

from typing import Any

from torch import nn

from mmclip.config import config
from mmclip.errors import UserError
from mmclip.release.pairs.image_tower import ImageTower, read_image_tower
from mmclip.release.pairs.text_tower import read_text_tower
from mmclip.release.sources.pair import PairOptions, fill_part, join, parsed
from mmclip.towers.conse import ConvexCombination
from mmclip.towers.own_keys import CONSE
from mmclip.towers.two_tower import TwoTower

GRAMMAR = "conse:timm:NAME[@FILE]+hf:ID_OR_FOLDER[#key=value,...]"


@config
class ConseOptions:
    """What stands behind `#`."""

    top: int = 10
    """Classes that a picture is made of, the likeliest first; the paper's T."""
    template: str = "{}"
    """What the text tower is told of a class, {} being its name."""
    pooler: str | None = None
    """As of a pair."""
    context_length: int | None = None
    """As of a pair."""
    image_size: int | None = None
    """As of a pair."""

    def __post_init__(self) -> None:
        if not 1 <= self.top <= 1000:
            raise UserError(f"#top={self.top}: expected 1 to 1000 classes of ImageNet")
        if "{}" not in self.template:
            raise UserError(f"#template={self.template}: expected a place for the name of a class, {{}}")


def load_conse(rest: str) -> TwoTower:
    """A model of a classifier on ImageNet-1k and a text tower.

    Raises:
        UserError: the string names no such pair, a tower cannot be had, or the image tower has no classifier of 1,000 classes.
    """
    if not rest.startswith("timm:"):
        raise UserError(f"'conse:{rest}' is no pair of towers: expected {GRAMMAR}")
    image_name, file, text_name, options = parsed(rest.removeprefix("timm:"), ConseOptions)
    image = read_image_tower(image_name, file, options.image_size)
    text = read_text_tower(text_name, options.pooler, options.context_length)
    model = join(image, text, PairOptions(text_proj="none")).eval()
    names = class_names()
    embeds = model.embed_texts([options.template.replace("{}", name) for name in names])
    visual = model.backbone.visual
    tower = ConvexCombination(_classifier(image, len(names)), embeds, options.top, visual.image_size)
    model.model_cfg[CONSE] = {"top": options.top, "template": options.template}
    model.replace_image_tower(tower)
    return model


def class_names() -> list[str]:
    """Those of ImageNet-1k in the order of its classes, as CLIP's authors cleaned them."""
    from open_clip import IMAGENET_CLASSNAMES

    return list(IMAGENET_CLASSNAMES)


def _classifier(image: ImageTower, classes: int) -> nn.Module:
    import timm

    where = f"conse:timm:{image.timm_name}"
    model: Any = timm.create_model(image.timm_name, pretrained=False)
    weight = image.tensors.get(f"{image.classifier}.weight")
    if weight is None:
        raise UserError(f"{where}: the file has no classifier, which ConSE takes its classes from: take another file")
    if len(weight) != classes:
        raise UserError(f"{where}: the classifier has {len(weight):,} classes: expected the {classes:,} of ImageNet-1k")
    fill_part(model, image.tensors, (), where)
    return model
