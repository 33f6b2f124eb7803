"""Labels, class names and prompts of a classification set, each checked against the others."""

import difflib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from mmclip.errors import UserError
from mmclip_eval.fields import parse_field, read_label
from mmclip_eval.prompts.packaged import ENGLISH
from mmclip_eval.prompts.prompt_set import ClassTexts
from mmclip_eval.prompts.reading import ClassNames, Names, load_class_names, load_prompts
from mmclip_eval.sharded_samples import ShardedSamples


@dataclass(frozen=True)
class Labelled:
    """What zero-shot classification needs."""

    labels: Int[Tensor, " sample"]
    texts: ClassTexts
    class_names_source: str
    notes: tuple[str, ...]

    @property
    def class_names(self) -> tuple[str, ...]:
        """The name of each class that is shown."""
        return self.texts.names


def read_labelled(
    samples: ShardedSamples,
    label: str,
    class_names: str | Names | None,
    templates: str | Sequence[str] | None,
    language: str = ENGLISH,
) -> Labelled:
    """Read every label of `samples`; `class_names` None takes the sorted names that stand in the labels.

    Raises:
        UserError: a label is missing or names no class, there are no class names, or there are no templates.
    """
    if templates is None:
        sets = "simple, imagenet1k and others"
        raise UserError(f"{samples.name}: no templates; set templates to a packaged set ({sets}), a file or a list")
    prompts = load_prompts(templates, samples.name, language, dataset=samples.name)
    field = parse_field(label, f"{samples.name}.label")
    members = (samples.members(i, (field.extension,)) for i in range(len(samples)))
    raw = [read_label(field, found, samples.sample_id(i)) for i, found in enumerate(members)]
    names = _class_names(samples.name, class_names, raw, label, language)
    texts = ClassTexts(names.classes, prompts)
    texts.check()
    labels = _label_indices(raw, names, samples)
    return Labelled(torch.tensor(labels), texts, names.source, (*names.notes, *_notes(labels, names.classes)))


def _class_names(
    where: str, choice: str | Names | None, raw: Sequence[int | str], label: str, language: str
) -> ClassNames:
    if choice is not None:
        return load_class_names(choice, where, language, dataset=where)
    if not all(isinstance(value, str) for value in raw):
        raise UserError(f"{where}: labels are indices but there are no class names; set class_names to a file or list")
    found = load_class_names(sorted({str(value) for value in raw}), where, language)
    return ClassNames(found.classes, f"labels at {label}")


def _label_indices(raw: Sequence[int | str], names: ClassNames, samples: ShardedSamples) -> list[int]:
    index_of = {name: index for index, own in enumerate(names.classes) for name in own}
    several = {name for name, count in _uses(names.classes).items() if count > 1}
    indices: list[int] = []
    for i, label in enumerate(raw):
        index = label if isinstance(label, int) else index_of.get(label, -1)
        if not 0 <= index < len(names.classes):
            expected = f"0 to {len(names.classes) - 1}" if isinstance(label, int) else _nearest(label, list(index_of))
            raise UserError(
                f"sample {samples.sample_id(i)}: label {label!r} is none of the {len(names.classes)} classes from "
                f"{names.source}: expected {expected}; mend the names or the labels"
            )
        if label in several:
            raise UserError(
                f"sample {samples.sample_id(i)}: label {label!r} is the name of several classes from {names.source}: "
                "expected indices as labels, or a name for each class"
            )
        indices.append(index)
    return indices


def _uses(classes: Sequence[Sequence[str]]) -> Counter[str]:
    """In how many classes each name stands."""
    return Counter(name for names in classes for name in dict.fromkeys(names))


def _nearest(label: str, names: Sequence[str]) -> str:
    return f"one like {', '.join(difflib.get_close_matches(label, names, n=3) or names[:3])}"


def _notes(labels: Sequence[int], classes: Sequence[Sequence[str]]) -> list[str]:
    notes: list[str] = []
    empty = len(classes) - len(set(labels))
    if empty:
        notes.append(f"{empty} of {len(classes)} classes have no sample; mean_per_class_recall leaves them out")
    twins = [name for name, count in _uses(classes).items() if count > 1]
    if twins:
        notes.append(f"class names given more than once: {len(twins)}, such as {twins[0]!r}; a tie is never a hit")
    return notes
