"""A prompt set: templates that a class name is put into, or the texts of each class."""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mmclip.errors import UserError
from mmclip.near import nearest

PLACEHOLDER = re.compile(r"\{c?\}")
"""Stands for the class name: CLIP_benchmark writes {c}, other lists write {}."""
LISTED_TEMPLATES = 200
"""Templates that a result file lists; of a longer set it has the hash."""


@dataclass(frozen=True)
class PromptSet:
    """Texts about classes, and where they came from. Either `templates` or `texts_of` is filled."""

    source: str
    templates: tuple[str, ...] = ()
    texts_of: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Texts of each class by its name, as CuPL writes them: used as they are."""
    license: str | None = None

    def fill(self, class_name: str) -> list[str]:
        """The texts of one name; braces inside it stay as they are.

        Raises:
            UserError: the set has texts of its own for each class, and none for this one.
        """
        if self.templates:
            # One split, not one replace per spelling: a class name that itself holds "{}" must not be filled again.
            return [class_name.join(PLACEHOLDER.split(template)) for template in self.templates]
        return self.fill_all([class_name])

    def fill_all(self, names: Sequence[str]) -> list[str]:
        """The texts of a class with all its names: every template with every name, or what is written for any of them.

        Raises:
            UserError: nothing is written for any of them.
        """
        if self.templates:
            return [text for name in names for text in self.fill(name)]
        texts = [text for name in names for text in self.texts_of.get(name, ())]
        if not texts:
            near = nearest(names[0], self.texts_of, 1)
            raise UserError(
                f"{self.source}: no texts for the class {' / '.join(map(repr, names))}; it has {len(self.texts_of)} "
                f"classes{f', the nearest {near[0]!r}' if near else ''}: add it, or take other prompts"
            )
        return texts

    @property
    def sha256(self) -> str:
        """Hash of the templates in order, or of the texts of each class, equal wherever they came from."""
        return sha256_of(self.templates) if self.templates else sha256_of(sorted(self.texts_of.items()))

    def facts(self) -> dict[str, Any]:
        """What a result file says of it."""
        return {
            "source": self.source,
            "license": self.license,
            "sha256": self.sha256,
            "num_templates": len(self.templates),
            "templates": list(self.templates[:LISTED_TEMPLATES]),
        }


@dataclass(frozen=True)
class ClassTexts:
    """What the text tower is told of each class."""

    classes: tuple[tuple[str, ...], ...]
    """All names of each class; the first is the one that is shown."""
    prompts: PromptSet

    @property
    def names(self) -> tuple[str, ...]:
        """The name of each class that is shown."""
        return tuple(names[0] for names in self.classes)

    def __len__(self) -> int:
        return len(self.classes)

    def __getitem__(self, index: int) -> list[str]:
        """The texts of a class.

        Raises:
            UserError: the prompts have none.
        """
        return self.prompts.fill_all(self.classes[index])

    def check(self) -> None:
        """Ask for the texts of every class.

        Raises:
            UserError: a class has none.
        """
        for names in self.classes if self.prompts.texts_of else ():
            self.prompts.fill_all(names)

    @property
    def words(self) -> str:
        """One line that says which prompts these are."""
        names, templates = sum(map(len, self.classes)), len(self.prompts.templates)
        more = f" with {names:,} names" if names > len(self) else ""
        what = f"{templates} template{'s' * (templates > 1)}" if templates else "texts of each class"
        licence = f", {self.prompts.license}" if self.prompts.license else ""
        return f"{len(self):,} classes{more}, {what} from {self.prompts.source}{licence}, sha256 {self.prompts.sha256[:12]}"

    @property
    def sha256(self) -> str:
        """Hash of every text of every class, in order: two evaluations that agree in it told the model the same."""
        return sha256_of(self[index] for index in range(len(self)))


def sha256_of(items: Iterable[Any]) -> str:
    """SHA-256 of a list of texts or of lists, through its JSON form, so that ["ab"] and ["a", "b"] differ."""
    digest = hashlib.sha256(b"[")
    for number, item in enumerate(items):
        digest.update(b", " * (number > 0) + json.dumps(item, ensure_ascii=False).encode())
    digest.update(b"]")
    return digest.hexdigest()


def templates_of(templates: Sequence[str], source: str, where: str, license: str | None = None) -> PromptSet:  # noqa: A002
    """A set of templates.

    Raises:
        UserError: there is none, or one would give every class the same text.
    """
    if not templates:
        raise UserError(f"{where}: no templates; expected at least one, such as 'a photo of a {{c}}.'")
    for template in templates:
        if not PLACEHOLDER.search(template):
            raise UserError(
                f"{where}: template {template!r} has no {{c}}: every class would get the same text; write {{c}} where "
                "the name belongs"
            )
    return PromptSet(source, templates=tuple(templates), license=license)
