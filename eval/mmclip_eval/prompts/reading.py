"""Prompts and class names as a configuration names them: packaged ones, files, lists; never a silent fallback."""

import json
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from mmclip.errors import UserError
from mmclip.near import did_you_mean
from mmclip_eval.prompts.packaged import ENGLISH, OTHER_SPELLINGS, packaged, read_packaged
from mmclip_eval.prompts.prompt_set import PLACEHOLDER, PromptSet, templates_of
from mmclip_eval.text_lines import Lines, read_lines

GIVEN = "given in the configuration"
Names = Sequence[str | Sequence[str]]
"""A class is a name, or several that mean the same."""


@dataclass(frozen=True)
class ClassNames:
    """The names of each class, and where they came from."""

    classes: tuple[tuple[str, ...], ...]
    source: str
    notes: tuple[str, ...] = ()


def load_prompts(
    choice: str | Sequence[str] | Lines, where: str, language: str = ENGLISH, dataset: str | None = None
) -> PromptSet:
    """Read `choice`: the name of a packaged set, a .txt, .toml or .json file, or the templates themselves (of one, its text).

    A .json file is CLIP_benchmark's (`{dataset: [templates]}`, or `{dataset: {class: [texts]}}`) or CuPL's
    (`{class: [texts]}`); `FILE.json:KEY` names one of its data sets, else it must have one alone, or one called `dataset`.

    Raises:
        UserError: nothing of that name or in that language, no template, or one without a placeholder.
    """
    if isinstance(choice, Lines):
        return templates_of(choice.lines, source=choice.source, where=choice.source)
    if not isinstance(choice, str):
        return templates_of(choice, source=GIVEN, where=where)
    if choice in packaged("sets"):
        table = read_packaged("sets", choice, language, where)
        return _from_table(table, f"mmclip:{choice}", where, language)
    if PLACEHOLDER.search(choice) and not choice.endswith((".txt", ".toml", ".json")):
        return templates_of([choice], source=GIVEN, where=where)
    path, key = _file_of(choice, "templates", "prompt sets", packaged("sets"), where)
    if path.suffix == ".toml":
        return _from_table(_toml(path), str(path), str(path), language)
    if path.suffix == ".json":
        return _from_json(path, key, dataset)
    if path.suffix == ".txt":
        return templates_of(read_lines(path).lines, source=str(path), where=str(path))
    raise UserError(f"{where}: templates={choice!r}: expected a .txt file (one template a line), .toml or .json")


def load_class_names(
    choice: str | Names | Lines,
    where: str,
    language: str = ENGLISH,
    dataset: str | None = None,
    given: str = GIVEN,
) -> ClassNames:
    """Read `choice`: the name of packaged ones, a .txt (one a line), .toml or .json file, or the names themselves.

    A class with several names (a list in place of a name) is told to the model with each of them. `given` says where names
    come from that are handed over themselves.

    Raises:
        UserError: nothing of that name or in that language, fewer than two classes, or a blank name.
    """
    notes: tuple[str, ...] = ()
    if isinstance(choice, Lines):
        names, source, notes = choice.lines, choice.source, choice.notes
    elif not isinstance(choice, str):
        names, source = choice, given
    elif choice in packaged("names"):
        table = read_packaged("names", choice, language, where)
        # As published: CLEVR's middle distance has no name there, and its prompt is "shapes." alone.
        return ClassNames(tuple((name,) for name in table["class_names"]), f"mmclip:{choice} ({table['source']})")
    else:
        path, key = _file_of(choice, "class_names", "lists", packaged("names"), where)
        source = choice
        if path.suffix == ".json":
            names = _entry(_json(path), key, dataset, path) if key or isinstance(_json(path), dict) else _json(path)
        elif path.suffix == ".toml":
            table = _toml(path)
            _same_language(table, language, str(path))
            names = table.get("class_names")
        else:
            lines = read_lines(path)
            names, notes = lines.lines, lines.notes
    return ClassNames(_checked_names(names, f"{where}: class names from {source}"), source, notes)


def _checked_names(names: Any, where: str) -> tuple[tuple[str, ...], ...]:
    if not isinstance(names, list | tuple):
        raise UserError(f"{where}: expected a list of names, got {names!r:.80}")
    classes = tuple((entry,) if isinstance(entry, str) else tuple(entry) for entry in names)
    flat = [name for entry in classes for name in entry]
    if len(classes) == 1 and len(flat) > 1:  # what several words behind one flag become
        raise UserError(
            f"{where}: {flat[:5]} are several names of one class: write one name, or one list of names, for each class; behind "
            "a flag give a file with a name a line"
        )
    sound = all(isinstance(name, str) and name.strip() for name in flat) and all(classes)
    if len(classes) < 2 or not sound:
        raise UserError(
            f"{where}: expected at least 2 classes, and no blank name, got {list(names)[:5]}; set class_names to all that a "
            "picture may show"
        )
    return classes


def _file_of(choice: str, field: str, things: str, known: Sequence[str], where: str) -> tuple[Path, str | None]:
    """The file, and the key behind a colon."""
    name, colon, key = choice.rpartition(":")
    if colon and not Path(choice).is_file() and Path(name).is_file():
        return Path(name), key
    if Path(choice).is_file():
        return Path(choice), None
    guess = did_you_mean(choice, known, after=" ")
    raise UserError(
        f"{where}: {field}={choice!r} is neither a file nor one of the packaged {things}: {guess}{', '.join(known)}"
    )


def _from_table(table: Mapping[str, Any], source: str, where: str, language: str) -> PromptSet:
    templates = table.get("templates")
    if not {"source", "templates"} <= set(table) <= {"source", "templates", "license", "language"}:
        raise UserError(
            f"{where}: expected the keys `source` and `templates` (a list), and `license` and `language` if you like, "
            f"got {sorted(table)}"
        )
    if not isinstance(templates, list) or not all(isinstance(template, str) for template in templates):
        raise UserError(f"{where}: expected `templates` to be a list of strings")
    _same_language(table, language, where)
    return templates_of(templates, f"{source} ({table['source']})", where, table.get("license"))


def _same_language(table: Mapping[str, Any], language: str, where: str) -> None:
    found = table.get("language", language)
    if OTHER_SPELLINGS.get(found, found) != OTHER_SPELLINGS.get(language, language):
        raise UserError(f"{where}: is in language {found!r}, and the data set's is {language!r}: set language to it")


def _from_json(path: Path, key: str | None, dataset: str | None) -> PromptSet:
    content = _json(path)
    if not isinstance(content, dict) or not content:
        raise UserError(f"{path}: expected an object, of data sets or of classes, got {content!r:.80}")
    by_class = all(_is_texts(value) for value in content.values())
    placeholders = {bool(PLACEHOLDER.search(text)) for texts in content.values() for text in texts if by_class}
    if by_class and len(placeholders) == 2:
        _mixed(path, content)
    if by_class and placeholders == {False}:  # CuPL's own form, which knows no data sets
        if key is not None:
            raise UserError(f"{path}: holds texts by class, and no data set {key!r}: leave {':' + key!r} out")
        return PromptSet(str(path), texts_of={name: tuple(texts) for name, texts in content.items()})
    found: Any = _entry(content, key, dataset, path)
    source = f"{path}:{key or dataset}" if len(content) > 1 or key else str(path)
    if isinstance(found, dict) and found and all(_is_texts(texts) for texts in found.values()):
        return PromptSet(source, texts_of={name: tuple(texts) for name, texts in found.items()})
    if not _is_texts(found) or isinstance(found, dict):
        raise UserError(f"{source}: expected a list of templates, or texts by class, got {found!r:.80}")
    return templates_of(found, source, source)


def _entry(content: Any, key: str | None, dataset: str | None, path: Path) -> Any:
    """The entry of one data set."""
    if not isinstance(content, dict):
        raise UserError(f"{path}: expected an object by data set, got {content!r:.80}")
    if key is None and len(content) == 1:
        return next(iter(content.values()))
    name = key if key is not None else dataset
    if name in content:
        return content[name]
    raise UserError(
        f"{path}: no data set {name!r}; there are {', '.join(list(content)[:40])}: name one behind a colon, such as "
        f"{path.name}:{next(iter(content))}"
    )


def _is_texts(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(text, str) for text in value)


def _mixed(path: Path, content: Mapping[str, Sequence[str]]) -> NoReturn:
    with_one = next(name for name, texts in content.items() if any(map(PLACEHOLDER.search, texts)))
    without = next(t for texts in content.values() for t in texts if not PLACEHOLDER.search(t))
    raise UserError(
        f"{path}: {with_one!r} has a template with {{c}}, and the text {without!r} has none: expected templates by data "
        "set, each with {c}, or texts by class, each without"
    )


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path}: not valid JSON: {error}") from error


def _toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path}: not valid TOML: {error}") from error
