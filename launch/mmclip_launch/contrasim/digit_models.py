"""Small vision transformers of several seeds on scikit-learn's digits, trained by mmclip's own step."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator
from jaxtyping import Int, UInt8
from torch import Tensor

from mmclip.batch import DataPosition, ImageTextBatch
from mmclip.objectives import ClipConfig
from mmclip.towers.layer_outputs import LayerRecorder
from mmclip.towers.two_tower import TwoTower
from mmclip.training.accumulate import AccumulationConfig
from mmclip.training.module import TrainingModule
from mmclip.training.optim import OptimizerConfig, build_optimizer
from mmclip.training.progress import Progress
from mmclip.training.schedule import ScheduleConfig
from mmclip.training.step import TrainStep, UpdateRule
from mmclip_data.features.layers import LayerFeatures

LAYERS = 6
CAPTIONS = tuple(
    f"a {word}" for word in ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
)
MODEL_CFG: dict[str, Any] = {
    "embed_dim": 64,
    "vision_cfg": {"image_size": 8, "patch_size": 2, "width": 64, "layers": LAYERS, "head_width": 16},
    "text_cfg": {"context_length": 8, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
}
BATCH, CHUNK = 64, 256
OPTIMIZER = OptimizerConfig(lr=1e-3)
Advance = Callable[[int, int], None]
"""Called after each step with the steps done and the steps in all."""


@dataclass(frozen=True)
class Digits:
    """The 1,797 pictures of 8 x 8 pixels; the caption of each names its digit."""

    images: UInt8[Tensor, "row 3 8 8"]
    labels: Int[Tensor, " row"]

    @classmethod
    def load(cls) -> "Digits":
        """Those that come with scikit-learn."""
        from sklearn.datasets import load_digits

        found: Any = load_digits()
        grey = torch.from_numpy(found.images * (255 / 16)).to(torch.uint8)
        return cls(grey[:, None].expand(-1, 3, -1, -1).contiguous(), torch.from_numpy(found.target))


def trained(digits: Digits, seed: int, steps: int, advance: Advance | None = None) -> TwoTower:
    """Two towers that learn to match digits and their captions; the seed decides weights and batches."""
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(seed)
        towers = TwoTower(MODEL_CFG)
        module = TrainingModule(towers, ClipConfig(duplicates="positive").build())
        rule = UpdateRule(OPTIMIZER, ScheduleConfig(), steps * BATCH, BATCH, seed)
        step = TrainStep(Accelerator(cpu=True), module, build_optimizer(OPTIMIZER, module), rule, AccumulationConfig())
        progress = Progress()
        for batch in _batches(digits, towers, seed, steps):
            step(step.measured(batch), progress)
            progress = progress.after(BATCH)
            if advance is not None:
                advance(progress.step, steps)
        step.release()
    return towers.eval()


def layers_of_digits(towers: TwoTower, digits: Digits) -> LayerFeatures:
    """What each layer of the image tower makes of every picture."""
    recorder = LayerRecorder(towers)
    with recorder.listening():
        parts = [recorder.images(images).outputs for images in digits.images.split(CHUNK)]
    features = tuple(torch.cat(layer) for layer in zip(*parts, strict=True))
    return LayerFeatures("image", recorder.names("image"), features, torch.arange(len(digits.images)))


def zero_shot_accuracy(towers: TwoTower, digits: Digits) -> float:
    """Share of the pictures, all of which were trained on, whose nearest caption is their own."""
    images = torch.cat([towers.embed_uint8(part) for part in digits.images.split(CHUNK)])
    found = (images @ towers.embed_texts(CAPTIONS).T).argmax(dim=1)
    return float((found == digits.labels).double().mean())


def _batches(digits: Digits, towers: TwoTower, seed: int, steps: int) -> Iterator[ImageTextBatch]:
    tokens = towers.tokenizer(CAPTIONS)
    generator = torch.Generator().manual_seed(seed)
    for step in range(steps):
        rows = torch.randperm(len(digits.labels), generator=generator)[:BATCH]
        yield ImageTextBatch(
            images=digits.images[rows],
            tokens=tokens[digits.labels[rows]],
            keys=torch.randint(1 << 62, (BATCH,), generator=generator),
            ids=tuple(f"digits/{row}" for row in rows.tolist()),
            position=DataPosition((step + 1) * BATCH),
        )
