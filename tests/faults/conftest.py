"""The workshop: a folder with sound and broken things for the commands of docs/errors.md; trainings to be killed; and an S3 on
this machine, behind a proxy that fails as stores fail.
"""

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import chdir
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from PIL import Image

from mmclip_data.testing.store_faults import FaultyServer, serving

BIN = Path(sys.executable).parent
COLOURS = {"blue": (30, 30, 220), "red": (220, 30, 30)}

RUN = """# The run file of this page: a very small model on a few pictures.
output = "new"
global_batch_size = 4
precision = "fp32"
length = { steps = 2 }
data = { source = { type = "tars", shards = "data/train" }, workers = 0 }
evaluation = { report = false }

[model.inline]
embed_dim = 16
vision_cfg = { image_size = 32, patch_size = 16, width = 16, layers = 1, head_width = 16 }
text_cfg = { context_length = 8, vocab_size = 49408, width = 16, heads = 1, layers = 1 }
"""
SCORED = 'evaluation = { report = false, datasets = [{ name = "x", path = "%s", split = "train" }] }'
RUN_FILES = {
    "run.toml": RUN,
    "typo.toml": RUN.replace("length = {", "lengths = {"),
    "words.toml": RUN.replace("global_batch_size = 4", 'global_batch_size = "four"'),
    "broken.toml": RUN.replace('output = "new"', 'output = "new'),
    "latin-1.toml": RUN.replace("a few pictures", "a few pictures (M\xfcnchen)"),
    "twice.toml": RUN.replace("steps = 2", "steps = 2, epochs = 1"),
    "short.toml": RUN.replace("context_length = 8", "context_length = 2"),
    "scored.toml": RUN.replace("evaluation = { report = false }", SCORED % "nowhere"),
    "same-names.toml": RUN.replace(
        "evaluation = { report = false }",
        'evaluation = { datasets = [{ name = "x", path = "data" }, { name = "x", path = "labels" }] }',
    ),
    "preset.toml": RUN[: RUN.index("[model.inline]")] + '[model]\narch = "nano-vit-32"\n',
    "resumed.toml": RUN.replace('"new"', '"done"'),
    "rules.toml": '[[rule]]\nfigure = "zero_shot.agreeing"\nsafe = 0.9\n',
    "suite.toml": '[[datasets]]\nname = "x"\npath = "data"\nsplits = "train"\n',
}


def picture(colour: str, kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (40, 40), COLOURS[colour]).save(buffer, format=kind)
    return buffer.getvalue()


def write_shard(folder: Path, members: Callable[[int, str], Mapping[str, bytes]]) -> Path:
    """Twelve samples, indexed, in one shard."""
    from mmclip_data.shards import ShardWriter

    with ShardWriter(folder) as writer:
        for number in range(12):
            writer.add(f"s{number}", members(number, ("blue", "red")[number % 2]))
    return folder / "000000.tar"


def write_shards(place: Path) -> None:
    def sound(number: int, colour: str) -> dict[str, bytes]:
        table = {"name": colour, "caption": f"something {colour}"}
        texts = {"txt": f"something {colour}".encode(), "json": json.dumps(table).encode(), "cls": colour.encode()}
        return {"png": picture(colour), **texts}

    tar = write_shard(place / "data/train", sound)
    (place / "data/classnames.txt").write_text("blue\nred\n")
    (place / "data/zeroshot_classification_templates.txt").write_text("something {c}\n")
    tar.rename(tar.with_name("0.tar"))
    tar.with_name("000000.tar.mmidx").rename(tar.with_name("0.tar.mmidx"))
    (place / "data/train/nshards.txt").write_text("1\n")
    shutil.copytree(place / "data", place / "labels")
    (place / "labels/classnames.txt").write_text("blue\ngreen\n")
    shutil.copytree(place / "data", place / "nameless")
    (place / "nameless/classnames.txt").write_text("")
    shutil.copytree(place / "data/train", place / "unindexed")
    (place / "unindexed/0.tar.mmidx").unlink()
    write_shard(place / "bmp", lambda n, colour: {"bmp": picture(colour, "BMP"), "txt": colour.encode()})
    write_shard(place / "halves", lambda n, colour: {"png": picture(colour)} if n % 2 else {"txt": colour.encode()})
    write_shard(place / "silent", lambda n, colour: {"png": picture(colour), "json": b'{"title": "a"}'})
    # Bytes of the same length, so that sizes do not give the foreign index away.
    foreign = write_shard(place / "foreign", lambda n, colour: {"png": picture(colour), "txt": b"one"})
    other = write_shard(place / "other", lambda n, c: {"png": picture(c)[:-1] + b"x", "txt": b"two"})
    shutil.copy(other.with_name(other.name + ".mmidx"), foreign.with_name(foreign.name + ".mmidx"))
    shutil.rmtree(place / "other")
    (place / "empty").mkdir()
    (place / "empty/0.tar").touch()
    (place / "page").mkdir()
    (place / "page/0.tar").write_text("<html>404: not found</html>")


def write_models(place: Path) -> None:
    """`done` is a finished run; the others are it, damaged."""
    from mmclip_launch.cli import dispatch, run_verb

    with chdir(place):
        assert run_verb(dispatch, ["train", "run.toml", "--output", "done", "--checkpoint.every_steps", "1"]) == 0
    newest = "checkpoints/step-00000002/open_clip_model.safetensors"
    for name, damage in {"rotten": rot, "cut": cut}.items():
        shutil.copytree(place / "done", place / name)
        for weights in (place / name).glob("checkpoints/*/open_clip_model.safetensors"):
            damage(weights)
    for name in ("cut-weights", "another", "pickled", "nan"):
        (place / name).mkdir()
        for file in ("open_clip_config.json", "open_clip_model.safetensors"):
            shutil.copy((place / "done" / newest).with_name(file), place / name / file)
    cut(place / "cut-weights/open_clip_model.safetensors")
    config = place / "another/open_clip_config.json"
    config.write_text(config.read_text().replace('"embed_dim": 16', '"embed_dim": 24'))
    write_pickle(place / "pickled")
    write_nan(place / "nan/open_clip_model.safetensors")


def rot(weights: Path) -> None:
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)


def cut(weights: Path) -> None:
    weights.write_bytes(weights.read_bytes()[: weights.stat().st_size // 2])


class Payload:
    """Unpickled, it makes a file: proof that code ran."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, ("code-ran",)


def write_pickle(folder: Path) -> None:
    import torch

    (folder / "open_clip_model.safetensors").unlink()
    torch.save({"state_dict": Payload()}, folder / "open_clip_pytorch_model.bin")


def write_nan(weights: Path) -> None:
    from safetensors.torch import load_file, save_file

    tensors = load_file(weights)
    tensors["visual.proj"].fill_(float("nan"))
    save_file(tensors, weights)


@pytest.fixture(scope="session")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("workshop")
    for name, text in RUN_FILES.items():
        (place / name).write_bytes(text.encode("latin-1"))
    (place / "prompts.txt").write_text("a picture\n")
    (place / "long-prompts.txt").write_text("a very long picture of something that is {c}\n")
    (place / "notes").mkdir()
    (place / "notes/todo.txt").write_text("buy more disks\n")
    (place / "a-file").write_text("not a folder\n")
    write_shards(place)
    write_models(place)
    return place


S3_SHARDS, S3_SAMPLES = 4, 12
"""So many shards of so many samples stand at s3://data/train."""


@pytest.fixture(scope="session")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shards with their indexes, as files."""
    from mmclip_data.shards import index_shards
    from mmclip_data.testing.shard_faults import make_shard

    folder = tmp_path_factory.mktemp("disk")
    for number in range(S3_SHARDS):
        (folder / f"{number}.tar").write_bytes(make_shard(S3_SAMPLES, number).raw)
    assert not [done.error for done in index_shards(sorted(folder.glob("*.tar"))) if done.error]
    return folder


@pytest.fixture(scope="session")
def moto(disk: Path) -> Iterator[tuple[str, int]]:
    """An S3 that answers as it should; the bucket `data` holds the shards."""
    import fsspec
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        lead_to(f"http://{host}:{port}", patch)
        s3 = fsspec.filesystem("s3", skip_instance_cache=True)
        s3.mkdir("data")
        for path in disk.iterdir():
            s3.pipe_file(f"data/train/{path.name}", path.read_bytes())
    yield host, port
    server.stop()


@pytest.fixture
def proxy(moto: tuple[str, int], monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyServer]:
    """The proxy before it, and the environment that leads to it."""
    with serving(FaultyServer(upstream=moto)) as server:
        lead_to(server.url, monkeypatch)
        yield server


def lead_to(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {
        "AWS_ENDPOINT_URL": url,
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }.items():
        monkeypatch.setenv(name, value)


@dataclass
class Training:
    """A training that runs in a process (and process group) of its own."""

    pid: int
    log: Path
    ask: Callable[[str], int | None] = field(repr=False)
    code: int | None = None

    def poll(self) -> int | None:
        """Its exit code, or None while it runs."""
        if self.code is None:
            self.code = self.ask("poll")
        return self.code

    def wait(self) -> int:
        """Its exit code, once it has ended."""
        if self.code is None:
            self.code = self.ask("wait")
        assert self.code is not None
        return self.code

    def kill(self) -> None:
        """End it and its loader's processes at once, as a power cut would."""
        os.killpg(self.pid, signal.SIGKILL)
        self.wait()

    def said(self) -> str:
        return self.log.read_text()


@pytest.fixture(scope="session")
def train(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Training]]:
    """Start `mmclip train` with the given words."""
    logs = tmp_path_factory.mktemp("logs")
    command = [sys.executable, str(Path(__file__).with_name("forked_runs.py"))]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdin is not None
        assert server.stdout is not None

        def ask(**order: object) -> int | None:
            print(json.dumps(order), file=server.stdin, flush=True)
            return json.loads(server.stdout.readline())

        def start(*words: str) -> Training:
            log = logs / str(len(list(logs.iterdir())))
            log.touch()
            pid = ask(start=words, log=str(log))
            assert pid is not None
            return Training(pid, log, lambda order: ask(**{order: pid}))

        yield start
        server.stdin.close()


@dataclass
class Launched:
    """A training on two processes under torchrun; processes are known by their ids, never by a group."""

    process: "subprocess.Popen[bytes]"
    folder: Path
    log: Path

    def said(self) -> str:
        return self.log.read_text()

    def steps(self) -> int:
        ledger = self.folder / "ledger.jsonl"
        return len(ledger.read_text().splitlines()) if ledger.is_file() else 0

    def until(self, condition: Callable[[], bool], seconds: float = 300) -> float:
        """Wait for it while the launcher lives; the seconds that it took."""
        begun = time.monotonic()
        while not condition():
            assert self.process.poll() is None, self.said()
            assert time.monotonic() < begun + seconds, self.said()
            time.sleep(0.02)
        return time.monotonic() - begun

    def ranks(self) -> list[int]:
        """The ids of the trainers, in the order of their ranks."""
        found = {}
        for pid in children_of(self.process.pid):
            entries = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
            found[int(next(entry[5:] for entry in entries if entry.startswith(b"RANK=")))] = pid
        return [found[rank] for rank in sorted(found)]

    def alive(self, pids: list[int]) -> list[int]:
        """Those of them that have not ended."""
        return [pid for pid in pids if is_alive(pid)]

    def trainers_and_their_children(self) -> list[int]:
        return [pid for rank in self.ranks() for pid in (rank, *children_of(rank))]


def children_of(pid: int) -> list[int]:
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return [int(child) for task in tasks for child in (task / "children").read_text().split()]


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


@pytest.fixture
def launch(tmp_path: Path) -> Iterator[Callable[..., Launched]]:
    """Start `mmclip train` with the given words on two processes."""
    started: list[Launched] = []

    def start(folder: Path, *words: str) -> Launched:
        log = tmp_path / f"{len(started)}.log"
        command = [str(BIN / "torchrun"), "--standalone", "--nproc_per_node", "2", "-m", "mmclip_launch.train", *words]
        with log.open("wb") as file:
            process = subprocess.Popen([*command, "--output", str(folder)], stdout=file, stderr=file)
        started.append(Launched(process, folder, log))
        return started[-1]

    yield start
    for launched in started:
        if launched.process.poll() is None:
            launched.process.kill()  # its trainers go with it
            launched.process.wait()
