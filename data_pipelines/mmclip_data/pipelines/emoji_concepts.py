"""What an emoji shows, apart from how it is drawn: its name, its keywords, and the concept that its variants share."""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmclip.errors import UserError

LEFT_OUT_CATEGORIES = ("Flags", "Component")
HELD_OUT_SHARE = 0.15
MAX_KEYWORDS = 12

# Words that tell variants of one drawing apart: a concept is unseen only if none of its variants was seen.
PEOPLE = "man men woman women person people boy boys girl girls child children adult adults baby old older"
HAIR = "hair haired curly bald beard blond"
DIRECTIONS = "left right up down upper lower leftwards rightwards upwards downwards facing front pointing"
COLOURS = "red orange yellow green blue light purple brown black white grey pink"
SIZES = "small medium large big"
FILLERS = "face and with in of the a s"  # "mouse face" shows a mouse
VARIANT_WORDS = frozenset(f"{PEOPLE} {HAIR} {DIRECTIONS} {COLOURS} {SIZES} {FILLERS}".split())
GROUPS = (
    (re.compile(r"^family\b"), "family"),
    (re.compile(r"^kiss(?! mark)\b"), "kiss"),
    (re.compile(r"^keycap\b"), "keycap"),
    (re.compile(r"^\w+([- ]o'clock|-thirty)$"), "clock time"),
    (re.compile(r"^mer(maid|man|person)$"), "merperson"),
    (re.compile(r"^(prince|princess)$"), "prince"),
    (re.compile(r"^(santa|mrs\.?|mx\.?) claus$"), "claus"),
)
QUOTES = str.maketrans("\u2019\u201c\u201d", '\'""')  # to those on a keyboard


@dataclass(frozen=True)
class Concept:
    """One emoji without skin tone; `code_points` is the lower-case hex name without variation selectors."""

    code_points: str
    name: str
    category: str
    subcategory: str
    keywords: tuple[str, ...]

    @property
    def base_concept(self) -> str:
        return base_concept(self.name)

    @property
    def held_out(self) -> bool:
        return is_held_out(self.base_concept)

    def captions(self) -> list[str]:
        """The name, the name with keywords, keywords alone, and templates; every one holds the name or its keywords."""
        captions = [self.name, f"an emoji of {self.name}", f"a small drawing of {self.name}", f"{self.name} icon"]
        if self.keywords:
            captions.append(f"{self.name}, {', '.join(self.keywords[:2])}")
            captions.append(", ".join(self.keywords[:4]))
        if len(self.keywords) > 2:
            captions.append(f"{self.name}: {', '.join(self.keywords[2:5])}")
        return captions


def base_concept(name: str) -> str:
    """What is left of a name without gender, age, hair, direction, colour and size; variants of one drawing share it.

    A name of nothing else ("man: red hair") is a person, or, without a word for one, stays as it is.
    """
    for pattern, group in GROUPS:
        if pattern.search(name):
            return group
    words = re.findall(r"[^\W_]+", name)
    kept = [word for word in words if word not in VARIANT_WORDS]
    if kept:
        return " ".join(kept)
    return "person" if set(words) & set(PEOPLE.split()) else name


def is_held_out(base: str) -> bool:
    """Whether a base concept is kept from training: a fixed hash of it, so that a new emoji moves no other."""
    return int.from_bytes(hashlib.sha256(base.encode()).digest()[:8], "big") < HELD_OUT_SHARE * 2**64


def normal_code_points(text: str) -> str:
    """Lower-case hex without variation selector 16, which the packages set differently."""
    return text.lower().replace("-fe0f", "")


def read_concepts(datasource: Path, names: Path, keywords: Path) -> tuple[list[Concept], dict[str, tuple[str, ...]]]:
    """The concepts of `emoji-datasource-*` in the order of their code points, and what is left out, by reason.

    Names come from `unicode-emoji-json`, keywords from `emojilib`.

    Raises:
        UserError: a concept has no name, or two have the same.
    """
    entries = json.loads((datasource / "emoji.json").read_text())
    name_of = _by_code_points(json.loads((names / "data-by-emoji.json").read_text()))
    keywords_of = _by_code_points(json.loads((keywords / "dist" / "emoji-en-US.json").read_text()))
    left_out = tuple(entry["name"].lower() for entry in entries if entry["category"] in LEFT_OUT_CATEGORIES)
    concepts: list[Concept] = []
    for entry in entries:
        if entry["category"] in LEFT_OUT_CATEGORIES:
            continue
        code_points = normal_code_points(entry["unified"])
        if code_points not in name_of:
            raise UserError(f"emoji {code_points} ({entry['name']}) has no name in {names}; use the pinned versions")
        name = name_of[code_points]["name"].lower().translate(QUOTES)
        words = _keywords(keywords_of.get(code_points, []), name)
        concepts.append(Concept(code_points, name, entry["category"], entry["subcategory"], words))
    _refuse_equal_names(concepts)
    return sorted(concepts, key=lambda concept: concept.code_points), {"flag or component": left_out}


def _by_code_points(table: dict[str, Any]) -> dict[str, Any]:
    return {normal_code_points("-".join(f"{ord(character):04x}" for character in key)): table[key] for key in table}


def _keywords(raw: Iterable[str], name: str) -> tuple[str, ...]:
    words = (word.replace("_", " ").lower().translate(QUOTES).strip() for word in raw)
    return tuple(dict.fromkeys(word for word in words if word and word != name))[:MAX_KEYWORDS]


def _refuse_equal_names(concepts: list[Concept]) -> None:
    twice = [name for name, count in Counter(concept.name for concept in concepts).items() if count > 1]
    if twice:
        codes = [concept.code_points for concept in concepts if concept.name == twice[0]]
        raise UserError(
            f"{len(twice)} emoji names stand for several emoji, the first is {twice[0]!r}: {', '.join(codes)}"
        )
