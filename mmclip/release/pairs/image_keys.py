"""Names of image weights in other people's files, converted to timm's: one converter a layout."""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from torch import Tensor

from mmclip.errors import UserError

Tensors = Mapping[str, Tensor]


@dataclass(frozen=True)
class ImageLayout:
    """How a library names the weights of an image tower, and what else its files imply."""

    name: str
    """As messages and records name it."""
    recognises: Callable[[Tensors], bool]
    """Whether a file is in this layout, told by its names."""
    convert: Callable[[Tensors, list[str]], dict[str, Tensor]]
    """To timm's names, of which the second argument holds those of the tower, in the order of its modules."""
    models: re.Pattern[str]
    """timm's models that compute what the library's own does; the wrong padding or epsilon would differ in silence."""
    mean: tuple[float, float, float] | None = None
    """Per channel, where the library's models were trained otherwise than timm's of that name."""
    std: tuple[float, float, float] | None = None


def layout_of(tensors: Tensors, timm_name: str, expected: Iterable[str], where: str) -> ImageLayout:
    """The layout of a file's names.

    Raises:
        UserError: it is unknown, or timm's model of that name computes otherwise than the library that wrote the file.
    """
    own = set(expected) & tensors.keys()
    if len(own) * 2 > len(tensors):
        return TIMM
    found = next((layout for layout in LAYOUTS if layout.recognises(tensors)), None)
    if found is None:
        raise UserError(
            f"{where}: names such as {next(iter(tensors))!r} are in no known layout: expected those of timm's {timm_name}, "
            f"or of {', '.join(layout.name for layout in LAYOUTS)}"
        )
    if not found.models.fullmatch(timm_name.partition(".")[0]):
        raise UserError(
            f"{where} is in the layout of {found.name}, whose models timm's {timm_name} does not compute: expected a name "
            f"like {found.models.pattern}"
        )
    return found


def _torchvision_mobilenet(tensors: Tensors, expected: list[str]) -> dict[str, Tensor]:
    """`features.N.conv.*`, in torchvision's present nesting or in the flat one of before 0.3."""
    flat = "features.1.conv.3.weight" in tensors
    first = ("0", "1", "3", "4") if flat else ("0.0", "0.1", "1", "2")
    other = ("0", "1", "3", "4", "6", "7") if flat else ("0.0", "0.1", "1.0", "1.1", "2", "3")
    blocks = blocks_in_order(expected)
    names = {"features.0.0": "conv_stem", "features.0.1": "bn1", "classifier.1": "classifier"}
    names |= {f"features.{len(blocks) + 1}.0": "conv_head", f"features.{len(blocks) + 1}.1": "bn2"}
    for number, (block, parts) in enumerate(blocks.items(), start=1):
        theirs = first if len(parts) == len(first) else other
        names |= {f"features.{number}.conv.{their}": f"{block}.{our}" for their, our in zip(theirs, parts, strict=True)}
    return renamed(tensors, names)


def _efficientnet_lite(tensors: Tensors, expected: list[str]) -> dict[str, Tensor]:
    """`_blocks.N._depthwise_conv` and so on."""
    wide = ("_expand_conv", "_bn0", "_depthwise_conv", "_bn1", "_project_conv", "_bn2")
    names = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2", "_fc": "classifier"}
    for number, (block, parts) in enumerate(blocks_in_order(expected).items()):
        theirs = wide[-len(parts) :]
        names |= {f"_blocks.{number}.{their}": f"{block}.{our}" for their, our in zip(theirs, parts, strict=True)}
    return renamed(tensors, names)


def blocks_in_order(expected: list[str]) -> dict[str, list[str]]:
    """Parts of each of timm's blocks (`blocks.STAGE.NUMBER`), both in the order of its modules."""
    found: dict[str, list[str]] = {}
    for name in expected:
        match = re.fullmatch(r"(blocks\.\d+\.\d+)\.(\w+)\.\w+", name)
        if match and match[2] not in found.setdefault(match[1], []):
            found[match[1]].append(match[2])
    return found


def renamed(tensors: Tensors, names: Mapping[str, str]) -> dict[str, Tensor]:
    """With the module of each name replaced; an unknown one stays as it is, and is refused when the tower is filled."""
    out = {}
    for name, tensor in tensors.items():
        module, _, parameter = name.rpartition(".")
        out[f"{names.get(module, module)}.{parameter}"] = tensor
    return out


TIMM = ImageLayout("timm", lambda tensors: False, lambda tensors, expected: dict(tensors), re.compile(".*"))
LAYOUTS = (
    ImageLayout(
        "torchvision's MobileNetV2",
        lambda tensors: "features.0.0.weight" in tensors and "features.1.conv.0.0.weight" in tensors,
        _torchvision_mobilenet,
        re.compile(r"mobilenetv2_\d+"),
    ),
    ImageLayout(
        "torchvision's MobileNetV2 of before 0.3",
        lambda tensors: "features.0.0.weight" in tensors and "features.1.conv.3.weight" in tensors,
        _torchvision_mobilenet,
        re.compile(r"mobilenetv2_\d+"),
    ),
    ImageLayout(
        "efficientnet_lite_pytorch",
        lambda tensors: "_conv_stem.weight" in tensors and "_blocks.0._depthwise_conv.weight" in tensors,
        _efficientnet_lite,
        re.compile(r"tf_efficientnet_lite\d"),
        mean=(127 / 255, 127 / 255, 127 / 255),
        std=(128 / 255, 128 / 255, 128 / 255),
    ),
)
"""The tower's own names (timm's) are tried before these."""
