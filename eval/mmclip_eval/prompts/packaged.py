"""Prompt sets and class names that come with mmclip, by name and language, each with its source and licence.

prompts/sets/imagenet1k.toml       in English
prompts/sets/imagenet1k.ja.toml    in Japanese
prompts/names/imagenet1k.toml      class names, in the order of the labels
"""

import tomllib
from importlib.resources import files
from typing import Any, Literal

from mmclip.errors import UserError

ENGLISH = "en"
OTHER_SPELLINGS = {"cn": "zh", "jp": "ja"}
"""Codes that CLIP_benchmark uses, by those of ISO 639."""
Kind = Literal["sets", "names"]
WHAT = {"sets": "prompt set", "names": "list of class names"}


def packaged(kind: Kind) -> list[str]:
    """What there is, by name."""
    return sorted(_languages(kind))


def packaged_sets() -> list[str]:
    """Names of the prompt sets that come with mmclip."""
    return packaged("sets")


def read_packaged(kind: Kind, name: str, language: str, where: str) -> dict[str, Any]:
    """The table of one of them.

    Raises:
        UserError: it is not there in that language.
    """
    languages = _languages(kind)[name]
    code = OTHER_SPELLINGS.get(language, language)
    if code not in languages:
        raise UserError(
            f"{where}: the {WHAT[kind]} {name!r} does not come in language {language!r}; there are "
            f"{', '.join(sorted(languages))}: take one of them, or a file of your own"
        )
    tail = "" if code == ENGLISH else f".{code}"
    return tomllib.loads((_folder(kind) / f"{name}{tail}.toml").read_text(encoding="utf-8"))


def _languages(kind: Kind) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for entry in _folder(kind).iterdir():
        if entry.name.endswith(".toml"):
            name, _, language = entry.name.removesuffix(".toml").partition(".")
            found.setdefault(name, set()).add(language or ENGLISH)
    return found


def _folder(kind: Kind) -> Any:
    return files("mmclip_eval") / "prompts" / kind
