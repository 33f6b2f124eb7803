"""Training data, augmentation and evaluation sets."""

import json
import shlex
from pathlib import Path
from typing import Any

from mmclip.errors import UserError
from mmclip_launch.import_flags.draft import Draft, toml_value

CAPTION_FILES = (
    "import csv, pathlib; [pathlib.Path(row[{image}]).with_suffix('.txt').write_text(row[{caption}]) "
    "for row in csv.DictReader(open({path}, newline=''), delimiter={separator})]"
)
IMAGENET = """# {said}: run these commands, then take away the # before the table:
#   mmclip shards make folder --source {source} --output data/imagenet --split test
#   python -c "import open_clip as o; print(*o.IMAGENET_CLASSNAMES, sep='\\n')" > data/names.txt
#   python -c "import open_clip as o; print(*[t('{{c}}') for t in o.OPENAI_IMAGENET_TEMPLATES], sep='\\n')" > data/templates.txt
# [[evaluation.datasets]]
# name = "imagenet"
# path = "data/imagenet"
# class_names = "data/names.txt"
# templates = "data/templates.txt"
"""


def data(draft: Draft) -> None:
    """Where samples come from.

    Raises:
        UserError: the command does not train.
    """
    path, kind = draft["train-data"], draft["dataset-type"]
    if not path and kind != "synthetic":
        weights = draft["pretrained"] or draft["resume"]
        checkpoint = f"open_clip:{draft['model'].replace('/', '-')}/{weights}" if weights else "CHECKPOINT"
        raise UserError(
            "the command has no --train-data, so it does not train: to score weights, use "
            f"mmclip eval {checkpoint} --dataset PATH --output FOLDER"
        )
    kind = _kind(draft, path, kind)
    if kind == "synthetic":
        draft.put("data.source.type", "synthetic", draft.said("dataset-type"))
        if draft["train-num-samples"]:
            draft.put("data.source.samples", draft["train-num-samples"], draft.said("train-num-samples"))
    else:
        draft.put("data.source.type", "tars")
        if kind == "csv":
            _csv(draft, path)
        else:
            _tars(draft, path)
    draft.put("data.workers", draft["workers"], f"{draft.said('workers')}, for each process")
    if kind != "synthetic":
        draft.put("data.captions", ["txt"], "open_clip reads KEY.txt")
    _upsampling(draft)
    _augment(draft)


def _kind(draft: Draft, path: str | None, kind: str) -> str:
    """open_clip's rule for `auto`: what stands behind the last dot."""
    if kind != "auto" or path is None:
        return kind
    extension = path.rpartition(".")[2]
    if extension in ("csv", "tsv"):
        return "csv"
    if extension != "tar" and not path.startswith("pipe:"):
        draft.refuse("train-data", "open_clip itself cannot tell its type: add --dataset-type webdataset or csv")
    return "webdataset"


def _tars(draft: Draft, path: str) -> None:
    draft.put("data.source.shards", path, draft.said("train-data"))
    if "pipe:" in path:
        draft.refuse(
            "train-data",
            "mmclip reads no pipe, since it would run a shell: name the shards themselves (s3://, gs://, https:// are read), "
            "or copy them to a folder",
        )
    draft.before.append(f"mmclip shards index {shlex.quote(path)}")


def _csv(draft: Draft, path: str) -> None:
    """Training reads shards; those of a CSV are made through caption files beside the pictures."""
    name = Path(path).stem
    draft.put("data.source.shards", f"data/{name}/train", f"{draft.said('train-data')}: from the shards made of it")
    draft.lost.append(
        f"{draft.said('train-data')}: mmclip reads shards, not CSV: make them first (commands below); "
        "a picture with several lines keeps the last"
    )
    script = CAPTION_FILES.format(
        image=repr(draft["csv-img-key"]),
        caption=repr(draft["csv-caption-key"]),
        path=repr(path),
        separator=json.dumps(draft["csv-separator"]).replace('"', "'"),
    )
    draft.before += [
        f"python -c {_double_quoted(script)}",
        f"mmclip shards make folder --kind captions --source PICTURES --output data/{name}   # PICTURES: their folder",
    ]


def _double_quoted(script: str) -> str:
    """For a shell; single quotes, which Python's texts use, stay readable."""
    for special in ("\\", '"', "$", "`"):
        script = script.replace(special, f"\\{special}")
    return f'"{script}"'


def _upsampling(draft: Draft) -> None:
    factors = draft["train-data-upsampling-factors"]
    if factors and len(set(factors.split("::"))) == 1:
        draft.others.append(f"{draft.said('train-data-upsampling-factors')}: equal factors change nothing")
        draft.settled.add("train-data-upsampling-factors")


def _augment(draft: Draft) -> None:
    """open_clip's crop is mmclip's default; written out all the same, since it is part of the recipe."""
    given: dict[str, Any] = dict(draft["aug-cfg"])
    timm = bool(given.pop("use_timm", False))
    scale = given.pop("scale", (0.9, 1.0))
    draft.put("data.augment.crop_area", [float(v) for v in scale], draft.said("aug-cfg"))
    ratio = given.pop("ratio", None)
    if ratio is not None and timm:
        draft.put("data.augment.crop_aspect", [float(v) for v in ratio], "--aug-cfg ratio")
    elif ratio is not None:
        draft.others.append("--aug-cfg ratio: open_clip ignores it without use_timm")
    if timm:
        draft.lost.append("--aug-cfg use_timm: mmclip has its own transforms: the crop, and what is named below")
    grey = given.pop("gray_scale_prob", None)
    if grey:
        draft.put("data.augment.grayscale", float(grey), "--aug-cfg gray_scale_prob")
    _jitter(draft, given.pop("color_jitter", None), given.pop("color_jitter_prob", None))
    for name, value in given.items():
        if value:
            what = "mmclip does not have it yet" if timm else "open_clip ignores it without use_timm"
            (draft.lost if timm else draft.others).append(f"--aug-cfg {name}={value}: {what}")


def _jitter(draft: Draft, jitter: Any, probability: Any) -> None:
    if not jitter or not probability:
        return
    amounts = list(jitter) if isinstance(jitter, list | tuple) else [jitter] * 3
    if float(probability) != 1 or (len(amounts) > 3 and amounts[3]):
        draft.lost.append(
            f"--aug-cfg color_jitter={jitter} with probability {probability}: mmclip changes no hue, and every picture or none"
        )
        return
    for name, amount in zip(("brightness", "contrast", "saturation"), amounts, strict=False):
        draft.put(f"data.augment.{name}", float(amount), "--aug-cfg color_jitter")


def evaluation_sets(draft: Draft) -> None:
    """Validation tars are evaluated as they are; ImageNet's folders wait for shards."""
    path = draft["val-data"]
    if path and (path.endswith((".csv", ".tsv")) or "pipe:" in path or "://" in path or draft["dataset-type"] == "csv"):
        draft.lose("val-data", "make shards of it as of the training data, and name them in [[evaluation.datasets]]")
    elif path:
        draft.tables.append(
            f"[[evaluation.datasets]]  # {draft.said('val-data')}: retrieval in place of the validation loss\n"
            f'name = "val"\npath = {toml_value(path)}\ntasks = ["zero_shot_retrieval"]\n'
        )
        draft.before.append(f"mmclip shards index {shlex.quote(path)}")
    if draft["imagenet-val"]:
        source = shlex.quote(draft["imagenet-val"])
        draft.tables.append(IMAGENET.format(said=draft.said("imagenet-val"), source=source))
