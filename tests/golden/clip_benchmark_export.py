"""Folders as CLIP_benchmark 1.6.2's own exporter writes them, and its own figures on them: run by hand in its venv.

    .peers/clip_benchmark/bin/python tests/golden/clip_benchmark_export.py    # `make bench NAME=evaluate` makes that venv

Writes `clip_benchmark_export/` beside it: a labelled, a multi-label and a captioned set through the functions that
`clip_benchmark_export_wds` calls, one picture format each, and `figures.json`, which `clip_benchmark eval` measured there.
"""

import json
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from PIL import Image

FOLDER = Path(__file__).with_suffix("")
MODEL = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 32, "head_width": 16, "patch_size": 16, "mlp_ratio": 2},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 2},
}
PREPROCESS = {
    "size": [32, 32],
    "mode": "RGB",
    "mean": [0.5, 0.5, 0.5],
    "std": [0.25, 0.25, 0.25],
    "interpolation": "bicubic",
    "resize_mode": "shortest",
    "fill_color": 0,
}
CLASSES = ["red fox", "sea", "moss", "coal", "snow", "grape", "rust"]
TEMPLATES = ["a photo of a {c}.", "{c}, up close"]
SAMPLES, IN_SHARD = 12, 4
TASKS = {
    "labelled": "zeroshot_classification",
    "multilabel": "zeroshot_classification",
    "captioned": "zeroshot_retrieval",
}


class Pictures(list):
    """Pairs of a picture and what is said of it, as `convert_dataset` asks for them."""

    classes, templates = CLASSES, TEMPLATES


def write_model(folder: Path) -> None:
    """An open_clip folder whose weights are a formula, so that any version of any library makes the same ones."""
    import open_clip
    import torch
    from safetensors.torch import save_file

    model = open_clip.model.CLIP(**MODEL)
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    for number, (name, _) in enumerate(sorted(model.named_parameters())):
        if "ln_" in name or name == "logit_scale":  # not drawn by open_clip either
            continue
        rng = np.random.default_rng(number)
        drawn = rng.random(tuple(weights[name].shape)) - 0.5
        # Wide enough that no two scores are near each other: rounding must not decide a rank.
        weights[name] = torch.from_numpy(drawn).float() * 6 / weights[name].shape[-1] ** 0.5
    folder.mkdir(parents=True)
    save_file(weights, folder / "open_clip_model.safetensors")
    table = {"model_cfg": MODEL, "preprocess_cfg": PREPROCESS}
    (folder / "open_clip_config.json").write_text(json.dumps(table))


def main() -> None:
    from clip_benchmark.webdataset_builder import PIL_to_bytes, convert_dataset, convert_retrieval_dataset

    shutil.rmtree(FOLDER, ignore_errors=True)
    rng = np.random.default_rng(0)
    drawn = [Image.fromarray(rng.integers(0, 256, (3, 4, 3), np.uint8)).resize((24, 18), 0) for _ in range(SAMPLES)]
    labels = [number % len(CLASSES) for number in range(SAMPLES)]
    positive = (rng.random((SAMPLES, len(CLASSES))) < 0.3).astype(np.int64)
    captions = [[f"{CLASSES[label]} {place} of {number}" for place in range(3)] for number, label in enumerate(labels)]
    captions[4][1] = "one line\nand another"  # written as the two characters \n, and never put together again
    shards = {"max_count": IN_SHARD, "verbose": False}
    convert_dataset(
        Pictures(zip(drawn, labels, strict=True)),
        "test",
        str(FOLDER / "labelled"),
        transform=PIL_to_bytes("webp"),
        **shards,
    )
    convert_dataset(
        Pictures(zip(drawn, positive, strict=True)),
        "test",
        str(FOLDER / "multilabel"),
        transform=PIL_to_bytes("png"),
        image_format="png",
        multilabel=True,
        **shards,
    )
    convert_retrieval_dataset(
        Pictures(zip(drawn, captions, strict=True)),
        "test",
        str(FOLDER / "captioned"),
        transform=PIL_to_bytes("jpg"),
        image_format="jpg",
        **shards,
    )
    versions = {name: version(name) for name in ("clip-benchmark", "webdataset", "open_clip_torch", "torch", "numpy")}
    figures = {name: measured(name, task) for name, task in TASKS.items()}
    (FOLDER / "figures.json").write_text(json.dumps({"made_with": versions} | figures, indent=1) + "\n")


def measured(name: str, task: str) -> dict[str, float]:
    """What the peer's command writes of a set."""
    with TemporaryDirectory() as scratch:
        write_model(Path(scratch, "model"))
        command = [str(Path(sys.executable).parent / "clip_benchmark"), "eval", "--no_amp", "--num_workers", "1"]
        command += ["--model", f"local-dir:{scratch}/model", "--pretrained", "none", "--task", task]
        command += ["--dataset", f"wds/{name}", "--dataset_root", str(FOLDER / name), "--recall_k", "1", "5", "10"]
        subprocess.run([*command, "--output", f"{scratch}/result.json"], check=True)
        return json.loads(Path(scratch, "result.json").read_text())["metrics"]


if __name__ == "__main__":
    main()
