"""Every test of this folder needs a CUDA device and is skipped, by name, where there is none."""

import pytest
import torch


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "on_cuda" in item.path.parts:
            item.add_marker(pytest.mark.gpu)
            item.add_marker(pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA"))


@pytest.fixture
def cuda() -> torch.device:
    return torch.device("cuda")
