"""Which emoji count as variants of one concept, and that the split follows concepts."""

import json
from pathlib import Path

import pytest

from mmclip.errors import UserError
from mmclip_data.pipelines.emoji_concepts import HELD_OUT_SHARE, base_concept, is_held_out, read_concepts


@pytest.mark.parametrize(
    "variants",
    [
        ("woman running", "man running", "person running", "woman running facing right"),
        ("man", "woman", "person", "boy", "man red hair", "woman bald", "person beard", "older person", "baby"),
        ("family", "family man, woman, girl, boy", "family adult, child"),
        ("couple with heart", "couple with heart woman, man"),
        ("kiss", "kiss man, man"),
        ("santa claus", "mrs. claus", "mx claus"),
        ("mermaid", "merman", "merperson"),
        ("men holding hands", "woman and man holding hands", "people holding hands"),
        ("farmer", "man farmer", "woman farmer"),
        ("red heart", "green heart", "light blue heart"),
        ("white small square", "black large square", "red square", "white medium-small square"),
        ("left-facing fist", "right-facing fist"),
        ("backhand index pointing up", "backhand index pointing left"),
        ("one o'clock", "twelve-thirty"),
        ("keycap #", "keycap 10"),
        ("mouse", "mouse face"),
        ("baby chick", "front-facing baby chick"),
    ],
)
def test_variants_of_one_drawing_share_a_base_concept(variants: tuple[str, ...]) -> None:
    assert len({base_concept(name) for name in variants}) == 1


def test_different_things_do_not_share_one() -> None:
    names = ["kiss", "kiss mark", "pizza", "hot dog", "dog", "horse racing", "horse", "blue book", "books", "red apple"]
    assert len({base_concept(name) for name in names}) == len(names)
    assert base_concept("red") == "red", "a name of nothing but variant words stays, it is not a person"


def test_the_held_out_share_is_close_to_what_it_says_and_fixed() -> None:
    held_out = sum(is_held_out(f"concept {number}") for number in range(20_000)) / 20_000
    assert abs(held_out - HELD_OUT_SHARE) < 0.01
    assert [is_held_out(name) for name in ("volcano", "taco", "person", "running")] == [True, True, False, False]


def write_packages(folder: Path, names: dict[str, str]) -> tuple[Path, Path, Path]:
    """The three JSON files that concepts are read from, for emoji given as character: name."""
    (folder / "dist").mkdir(parents=True)
    entries = [
        {"name": name.upper(), "unified": f"{ord(character):04X}-FE0F", "category": "Objects", "subcategory": "tool"}
        for character, name in names.items()
    ]
    flag = {"name": "NO FLAG", "unified": "1F1F3-1F1F4", "category": "Flags", "subcategory": "country-flag"}
    (folder / "emoji.json").write_text(json.dumps([*entries, flag]))
    (folder / "data-by-emoji.json").write_text(json.dumps({c: {"name": n.title()} for c, n in names.items()}))
    keywords = {character: ["big_tool", name, "Work", "work"] for character, name in names.items()}
    (folder / "dist" / "emoji-en-US.json").write_text(json.dumps(keywords))
    return folder, folder, folder


def test_concepts_join_the_packages_by_code_points_without_variation_selectors(tmp_path: Path) -> None:
    concepts, left_out = read_concepts(*write_packages(tmp_path, {"\u2692": "hammer and pick", "\U0001fa93": "axe"}))
    assert [(c.code_points, c.name) for c in concepts] == [("1fa93", "axe"), ("2692", "hammer and pick")]
    assert concepts[0].keywords == ("big tool", "work")
    assert concepts[0].captions()[0] == "axe"
    assert all("axe" in caption or "big tool" in caption for caption in concepts[0].captions())
    assert left_out == {"flag or component": ("no flag",)}


def test_two_emoji_of_one_name_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="the first is 'axe': 2692, 1fa93"):
        read_concepts(*write_packages(tmp_path, {"\u2692": "axe", "\U0001fa93": "axe"}))
