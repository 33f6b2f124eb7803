"""The sizes of every section: those of a device that trains, and toys that run every line on a CPU in seconds."""

from dataclasses import dataclass
from typing import Any

from mmclip.towers.architecture import model_cfg_of

TOY: dict[str, Any] = {
    "embed_dim": 32,
    "vision_cfg": {"image_size": 32, "patch_size": 16, "width": 64, "layers": 2, "head_width": 32},
    "text_cfg": {"context_length": 24, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2},
}


@dataclass(frozen=True)
class Model:
    """A model, the batch that it is stepped with, and its work."""

    name: str
    batch: int
    gigaflops: float
    """Of forward and backward of a sample with 77 tokens, two a multiply-add (open_clip's model_profile.csv, times 3)."""

    def cfg(self) -> dict[str, Any]:
        """open_clip's table."""
        return TOY if self.name == "toy" else model_cfg_of(self.name)


@dataclass(frozen=True)
class Scale:
    """One size of everything."""

    gemm: int
    copy_mib: int
    models: tuple[Model, ...]
    steps: int
    """Steps of one measurement."""
    repetitions: int
    compile_backend: str
    losses: tuple[int, ...]
    embed: int
    captions: int
    groups: tuple[int, ...]
    pictures: int
    side: int
    shard_batch: int
    shard_steps: int
    """Four times the workers: processes hand over a batch each, in bursts, and a part of a burst would be no rate."""
    workers: int
    large: tuple[int, ...]
    micro: int


FULL = Scale(
    gemm=8192,
    copy_mib=2048,
    models=(Model("ViT-B-32", 1024, 44.3), Model("ViT-B-16", 512, 123.3), Model("ViT-L-14", 128, 526.0)),
    steps=4,
    repetitions=3,
    compile_backend="inductor",
    losses=(8192, 16384, 32768, 65536, 131072),
    embed=512,
    captions=4096,
    groups=(1, 4, 8, 16),
    pictures=4096,
    side=512,
    shard_batch=512,
    shard_steps=56,
    workers=14,
    large=(16384, 65536, 131072),
    micro=2048,
)
TINY = Scale(
    gemm=64,
    copy_mib=1,
    models=(Model("toy", 8, 0.01),),
    steps=1,
    repetitions=1,
    compile_backend="eager",
    losses=(64,),
    embed=16,
    captions=16,
    groups=(1, 2),
    pictures=32,
    side=48,
    shard_batch=8,
    shard_steps=4,
    workers=0,
    large=(16,),
    micro=8,
)
