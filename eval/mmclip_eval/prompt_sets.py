"""Templates that turn a class name into texts: packaged sets by name, or a file, or a list; never a silent fallback."""

import hashlib
import json
import re
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from mmclip.errors import UserError
from mmclip_eval.text_lines import Lines, read_lines

PLACEHOLDER = re.compile(r"\{c?\}")
"""Stands for the class name: CLIP_benchmark writes {c}, other lists write {}."""


@dataclass(frozen=True)
class PromptSet:
    """Templates and where they came from."""

    templates: tuple[str, ...]
    source: str

    def fill(self, class_name: str) -> list[str]:
        """One text per template; braces inside the class name stay as they are."""
        # One split, not one replace per spelling: a class name that itself holds "{}" must not be filled again.
        return [class_name.join(PLACEHOLDER.split(template)) for template in self.templates]

    @property
    def sha256(self) -> str:
        """Hash of the templates in order, equal wherever they came from."""
        return sha256_of(self.templates)


def sha256_of(texts: Sequence[str]) -> str:
    """SHA-256 of a list of texts, through its JSON form, so that ["ab"] and ["a", "b"] differ."""
    return hashlib.sha256(json.dumps(list(texts), ensure_ascii=False).encode()).hexdigest()


def load_prompts(choice: str | Lines | Sequence[str], where: str) -> PromptSet:
    """Read `choice`: the name of a packaged set, the path of a .txt (one a line) or .toml file, or the templates.

    Raises:
        UserError: nothing of that name, no template, or a template without a placeholder; `where` opens the message.
    """
    if isinstance(choice, Lines):
        return check_prompts(choice.lines, source=choice.source, where=choice.source)
    if not isinstance(choice, str):
        return check_prompts(choice, source="given in the configuration", where=where)
    if choice in packaged_sets():
        text = (files("mmclip_eval") / "prompts" / f"{choice}.toml").read_text(encoding="utf-8")
        return _from_toml(text, source=f"mmclip:{choice}", where=f"{where}: prompt set {choice}")
    path = Path(choice)
    if not path.is_file():
        known = ", ".join(packaged_sets())
        raise UserError(f"{where}: templates={choice!r} is neither a file nor one of the packaged sets: {known}")
    if path.suffix == ".toml":
        return _from_toml(path.read_text(encoding="utf-8"), source=str(path), where=str(path))
    if path.suffix == ".txt":
        return check_prompts(read_lines(path).lines, source=str(path), where=str(path))
    raise UserError(f"{where}: templates={choice!r}: expected a .txt file (one template a line) or a .toml file")


def packaged_sets() -> list[str]:
    """Names of the prompt sets that come with mmclip."""
    folder = files("mmclip_eval") / "prompts"
    return sorted(entry.name.removesuffix(".toml") for entry in folder.iterdir() if entry.name.endswith(".toml"))


def check_prompts(templates: Sequence[str], source: str, where: str) -> PromptSet:
    """Refuse an empty list and any template that would give every class the same text."""
    if not templates:
        raise UserError(f"{where}: no templates; expected at least one, such as 'a photo of a {{c}}.'")
    for template in templates:
        if not PLACEHOLDER.search(template):
            raise UserError(
                f"{where}: template {template!r} has no {{c}}: every class would get the same text; write {{c}} where "
                "the name belongs"
            )
    return PromptSet(templates=tuple(templates), source=source)


def _from_toml(text: str, source: str, where: str) -> PromptSet:
    try:
        table: dict[str, Any] = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UserError(f"{where}: not valid TOML: {error}") from error
    templates = table.get("templates")
    if set(table) != {"source", "templates"} or not isinstance(templates, list):
        raise UserError(f"{where}: expected exactly the keys `source` and `templates` (a list), got {sorted(table)}")
    if not all(isinstance(template, str) for template in templates):
        raise UserError(f"{where}: expected `templates` to be a list of strings")
    return check_prompts(templates, source=f"{source} ({table['source']})", where=where)
