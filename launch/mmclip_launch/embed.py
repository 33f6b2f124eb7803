"""`mmclip embed CHECKPOINT --data SHARDS|FOLDER --output FOLDER`: embeddings in clip-retrieval's layout.

mmclip embed runs/demo --data data/photos/train --output embeddings/photos
mmclip embed open_clip:ViT-B-32/openai --data 'data/{00000..00099}.tar' --output embeddings/large --device cuda
torchrun --nproc_per_node 2 -m mmclip_launch.embed runs/demo --data data/photos/train --output embeddings/photos
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from mmclip.errors import UserError
from mmclip.release import load
from mmclip_data.clip_retrieval.embed import PARTITION_ROWS, EmbedJob
from mmclip_data.clip_retrieval.layout import require_pyarrow
from mmclip_data.clip_retrieval.pairs import open_pairs
from mmclip_data.features.model import Towers
from mmclip_launch.flags import Arguments
from mmclip_launch.run.beginning.preflight import check_devices
from mmclip_launch.run.peers import rank, world_size
from mmclip_launch.run.scoring.encoding import device_here
from mmclip_launch.screen import Screen

PRECISIONS = ("fp32", "bf16", "fp16")


def main(arguments: Sequence[str]) -> None:
    """Parse the command line and embed.

    Raises:
        UserError: checkpoint or data are unsound, or the folder holds something else.
    """
    parser = Arguments(
        prog="mmclip embed",
        description="Embeddings of pictures and captions as clip-retrieval lays them out: img_emb/, text_emb/, metadata/.",
        epilog="The same command again goes on where it was stopped. Several processes (torchrun --nproc_per_node N -m "
        "mmclip_launch.embed ...) share the partitions.",
    )
    parser.add_argument("checkpoint", help="a run, a checkpoint, an open_clip folder, or open_clip:ARCH/TAG")
    parser.add_argument(
        "--data", required=True, action="append", metavar="SHARDS|FOLDER", help="tars, or pictures; may be repeated"
    )
    parser.add_argument("--output", required=True, type=Path, help="folder to write")
    parser.add_argument(
        "--captions", action="append", metavar="FIELD", help="where captions stand: txt, txt:lines, json:FIELD"
    )
    parser.add_argument("--no-captions", action="store_true", help="embed pictures alone")
    parser.add_argument(
        "--partition-rows", type=int, default=PARTITION_ROWS, help=f"rows in a file (default: {PARTITION_ROWS:,})"
    )
    parser.add_argument("--device", default="auto", help="cpu, cuda, cuda:N or mps (default: cuda where there is one)")
    parser.add_argument(
        "--precision", choices=PRECISIONS, default="fp32", help="of the towers' arithmetic (default: fp32)"
    )
    parser.add_argument("--raw", action="store_true", help="the weights themselves where a run averages them")
    options = parser.parse_args(arguments)
    if options.captions and options.no_captions:
        raise UserError("--captions and --no-captions: expected one of the two")
    require_pyarrow()
    device = device_here(options.device)
    check_devices(device)
    pairs = open_pairs(options.data, () if options.no_captions else options.captions)
    towers = Towers(load(options.checkpoint, device, raw=options.raw), options.precision)
    embed(EmbedJob(pairs, towers, options.output, options.partition_rows), Screen(quiet=rank() > 0))


def embed(job: EmbedJob, screen: Screen, place: int | None = None, ranks: int | None = None) -> None:
    """Embed this process's share, and say what came of it.

    Raises:
        UserError: an embedding is not finite, or not one sample could be embedded.
    """
    place, ranks = rank() if place is None else place, world_size() if ranks is None else ranks
    left, blocks = job.missing(place, ranks), job.blocks(place, ranks)
    captions = "with captions" if job.pairs.fields else "without captions"
    screen.say(f"{len(job.pairs):,} samples {captions} in {job.partitions:,} partitions, {len(left):,} to embed here")
    for _ in screen.track(job.run(place, ranks), blocks, "embed"):
        pass
    rows, dropped = job.layout.counted()
    unfinished = len(job.missing())
    if place and not unfinished:
        screen = Screen()  # the last process knows the whole, whichever it is
    for line in dropped.lines():
        screen.warn(line)
    if not rows and not unfinished:
        raise UserError(
            f"{job.output}: not one of {len(job.pairs):,} samples could be embedded; {job.output}/dropped names why"
        )
    rest = f"; {unfinished:,} partitions are still to come from other processes" if unfinished else ""
    screen.say(f"{rows:,} rows in {job.output}{rest}")


if __name__ == "__main__":
    from mmclip_launch.cli import run_verb

    sys.exit(run_verb(main, sys.argv[1:]))
