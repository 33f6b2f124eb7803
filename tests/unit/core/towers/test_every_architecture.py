"""What each architecture of open_clip gets: `tests/golden/tower_treatments.txt` says it line by line.

`TREATMENTS=write pytest -m slow PATH_OF_THIS_FILE` writes the file anew.
"""

import json
import os
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch

from mmclip.errors import UserError
from mmclip.tokenizer import Tokenizer
from mmclip.towers.architecture import model_cfg_of
from mmclip.towers.two_tower import TwoTower

GOLDEN = Path(__file__).parents[3] / "golden" / "tower_treatments.txt"
HUB = {"roberta-": "roberta", "xlm-roberta-": "xlm-roberta", "google/mt5-": "mt5", "facebook/nllb-": "m2m_100"}
TINY = {"context_length": 8, "vocab_size": 16, "width": 8, "heads": 1, "layers": 1}
NAMES = ("text_groups", "pooled_text_block", "pooled_image_block", "patch_dropout", "recompute_image", "compile_image")


@cache
def shared(table: str) -> TwoTower:
    """Towers without memory; those of several names are built once."""
    with torch.device("meta"):
        return TwoTower(json.loads(table), tokenizer=Tokenizer({}))


def treatment(name: str, hugging_face) -> str:
    """One line of the golden file."""
    table: dict[str, Any] = deepcopy(model_cfg_of(name))
    text = table["text_cfg"]
    if "hf_model_name" in text:
        kind = next(kind for start, kind in HUB.items() if text["hf_model_name"].startswith(start))
        text["hf_model_name"] = hugging_face(kind)
    try:
        # Each tower beside a tiny one, since many names share one of the two.
        images = shared(json.dumps({**table, "text_cfg": TINY, "custom_text": False}, sort_keys=True)).abilities
        small = {"image_size": 32, "patch_size": 16, "width": 16, "layers": 1, "head_width": 16}
        texts = shared(json.dumps({**table, "vision_cfg": small}, sort_keys=True)).abilities
    except UserError as error:
        return f"{name}\trefused: {error}"
    found = {ability: getattr(texts if "text" in ability else images, ability) for ability in NAMES}
    assert texts.recompute_text is None
    assert texts.compile_text is None
    return "\t".join([name, *(f"{ability}: {reason or 'yes'}" for ability, reason in found.items())])


RECORDED = {line.split("\t")[0]: line for line in GOLDEN.read_text().splitlines()} if GOLDEN.is_file() else {}
KINDS = {line.partition("\t")[2]: name for name, line in RECORDED.items() if "SO400M" not in name and "-L-" not in name}


@pytest.mark.parametrize("name", KINDS.values())
def test_one_architecture_of_each_kind_gets_what_is_recorded(name: str, hugging_face):
    assert treatment(name, hugging_face) == RECORDED[name]


@pytest.mark.slow
def test_every_architecture_gets_what_is_recorded(hugging_face):
    lines = [treatment(name, hugging_face) for name in open_clip.list_models()]
    if os.environ.get("TREATMENTS") == "write":
        GOLDEN.write_text("\n".join(lines) + "\n")
    assert lines == GOLDEN.read_text().splitlines()


def test_every_architecture_is_recorded():
    assert list(RECORDED) == open_clip.list_models()
    kinds = {line.partition("\t")[2] for line in RECORDED.values()}
    assert kinds == set(KINDS)


def test_most_text_towers_run_in_groups():
    """The others read their padding (SigLIP, CLIPA, MobileCLIP-S), or have a decoder (CoCa)."""
    groups = [line for line in RECORDED.values() if "text_groups: yes" in line]
    reads = [line for line in RECORDED.values() if "every token reads the padding" in line]
    refused = [line for line in RECORDED.values() if "refused" in line]
    assert len(groups) + len(reads) + len(refused) == len(RECORDED)
    assert all("siglip" in line.lower() or "CLIPA" in line or "MobileCLIP" in line for line in reads)
    assert all(line.startswith("coca") for line in refused)
