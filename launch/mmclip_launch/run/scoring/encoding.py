"""How an evaluation encodes: on which processes, at which precision, and where features are kept for the next one."""

import argparse
import os
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from mmclip.errors import UserError
from mmclip.release import load
from mmclip.towers.two_tower import TwoTower
from mmclip.training.precision import Precision
from mmclip_data.features.encoder import Encoder, Pace
from mmclip_data.features.model import Towers
from mmclip_data.features.ranks import ALONE, Ranks, answers, dismiss
from mmclip_data.features.service import Service
from mmclip_data.features.store import MAX_BYTES, FeatureStore, default_folder
from mmclip_eval.places import open_place
from mmclip_launch.flags import at_least
from mmclip_launch.run.beginning.preflight import check_devices
from mmclip_launch.run.peers import meet_peers, refuse_too_few_devices, world_size

MEETING_SECONDS = 600
"""How long the processes of a command wait for each other at its start."""
PRECISIONS = ("fp32", "bf16", "fp16")
GIB = 1 << 30


@dataclass(frozen=True)
class EncodeOptions:
    """What decides how the figures come about, though none of it but the precision and the device which they are."""

    device: str = "cpu"
    precision: Precision = "fp32"
    ranks: Ranks = ALONE
    store: FeatureStore | None = None
    pace: Pace = field(default_factory=Pace)
    seed: int = 0
    """For what tasks draw."""


def add_encode_flags(parser: argparse.ArgumentParser) -> None:
    """The flags of `EncodeOptions`, but for the device."""
    parser.add_argument(
        "--precision", choices=PRECISIONS, default="fp32", help="of the towers' arithmetic (default: fp32)"
    )
    parser.add_argument("--seed", type=at_least(0), default=0, help="for what tasks draw (default: 0)")
    parser.add_argument(
        "--batch-size", type=at_least(1), help="pictures in work at a time on a CPU: memory and speed, never a figure"
    )
    parser.add_argument("--workers", type=at_least(1), help="threads that decode pictures (default: one per core)")
    add_store_flags(parser)


def add_store_flags(parser: argparse.ArgumentParser) -> None:
    """The flags that say where features are kept."""
    parser.add_argument("--cache", type=Path, metavar="FOLDER", help=f"keeps features (default: {default_folder()})")
    parser.add_argument("--no-cache", action="store_true", help="keep no features, and use none")
    parser.add_argument(
        "--cache-gib", type=at_least(0), default=MAX_BYTES // GIB, help="most that the folder takes (default: 5)"
    )


def store_of(options: argparse.Namespace, warn: Callable[[str], None]) -> FeatureStore | None:
    """The store that flags name."""
    if options.no_cache and options.cache is not None:
        raise UserError(f"--cache {options.cache} and --no-cache: expected one of the two")
    return None if options.no_cache else FeatureStore(options.cache, options.cache_gib * GIB, warn)


def options_of_flags(flags: argparse.Namespace, warn: Callable[[str], None]) -> EncodeOptions:
    """What `--device` and the flags of `add_encode_flags` say, for one process.

    Raises:
        UserError: the device is not there, or flags contradict each other.
    """
    device = device_here(flags.device)
    check_devices(device)
    pace = Pace(flags.batch_size, flags.workers)
    return EncodeOptions(device, flags.precision, store=store_of(flags, warn), pace=pace, seed=flags.seed)


def encoder_of(towers: Towers, options: EncodeOptions) -> Encoder:
    """What encodes with towers that are loaded."""
    return Encoder(towers, store=options.store, ranks=options.ranks, pace=options.pace)


@contextmanager
def all_ranks() -> Iterator[Ranks]:
    """Every process that the launcher started, once they have found each other.

    Raises:
        MachineError: some did not come in time.
    """
    if world_size() == 1:
        yield ALONE
        return
    store = meet_peers(MEETING_SECONDS)
    import torch.distributed as dist

    dist.init_process_group("gloo")
    del store  # rank 0 hosts it, and the process group has joined it by now
    try:
        yield Ranks.of_process_group()
    finally:
        dist.destroy_process_group()


def device_here(device: str) -> str:
    """The device of this process: `auto` is CUDA where there is one, and of several processes each takes its own.

    Raises:
        UserError: more processes than devices.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    if device != "cuda" or processes == 1:
        return device
    refuse_too_few_devices(processes, torch.cuda.device_count())
    return f"cuda:{os.environ.get('LOCAL_RANK', '0')}"


@contextmanager
def leading(ranks: Ranks) -> Iterator[None]:
    """What the first rank does, while the others `serve`; they are let go however it ends."""
    try:
        yield
    finally:
        dismiss(ranks)


def serve(options: EncodeOptions, towers: Towers | None = None) -> None:
    """What the other ranks do, until the first lets them go."""

    def load_here(asked: Mapping[str, Any]) -> tuple[Towers, Any]:
        with _telling_where(options.ranks):
            loaded = _towers(asked["checkpoint"], asked["raw"], options)
        return loaded, loaded.hashes

    def open_here(place: Mapping[str, Any]) -> Any:
        with _telling_where(options.ranks):
            return open_place(place)

    Service(options.ranks, open_here, towers=towers, load=load_here, pace=options.pace).run()


def load_everywhere(checkpoint: str, raw: bool, options: EncodeOptions) -> tuple[TwoTower, Encoder]:
    """The model of a checkpoint, on every rank, and what encodes with it.

    Raises:
        UserError: a rank cannot load it, or finds other weights.
    """
    ranks, error, towers = options.ranks, None, None
    ranks.tell({"ask": "load", "checkpoint": checkpoint, "raw": raw})
    try:
        towers = _towers(checkpoint, raw, options)
    except Exception as failure:  # the others wait for an answer, whatever it is
        error = failure
    hashes = towers.hashes if towers is not None and ranks.size > 1 else None
    for rank, other in enumerate(answers(ranks, hashes, error)):
        if other != hashes:
            raise UserError(
                f"{checkpoint}: rank {rank} finds other weights there than the first: every process needs the same"
            )
    assert towers is not None, "an error was raised"
    assert isinstance(towers.model, TwoTower)
    return towers.model, encoder_of(towers, options)


def _towers(checkpoint: str, raw: bool, options: EncodeOptions) -> Towers:
    return Towers(load(checkpoint, options.device, raw=raw), options.precision)


@contextmanager
def _telling_where(ranks: Ranks) -> Iterator[None]:
    try:
        yield
    except UserError as error:
        raise UserError(f"rank {ranks.rank} ({socket.gethostname()}): {error}") from error
