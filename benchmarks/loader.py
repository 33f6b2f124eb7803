"""What a sample costs on its way from a shard into a batch: mmclip's loader beside open_clip's, in CPU time of one core.

    make bench NAME=loader                                                       # benchmarks/results/loader.json
    .venv/bin/python benchmarks/loader.py --repetitions 1 --quick --output /tmp/loader.json     # a look, under a minute

Equal on both sides: shards, machine, one thread, no loader process, batch, picture size of the model (224), the crop (.9 to 1
of the area, bicubic and antialiased), captions of 12 words padded to 77 tokens, versions of torch, numpy and pillow. Each
side runs its own loader as its trainer does: open_clip `get_wds_dataset` with its training transform and its tokenizer,
mmclip `TrainLoader`.

Not equal, because it is what each does. mmclip shuffles globally and checks every member's checksum; open_clip shuffles within
a buffer (of 256 samples here, see `peers/open_clip_loader.py`) and checks nothing. mmclip hands over bytes of pixels and
normalises on the device; open_clip normalises in the loader. mmclip keeps the tokens of captions that come back, open_clip
splits them anew; captions here come back as in a second epoch. Each run is checked: the samples asked for came, at the
width asked for, and the mean pixel of both sides, normalised, is the same to .05.

Rows: `256px`, `512px`, `1024px` are the whole way (JPEG q95, q90, q90, 4:2:0, square, with grain: measure/photographs.py).
`tar_read` is the way to the bytes of the members, `collate` that from decoded samples to a batch.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported; the peer inherits it

import torch
from measure.document import finish
from measure.interleave import interleave
from measure.open_clip import NAME, open_clip_python, open_clip_versions
from measure.photographs import write_shards
from measure.ratios import Row, compare

from mmclip.batch import DataPosition
from mmclip.preprocess import ImageSpec
from mmclip.tokenizer import Tokenizer
from mmclip_data.loading.assemble import Assemble
from mmclip_data.loading.loader import DataConfig, TrainLoader
from mmclip_data.loading.planned import Layout, PlannedSource
from mmclip_data.loading.slots import Slots
from mmclip_data.loading.sources import IndexedTarsConfig

BATCH, SIDE, TOKENS, BUFFER = 64, 224, 77, 256
SPEC = ImageSpec(size=(SIDE, SIDE))
METRIC = "CPU microseconds a sample"
PEER_SCRIPT = Path(__file__).parent / "peers" / "open_clip_loader.py"


@dataclass(frozen=True)
class Pictures:
    """One set of shards and how many samples a measurement takes from it."""

    side: int
    quality: int
    samples: int
    measured: int


SETS = (Pictures(256, 95, 2048, 512), Pictures(512, 90, 2048, 256), Pictures(1024, 90, 512, 128))
READ_SETS = SETS[:2]
COLLATED = 64 * BATCH


def main() -> None:
    parser = argparse.ArgumentParser(description="The loader, mmclip beside open_clip, in CPU time.")
    parser.add_argument("--repetitions", type=int, default=7, help="pairs of measurements of each row (default: 7)")
    parser.add_argument("--quick", action="store_true", help="an eighth of the samples: a look, not a figure")
    parser.add_argument("--output", type=Path, help="JSON file (default: benchmarks/results/loader.json)")
    options = parser.parse_args()
    torch.set_num_threads(1)
    python, share = open_clip_python(), 8 if options.quick else 1
    with TemporaryDirectory() as folder:
        print("writing shards", flush=True)
        sizes = {p.side: write_shards(Path(folder, str(p.side)), p.side, p.quality, p.samples // share) for p in SETS}
        peer = Peer(python)
        rows = [*loading_rows(Path(folder), peer, options.repetitions, share)]
        rows += reading_rows(Path(folder), peer, options.repetitions, sizes)
        rows.append(collate_row(peer, options.repetitions, share))
        peer.close()
    kilobytes = {f"{side}px": round(sum(found) / len(found) / 1000, 1) for side, found in sizes.items()}
    equal = {
        "batch": BATCH,
        "image_size": SIDE,
        "tokens": TOKENS,
        "threads": 1,
        "workers": 0,
        "mean_kilobytes": kilobytes,
    }
    finish("loader", rows, open_clip_versions(python), {"equal": equal, "pairs": options.repetitions}, options.output)


class Peer:
    """The peer's process, which answers one request at a time and waits in between."""

    def __init__(self, python: Path) -> None:
        settings = json.dumps({"batch_size": BATCH, "image_size": SIDE, "buffer": BUFFER})
        environment = {**os.environ, "RANK": "0", "WORLD_SIZE": "1", "HF_HUB_OFFLINE": "1"}
        pipes: Any = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "bufsize": 1}
        self.process = subprocess.Popen([str(python), str(PEER_SCRIPT), settings], env=environment, **pipes)
        self._line()

    def __call__(self, request: dict[str, Any], repetition: int) -> dict[str, float]:
        print(json.dumps(request), file=self.process.stdin, flush=True)
        return json.loads(self._line())

    def _line(self) -> str:
        assert self.process.stdout is not None, "made with a pipe"
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"the peer ended with code {self.process.wait()}")
        return line

    def close(self) -> None:
        """Let the process end."""
        assert self.process.stdin is not None, "made with a pipe"
        self.process.stdin.close()
        self.process.wait(60)


def loading_rows(folder: Path, peer: Peer, repetitions: int, share: int) -> list[Row]:
    """Shards to batches."""
    rows = []
    for pictures in SETS:
        shards, samples = folder / str(pictures.side), max(BATCH, pictures.measured // share)
        request = {"part": "load", "shards": brace(shards), "samples": samples}
        rows.append(measure(f"{pictures.side}px", OurLoading(shards, samples), partial(peer, request), repetitions))
    return rows


def reading_rows(folder: Path, peer: Peer, repetitions: int, sizes: dict[int, list[int]]) -> list[Row]:
    """Shards to the bytes of a sample, over a whole epoch each time."""
    rows = []
    for pictures in READ_SETS:
        kilobytes = round(sum(sizes[pictures.side]) / len(sizes[pictures.side]) / 1000)
        shards = folder / str(pictures.side)
        request = {"part": "read", "shards": brace(shards)}
        rows.append(measure(f"tar_read {kilobytes} KB", OurReading(shards), partial(peer, request), repetitions))
    return rows


def collate_row(peer: Peer, repetitions: int, share: int) -> Row:
    """Decoded samples to a batch."""
    request = {"part": "collate", "samples": COLLATED // share}
    return measure("collate", OurCollation(COLLATED // share), partial(peer, request), repetitions)


def measure(
    case: str,
    ours: Callable[[int], dict[str, float]],
    peer: Callable[[int], dict[str, float]],
    repetitions: int,
) -> Row:
    """One row; the first pair warms both sides up and is left out.

    Raises:
        RuntimeError: the two sides did not do the same work.
    """
    pairs = interleave({"mmclip": ours, "open_clip": peer}, repetitions + 1)
    for side in ("mmclip", "open_clip"):
        del pairs[side][0]
    for key in pairs["mmclip"][0]:
        if key == "cpu":
            continue
        a, b = (sum(run[key] for run in pairs[side]) / repetitions for side in ("mmclip", "open_clip"))
        if abs(a - b) > (0.05 if key == "mean" else 0):
            raise RuntimeError(f"{case}: {key} is {a} with mmclip and {b} with open_clip")
    cpu = {side: [run["cpu"] * 1e6 for run in runs] for side, runs in pairs.items()}
    row = compare(case, METRIC, cpu["mmclip"], cpu["open_clip"], NAME, higher_is_better=False)
    print(f"{case}: {row.ours:.0f} beside {row.peer:.0f}, ratio {row.ratio:.2f}", flush=True)
    return row


def brace(shards: Path) -> str:
    """The pattern of all shards in a folder, as open_clip wants it."""
    return f"{shards}/{{000000..{len(list(shards.glob('*.tar'))) - 1:06d}}}.tar"


class OurLoading:
    """`TrainLoader` without loader processes."""

    def __init__(self, shards: Path, samples: int) -> None:
        data = DataConfig(source=IndexedTarsConfig(shards=str(shards)), workers=0)
        loader = TrainLoader(data, SPEC, Tokenizer({"context_length": TOKENS}), Layout(BATCH), seed=0)
        self.batches = loader.batches(DataPosition(0))
        self.count = samples // BATCH

    def __call__(self, repetition: int) -> dict[str, float]:
        started, total, mean, width = time.process_time(), 0, 0.0, 0
        for batch in islice(self.batches, self.count):
            total += len(batch.images)
            mean += float(SPEC.normalise(batch.images[:, :, ::16, ::16]).mean()) * len(batch.images)
            width = batch.tokens.shape[1]
        seconds = time.process_time() - started
        return {"cpu": seconds / total, "samples": total, "mean": mean / total, "tokens": width}


class OurReading:
    """The planned source alone, an epoch each time."""

    def __init__(self, shards: Path) -> None:
        data = DataConfig(source=IndexedTarsConfig(shards=str(shards)))
        self.loader = TrainLoader(data, SPEC, Tokenizer({"context_length": TOKENS}), Layout(BATCH), seed=0)

    def __call__(self, repetition: int) -> dict[str, float]:
        epoch, size = self.loader.samples_per_epoch, 0
        source = PlannedSource(
            self.loader.source, self.loader.plan, self.loader.layout, DataPosition(repetition * epoch)
        )
        started = time.process_time()
        for sample in islice(source, epoch):
            size += len(sample["jpg"]) + len(sample["txt"])
        return {"cpu": (time.process_time() - started) / epoch, "samples": epoch, "bytes": size}


class OurCollation:
    """`Assemble` over samples that are decoded and tokenised already."""

    def __init__(self, samples: int) -> None:
        shape = (SIDE, SIDE, 3)
        tokens = torch.randint(0, 49408, (BATCH, TOKENS))
        self.samples: list[dict[str, Any]] = [
            {
                "__position__": row,
                "__batch_start__": 0,
                "__id__": f"train/000000.tar/{row:08d}",
                "pixels": torch.randint(0, 256, shape, dtype=torch.uint8).permute(2, 0, 1),
                "caption": "",
            }
            for row in range(BATCH)
        ]
        slots = Slots([(BATCH, *shape)], 2)
        self.assemble = Assemble(Layout(BATCH), lambda _: torch.stack(list(tokens)), 0, slots)
        self.count = samples // BATCH

    def __call__(self, repetition: int) -> dict[str, float]:
        started, total = time.process_time(), 0
        stream = (sample for _ in range(self.count) for sample in self.samples)
        for batch in islice(self.assemble(stream), self.count):
            total += len(batch.images)
        return {"cpu": (time.process_time() - started) / total, "samples": total}


if __name__ == "__main__":
    sys.exit(main())
