"""A model card: what the weights are, how to load them, what they score, what they were trained on, and where they end."""

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmclip_eval.markdown import code, escaped, front_matter, table
from mmclip_eval.results.names import task_words
from mmclip_eval.results.result import read_result, recorded_versions

Result = Mapping[str, Any]
"""The content of a result file."""

HUB_TASKS = {
    "zero_shot_classification": "zero-shot-image-classification",
    "zero_shot_retrieval": "image-text-retrieval",
    "multilabel_classification": "zero-shot-image-classification",
    "worst_group": "zero-shot-image-classification",
    "robustness": "zero-shot-image-classification",
    "calibration": "zero-shot-image-classification",
    "linear_probe": "image-classification",
    "few_shot": "image-classification",
    "tip_adapter": "image-classification",
    "knn": "image-classification",
}
OTHER_HUB_TASK = "image-feature-extraction"
"""Of tasks on embeddings that the Hub has no word for."""


@dataclass(frozen=True)
class CardFacts:
    """Everything that a card says and this package cannot know by itself."""

    name: str
    folder: str
    """As the reader will write it in a command."""
    model_cfg: Mapping[str, Any]
    preprocess: Mapping[str, Any]
    """open_clip's `preprocess_cfg`."""
    parameters: int
    weights_file: str
    weights_sha256: str
    difference: float | None
    """Largest difference to what `library` embeds; None: not compared."""
    library: str
    """What reads the folder, as the Hub's `library_name` has it."""
    usage: str
    """Python that opens the folder with `library`."""
    results: tuple[Result, ...] = ()
    left_out: tuple[str, ...] = ()
    """Result files that are not in the card, with the reason."""
    training: tuple[tuple[str, str], ...] = ()
    """Settings of the run by name, as they are to be read."""
    license: str | None = None
    datasets: tuple[str, ...] = ()
    """Identifiers of data sets on the Hugging Face Hub."""


def results_of(folder: Path, weights: Collection[str]) -> tuple[tuple[Result, ...], tuple[str, ...]]:
    """The results in `folder` that belong to one of the SHA-256 sums `weights`, and the names of all others.

    Raises:
        UserError: a file is no result, or not strict JSON.
    """
    results: list[Result] = []
    left_out: list[str] = []
    for path in sorted(folder.glob("*.json")):
        result = read_result(path)
        found = result["checkpoint"]["weights_sha256"]
        if found in weights:
            results.append(result)
        else:
            whose = f"weights {found[:12]}" if found else "weights whose hash it does not hold"
            left_out.append(f"{path.name}, of {whose}")
    return tuple(results), tuple(left_out)


def model_card(facts: CardFacts) -> str:
    """The card as Markdown with the front matter that the Hugging Face Hub reads."""
    parts = [
        front_matter(_metadata(facts)),
        f"# {escaped(facts.name)}",
        _what(facts),
        _use(facts),
        _evaluation(facts),
        _preprocessing(facts),
        _training(facts),
        LIMITS,
        _versions(),
        _weights(facts),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _metadata(facts: CardFacts) -> dict[str, Any]:
    metadata: dict[str, Any] = {
        "library_name": facts.library,
        "pipeline_tag": "zero-shot-image-classification",
        "tags": ["clip", "image-text", "mmclip"],
    }
    if facts.license is not None:
        metadata["license"] = facts.license
    if facts.datasets:
        metadata["datasets"] = list(facts.datasets)
    if facts.results:
        metadata["model-index"] = [{"name": facts.name, "results": [_indexed(result) for result in facts.results]}]
    return metadata


def _indexed(result: Result) -> dict[str, Any]:
    """One entry of the Hub's `model-index`."""
    return {
        "task": {"type": HUB_TASKS.get(result["task_type"], OTHER_HUB_TASK), "name": task_words(result["task"])},
        "dataset": {"type": result["dataset"], "name": result["dataset"], "split": result["split"]},
        "metrics": [
            {"type": name, "value": value, "name": name}
            for name, value in result["metrics"].items()
            if name in result["intervals"]
        ],
    }


def _what(facts: CardFacts) -> str:
    vision, text = facts.model_cfg["vision_cfg"], facts.model_cfg["text_cfg"]
    image_tower = vision.get("timm_model_name") or f"patches of {vision.get('patch_size', '?')} px, {_shape(vision)}"
    text_tower = text.get("hf_model_name") or _shape(text)
    rows = [
        ("image tower", f"{code(image_tower)}, pictures of {_pixels(facts.preprocess['size'])}"),
        ("text tower", f"{code(text_tower)}, {text.get('context_length', 77)} tokens"),
        ("embedding", f"{facts.model_cfg['embed_dim']} numbers"),
        ("parameters", f"{facts.parameters:,}"),
    ]
    return (
        "Two towers that put pictures and texts into one space: the cosine of two embeddings says how well a picture "
        f"and a text fit. Trained or exported with mmclip, in {facts.library}'s format.\n\n"
        + table(("part", "what"), rows)
    )


def _use(facts: CardFacts) -> str:
    folder = json.dumps(facts.folder, ensure_ascii=False)
    return f"""## Use

With {facts.library}:

```python
{facts.usage}
```

With mmclip:

```python
import mmclip

model = mmclip.load({folder})
print(model.zero_shot(["picture.png"], ["a cat", "a dog", "a red apple"]).top(3))
```"""


def _evaluation(facts: CardFacts) -> str:
    parts = ["## Evaluation"]
    if facts.results:
        columns = ("data set", "task", "metric", "value", "95 % interval", "chance", "n", "prompts")
        rows = [row for result in facts.results for row in _rows(result)]
        parts.append(table(columns, rows, right=("value", "95 % interval", "chance", "n")))
        parts.append(
            "Intervals are percentiles of a bootstrap over the samples; `chance` is what guessing scores. "
            "Results of other models compare only on the same data, prompts and preprocessing."
        )
        notes = [f"- {escaped(result['dataset'])}: {escaped(n)}" for result in facts.results for n in result["notes"]]
        parts.append("\n".join(dict.fromkeys(notes)))
    else:
        parts.append("These weights have no recorded results.")
    if facts.left_out:
        parts.append("Left out, since they belong to other weights: " + "; ".join(map(escaped, facts.left_out)) + ".")
    return "\n\n".join(part for part in parts if part)


def _rows(result: Result) -> list[tuple[str, ...]]:
    rows = []
    for name, (low, high) in result["intervals"].items():
        value = result["metrics"][name]
        chance = result["chance"][name]
        figures = f"{value:.4f}", f"{low:.4f} to {high:.4f}", "" if chance is None else f"{chance:.4f}"
        size = f"{result['n_seen']:,}"
        rows.append((escaped(result["dataset"]), task_words(result["task"]), name, *figures, size, _prompts(result)))
    return rows


def _prompts(result: Result) -> str:
    if "prompts" not in result:
        return f"the set's own {result['num_captions']:,} captions" if "num_captions" in result else ""
    templates = result["prompts"]["templates"]
    more = f" and {len(templates) - 1} more" if len(templates) > 1 else ""
    source = result["prompts"]["source"].partition(" ")[0]
    of = f" of {escaped(source)}" if source.startswith("mmclip:") else ""
    return f"{code(templates[0])}{more}{of}"


def _preprocessing(facts: CardFacts) -> str:
    settings = facts.preprocess
    rows = [
        ("size", _pixels(settings["size"])),
        ("resize", f"{settings['resize_mode']}, {settings['interpolation']}"),
        ("mean", ", ".join(f"{value:.6g}" for value in settings["mean"])),
        ("standard deviation", ", ".join(f"{value:.6g}" for value in settings["std"])),
    ]
    return "## Preprocessing\n\n" + table(("setting", "value"), rows)


def _training(facts: CardFacts) -> str:
    if not facts.training:
        return "## Training\n\nThe source of these weights holds no record of their training."
    return "## Training\n\n" + table(("setting", "value"), [(name, code(value)) for name, value in facts.training])


LIMITS = """## Limits

- The scores above hold for the data sets, prompts and preprocessing that they name, and for nothing else.
- The model ranks the texts that it is given; it cannot say that none of them fits.
- It has learned the associations of its training captions, wrong and unfair ones included. It was not examined for
  bias, and not for uses in which a mistake harms somebody.
- Longer texts than the text tower takes are cut. Other languages than those of the captions are untested."""


def _versions() -> str:
    return "## Versions\n\n" + ", ".join(f"{name} {version}" for name, version in recorded_versions().items())


def _weights(facts: CardFacts) -> str:
    checked = (
        f"Stock {facts.library} embeds a fixed batch of pictures and texts the same to {facts.difference:.1e}."
        if facts.difference is not None
        else f"Not compared with stock {facts.library}."
    )
    sums = "`MANIFEST.json` holds the sums of all files."
    return f"## Weights\n\n{code(facts.weights_file)}, SHA-256 {code(facts.weights_sha256)}. {sums} {checked}"


def _shape(tower: Mapping[str, Any]) -> str:
    layers = tower.get("layers", 12)
    depth = "-".join(map(str, layers)) if isinstance(layers, Sequence) else layers
    return f"depth {depth}, width {tower.get('width', '?')}"


def _pixels(size: Sequence[int]) -> str:
    height, width = size
    return f"{height} x {width} px"
