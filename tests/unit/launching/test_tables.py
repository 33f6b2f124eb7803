from dataclasses import field
from pathlib import Path
from typing import Annotated, Literal

import pytest
from pydantic import Field

from mmclip.config import config
from mmclip.errors import UserError
from mmclip_launch.run.tables import from_table, read_toml, to_toml, union_paths


@config
class Circle:
    """A union's first member."""

    type: Literal["circle"] = "circle"
    radius: float = 1.0


@config
class Square:
    """A union's second member."""

    type: Literal["square"] = "square"
    side: float = 1.0
    corners: tuple[str, ...] = ()


@config
class Drawing:
    """A table with a nested union."""

    name: str
    count: int = 1
    ink: Literal["red", "green", "blue"] = "red"
    shape: Annotated[Circle | Square, Field(discriminator="type")] = field(default_factory=Circle)
    note: str | None = None
    more: tuple[Circle, ...] = ()


def load(text: str, tmp_path: Path) -> Drawing:
    path = tmp_path / "drawing.toml"
    path.write_text(text)
    return from_table(Drawing, read_toml(path), path.name)


def test_lists_become_tuples_and_whole_numbers_floats(tmp_path: Path):
    drawing = load('name = "a"\nshape = { type = "square", side = 2, corners = ["x", "y"] }', tmp_path)
    assert drawing.shape == Square(side=2.0, corners=("x", "y"))


FAULTS = {
    "unknown key": ('name = "a"\ncuont = 2', r"cuont: unknown key; did you mean 'count'\? known keys: name, count"),
    "unknown nested key": (
        'name = "a"\nshape = { type = "circle", radios = 2.0 }',
        r"shape.radios: unknown key; did you mean 'radius'\? known keys: type, radius$",
    ),
    "unknown key in a list": (
        'name = "a"\nmore = [{ radus = 1.0 }]',
        r"more.0.radus: unknown key; did you mean 'radius'",
    ),
    "wrong type": ('name = "a"\ncount = "7"', r"count: expected a valid integer, got '7'"),
    "fraction for a whole number": ('name = "a"\ncount = 7.5', r"count: expected a valid integer.*got 7.5"),
    "wrong nested type": (
        'name = "a"\nshape = { type = "circle", radius = "big" }',
        r"shape.radius: expected a valid number, got 'big'",
    ),
    "wrong union name": (
        'name = "a"\nshape = { type = "cirle" }',
        r"shape.type: expected one of circle, square, got 'cirle'; did you mean 'circle'\?",
    ),
    "union without a name": ('name = "a"\nshape = { radius = 2.0 }', r"shape: the table needs a key 'type'"),
    "wrong choice": (
        'name = "a"\nink = "gren"',
        r"ink: expected 'red', 'green' or 'blue', got 'gren'; did you mean 'green'\?",
    ),
    "missing key": ("count = 3", r"name: required key is missing"),
}


@pytest.mark.parametrize(("text", "message"), FAULTS.values(), ids=FAULTS.keys())
def test_each_mistake_is_one_line_with_the_fix(text: str, message: str, tmp_path: Path):
    with pytest.raises(UserError, match=message) as caught:
        load(text, tmp_path)
    assert str(caught.value).startswith("drawing.toml: ")
    assert "\n" not in str(caught.value)


def test_several_mistakes_are_all_told(tmp_path: Path):
    with pytest.raises(UserError) as caught:
        load('nme = "a"\ncount = "7"', tmp_path)
    assert len(str(caught.value).splitlines()) == 3


def test_broken_toml_names_the_line(tmp_path: Path):
    with pytest.raises(UserError, match=r"not valid TOML.*line 2"):
        load('name = "a"\ncount = = 2', tmp_path)


def test_missing_file_names_its_neighbours(tmp_path: Path):
    (tmp_path / "siglip.toml").write_text("")
    with pytest.raises(UserError, match=r"siglib.toml: no such file; nearest in .*: siglip.toml"):
        read_toml(tmp_path / "siglib.toml")


def test_written_table_loads_back_to_an_equal_object(tmp_path: Path):
    drawing = Drawing(name='ä "quoted"', shape=Square(side=0.1, corners=("x",)), more=(Circle(radius=1e-7), Circle()))
    assert load(to_toml(drawing), tmp_path) == drawing


def test_unions_are_found_by_path():
    assert union_paths(Drawing) == {"shape": {"circle": Circle, "square": Square}}
