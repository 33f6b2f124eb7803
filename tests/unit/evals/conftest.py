"""A CLIP_benchmark folder made with the standard library's tarfile alone, and a model whose every answer is known."""

import io
import tarfile
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from html.parser import HTMLParser
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from mmclip.preprocess import ImageSpec

COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255), "white": (255, 255, 255), "black": (0, 0, 0)}
Sample = Mapping[str, bytes]


def picture_of(colour: str) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (12, 10), COLOURS[colour]).save(buffer, format="PNG")
    return buffer.getvalue()


def write_tar_file(path: Path, samples: Sequence[Sample]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for number, sample in enumerate(samples):
            for extension, data in sorted(sample.items()):
                member = tarfile.TarInfo(f"s{number:07d}.{extension}")
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))


class ColourModel:
    """Sees the mean colour of a picture and the colour words of a text, and nothing else."""

    spec = ImageSpec(size=(8, 8))
    device = torch.device("cpu")

    def __init__(self) -> None:
        self.palette = torch.tensor(list(COLOURS.values()), dtype=torch.float32)
        self.image_rows: list[int] = []

    def embed_uint8(self, images: Tensor) -> Tensor:
        self.image_rows.append(len(images))
        colour = torch.cdist(images.float().mean(dim=(2, 3)), self.palette).argmin(dim=1)
        return torch.eye(len(COLOURS))[colour]

    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        return torch.stack([self._text(text) for text in texts])

    def _text(self, text: str) -> Tensor:
        # A little of every other colour keeps a text of several words off the axes, and no two scores equal by chance.
        found = torch.tensor([1.0 if name in text else 0.01 * rank for rank, name in enumerate(COLOURS)])
        return found / found.norm()


class ConstantModel(ColourModel):
    """A collapsed model: every picture and every text gets one and the same embedding."""

    def embed_uint8(self, images: Tensor) -> Tensor:
        return torch.full((len(images), 37), 37**-0.5)

    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        return torch.full((len(texts), 37), 37**-0.5)


@pytest.fixture
def replicates_of(monkeypatch) -> Callable[[ModuleType, Callable[[], object]], tuple[np.ndarray, np.ndarray]]:
    """How often each sample was drawn in five replicates, and the figures that a module's bootstrap takes of them."""

    def caught(module: ModuleType, call: Callable[[], object]) -> tuple[np.ndarray, np.ndarray]:
        kept: list[tuple[np.ndarray, np.ndarray]] = []

        def interval(strata, statistic, centre=None) -> tuple[float, float]:
            counts = np.random.default_rng(0).integers(0, 4, (5, sum(strata))).astype(np.int32)
            kept.append((counts, statistic(counts)))
            return 0.0, 1.0

        monkeypatch.setattr(module, "statistic_interval", interval)
        call()
        (found,) = kept
        return found

    return caught


@pytest.fixture
def picture() -> Callable[[str], bytes]:
    """PNG bytes of one colour."""
    return picture_of


@pytest.fixture
def write_tar() -> Callable[[Path, Sequence[Sample]], None]:
    """Write samples (extension to bytes) as a tar with the keys s0000000, s0000001, ..."""
    return write_tar_file


@pytest.fixture
def colour_model() -> ColourModel:
    return ColourModel()


@pytest.fixture
def constant_model() -> ConstantModel:
    return ConstantModel()


@pytest.fixture
def classification_folder(tmp_path: Path) -> Path:
    """Three classes in two shards; of six pictures, the last one is labelled wrongly."""
    root = tmp_path / "wds_colours"
    labelled = [("red", 0), ("green", 1), ("blue", 2), ("red", 0), ("green", 1), ("green", 2)]
    samples = [{"cls": str(label).encode(), "png": picture_of(colour)} for colour, label in labelled]
    write_tar_file(root / "test" / "0.tar", samples[:4])
    write_tar_file(root / "test" / "1.tar", samples[4:])
    (root / "test" / "nshards.txt").write_text("2")
    (root / "classnames.txt").write_text("red\ngreen\nblue\n")
    (root / "zeroshot_classification_templates.txt").write_text("a {c} thing\nsomething {c}\n")
    return root


@pytest.fixture
def retrieval_folder(tmp_path: Path) -> Path:
    """Four pictures; the first has two captions, and the last one's caption names the colour of the first."""
    root = tmp_path / "wds_captions"
    texts = [("red", "a red thing\nreally red"), ("green", "so green"), ("blue", "deep blue"), ("white", "rather red")]
    write_tar_file(
        root / "test" / "0.tar", [{"txt": text.encode(), "png": picture_of(colour)} for colour, text in texts]
    )
    (root / "test" / "nshards.txt").write_text("1\n")
    (root / "dataset_type.txt").write_text("retrieval\n")
    return root


VOID = {"meta", "img", "br", "link", "input", "hr"}


class Reader(HTMLParser):
    """Refuses tags that do not close, and keeps the ids, the addresses and the words."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: Counter[str] = Counter()
        self.addresses: list[str] = []
        self.tags: Counter[str] = Counter()
        self.words = ""
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        self.tags[tag] += 1
        self.ids.update([given["id"]] if "id" in given else [])
        self.addresses += [given[name] for name in ("href", "src", "srcset", "action", "data") if name in given]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words += data


@pytest.fixture
def page_reader() -> type[Reader]:
    """What reads a page of ours."""
    return Reader
