"""The run files that come with mmclip."""

from collections.abc import Iterable
from pathlib import Path

from mmclip.errors import UserError
from mmclip.near import did_you_mean

PRETRAIN = "pretrain"
"""The folder of recipes for training from nothing."""


def recipes(folder: str) -> dict[str, str]:
    """The recipes of a folder that come with mmclip: by name, the line that says what each does."""
    paths = sorted((_configs() / folder).glob("*.toml"), key=lambda path: path.stem)
    return {path.stem: path.read_text().splitlines()[0].lstrip("# ") for path in paths}


def run_file(word: str) -> Path:
    """The run file that a path, or the name of a packaged recipe for training from nothing, stands for.

    Raises:
        UserError: it is neither.
    """
    if word.endswith(".toml") or Path(word).is_file():
        return Path(word)
    known = recipes(PRETRAIN)
    if word in known:
        return packaged_config(f"{PRETRAIN}/{word}")
    if Path(word).exists():  # a folder, which its reader refuses in its own words
        return Path(word)
    raise UserError(
        f"{word}: no such recipe{meant(word, known)} expected the path of a run file (.toml), or one of "
        f"{', '.join(known)}"
    )


def meant(word: str, known: Iterable[str]) -> str:
    """The guess of a message: the run file that stands where the word points, or the recipe, that was probably meant."""
    path = Path(word)
    files = [str(file) for file in path.parent.glob("*.toml")]
    return did_you_mean(word, files, before=": ") or did_you_mean(path.name.lower(), known, before=": ") or ":"


def packaged_config(name: str) -> Path:
    """The path of `launch/configs/NAME.toml`, in a checkout or in an installed package.

    Raises:
        UserError: there is no such file.
    """
    path = _configs() / f"{name}.toml"
    if path.is_file():
        return path
    raise UserError(f"no packaged run file {name!r}: expected it in {path.parent}; reinstall mmclip")


def _configs() -> Path:
    """In a checkout, or in an installed package."""
    here = Path(__file__).parents[1]
    installed = here / "configs"
    return installed if installed.is_dir() else here.parent / "configs"
