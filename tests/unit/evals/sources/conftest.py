"""Opening a set by its path, and servers that hold one."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mmclip_data.stores import CacheConfig
from mmclip_data.testing.store_faults import FaultyServer, serving
from mmclip_eval.datasets import EvalDatasetConfig, open_dataset, open_samples
from mmclip_eval.eval_dataset import EvalDataset, SetConfig

Opens = Callable[..., EvalDataset]


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "HF_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def opened() -> Opens:
    """The set at a path, called `set`, with all that its own task needs."""
    return lambda path, **settings: open_dataset(EvalDatasetConfig(name="set", path=str(path), **settings)).dataset


@pytest.fixture
def indexed() -> Opens:
    """The samples at a path, of which nothing is read yet."""
    return lambda path, **settings: open_samples(SetConfig(name="set", path=str(path), **settings))


@pytest.fixture
def cache(tmp_path: Path) -> CacheConfig:
    """A cache of one's own, and a store that is not waited for."""
    return CacheConfig(folder=str(tmp_path / "cache"), mode="download", idle_seconds=5, retry_seconds=1)


@pytest.fixture
def serve() -> Iterator[Callable[[Path, str], FaultyServer]]:
    """Serve the files below a folder, each under a prefix."""
    running = []

    def start(folder: Path, prefix: str = "") -> FaultyServer:
        files = {
            f"{prefix}/{path.relative_to(folder)}": path.read_bytes() for path in folder.rglob("*") if path.is_file()
        }
        running.append(serving(FaultyServer(files)))
        return running[-1].__enter__()

    yield start
    for server in running:
        server.__exit__(None, None, None)
