"""Run under torchrun on three processes: encode what the first asks for, and write what came of it.

Arguments: the folder of a model, the folder for the answers.
"""

import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mmclip.errors import UserError
from mmclip.release import load
from mmclip.towers.two_tower import TwoTower
from mmclip_data.features.encoder import Encoder
from mmclip_data.features.model import Towers
from mmclip_data.features.ranks import PeerError
from mmclip_launch.run.scoring import encoding
from mmclip_launch.run.scoring.encoding import EncodeOptions, all_ranks, leading, load_everywhere, serve

RANK = int(os.environ["RANK"])
CHUNK = 4
chunks = [0]
embed = TwoTower.embed_uint8


class Pictures:
    """As many as its place says; the rank that it names has another number of them, or fails."""

    def __init__(self, place: Mapping[str, Any]) -> None:
        self.rows = place["rows"] + (place.get("more_on") == RANK)
        self.fails_on = place.get("fails_on")
        self.fingerprint = f"{place['name']} {self.rows}"

    def __len__(self) -> int:
        return self.rows

    def sample_id(self, index: int) -> str:
        return f"set/{index}"

    def image_bytes(self, index: int) -> bytes:
        if self.fails_on == RANK:
            raise OSError(5, "the disk of one rank", "disk")
        return (Path(sys.argv[1]) / "pictures" / f"{index}.png").read_bytes()

    def close(self) -> None:
        pass


def counted(self: TwoTower, images: Tensor) -> Tensor:
    chunks[0] += 1
    return embed(self, images)


def images(encoder: Encoder, answers: dict[str, Any], case: str, **place: Any) -> None:
    """What comes of a pass over pictures, and how many chunks of it fell to this rank."""
    chunks[0] = 0
    wanted = {"name": case, "rows": 22, **place}
    try:
        encoding_of = encoder.images(Pictures(wanted), wanted, refuse=lambda bad: None)
        answers[case] = {"embed": encoding_of.embed.tolist(), "bad": encoding_of.bad, "own": chunks[0]}
    except (UserError, PeerError, OSError) as error:
        notes = "".join(getattr(error, "__notes__", ()))
        answers[case] = {"error": f"{type(error).__name__}: {error}", "notes": notes}


def refuse(bad: Mapping[int, str]) -> None:
    raise UserError("not wanted")


def lead(how: EncodeOptions) -> dict[str, Any]:
    answers: dict[str, Any] = {}
    _, encoder = load_everywhere(sys.argv[1], False, how)
    images(encoder, answers, "plain")
    images(encoder, answers, "few", rows=9)
    images(encoder, answers, "one", rows=2)
    images(encoder, answers, "failing", fails_on=1)
    images(encoder, answers, "other data", more_on=2)
    try:
        wanted = {"name": "refused", "rows": 22}
        encoder.images(Pictures(wanted), wanted, refuse=refuse)
    except UserError as error:
        answers["refused"] = str(error)
    answers["texts"] = encoder.texts([f"text {number}" for number in range(11)]).tolist()
    images(encoder, answers, "after all that")
    for case in ("missing", "other"):
        try:
            load_everywhere(case, False, how)
        except UserError as error:
            answers[case] = str(error)
    return answers


def towers_here(checkpoint: str, raw: bool, options: EncodeOptions) -> Towers:
    if checkpoint == "missing" and RANK == 1:
        raise UserError("no such folder")
    model = load(sys.argv[1], "cpu")
    if checkpoint == "other" and RANK == 2:
        torch.nn.init.zeros_(model.backbone.positional_embedding)
    return Towers(model, chunk_size=CHUNK)


TwoTower.embed_uint8 = counted
encoding._towers = towers_here
encoding.open_place = Pictures
with all_ranks() as ranks:
    how = EncodeOptions(ranks=ranks)
    if RANK:
        serve(how)
    else:
        with leading(ranks):
            found = lead(how)
        (Path(sys.argv[2]) / "answers.json").write_text(json.dumps(found))
