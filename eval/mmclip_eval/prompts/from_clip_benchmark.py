"""Prompt sets and class names out of CLIP_benchmark's wheel, which carries them under the MIT licence.

    python -m pip download --no-deps clip-benchmark==1.6.2
    python -m mmclip_eval.prompts.from_clip_benchmark clip_benchmark-1.6.2-py2.py3-none-any.whl

Its Italian ones are left out: nobody says under what licence their author gives them.
"""

import argparse
import json
import zipfile
from pathlib import Path
from typing import Any

import tomli_w

from mmclip_eval.prompts.packaged import ENGLISH, OTHER_SPELLINGS

HERE = Path(__file__).parent
VERSION = "1.6.2"
LICENSE = "MIT"
LEFT_OUT = ("dummy",)
FROM = f"CLIP_benchmark {VERSION}, https://github.com/LAION-AI/CLIP_benchmark"
BY = {
    "en": "mostly those of OpenAI's CLIP, https://github.com/openai/CLIP",
    "ar": "by KhalidAlt",
    "cn": "those of Chinese-CLIP, https://github.com/OFA-Sys/Chinese-CLIP",
    "jp": "by rinna (https://github.com/rinnakk/japanese-clip) and mkshing",
}
BEST_SEVEN = (
    "itap of a {c}.",
    "a bad photo of the {c}.",
    "a origami {c}.",
    "a photo of the large {c}.",
    "a {c} in a video game.",
    "art of the {c}.",
    "a photo of the small {c}.",
)
"""`SIMPLE_IMAGENET_TEMPLATES` of open_clip, from the notebook on prompts in the repository of OpenAI's CLIP."""


def main() -> None:
    parser = argparse.ArgumentParser(description="Write the packaged prompt sets and class names anew.")
    parser.add_argument("wheel", type=Path)
    wheel = parser.parse_args().wheel
    with zipfile.ZipFile(wheel) as archive:
        for language, by in BY.items():
            source = f"{FROM}; {by}"
            for kind, file, key in (
                ("sets", "zeroshot_classification_templates", "templates"),
                ("names", "classnames", "class_names"),
            ):
                content = json.loads(archive.read(f"clip_benchmark/datasets/{language}_{file}.json"))
                for name in content.keys() - set(LEFT_OUT):
                    write(kind, name, language, {"source": source, key: content[name]})
    seven = "the 7 best of OpenAI's templates, by a greedy search, as open_clip and CLIP's repository publish them"
    write("sets", "imagenet1k_7", ENGLISH, {"source": seven, "templates": list(BEST_SEVEN)})


def write(kind: str, name: str, language: str, table: dict[str, Any]) -> None:
    """One file."""
    code = OTHER_SPELLINGS.get(language, language)
    tail = "" if code == ENGLISH else f".{code}"
    content = {"source": table.pop("source"), "license": LICENSE, "language": code, **table}
    (HERE / kind / f"{name}{tail}.toml").write_text(tomli_w.dumps(content), encoding="utf-8")


if __name__ == "__main__":
    main()
