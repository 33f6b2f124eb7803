"""What every test runs under: no model hub, one thread a worker, deterministic kernels, types and shapes checked."""

import dataclasses
import functools
import gc
import inspect
import os
import tempfile
from collections.abc import Callable
from typing import Any, get_args

os.environ["HF_HUB_OFFLINE"] = "1"  # a test that would download must fail, not wait
os.environ["OMP_NUM_THREADS"] = "1"  # also for the processes that tests start; several workers share the cores
os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"  # without it deterministic mode refuses matrix products on CUDA

import hypothesis
import jaxtyping
import torch

KEPT = tempfile.TemporaryDirectory(prefix="mmclip-tests-", ignore_cleanup_errors=True)
os.environ["MMCLIP_CACHE"] = KEPT.name  # features that tests leave behind are not the user's

check_shapes = jaxtyping.jaxtyped


def names_an_array(hint: Any) -> bool:
    """Whether a shape stands anywhere in an annotation; one that is a string might hold one."""
    is_shape = isinstance(hint, str) or (inspect.isclass(hint) and issubclass(hint, jaxtyping.AbstractArray))
    return is_shape or any(map(names_an_array, get_args(hint)))


def check_types(checked: Any = None, *, typechecker: Callable[[Any], Any]) -> Any:
    """`jaxtyping.jaxtyped` where an array is named; elsewhere the type checker alone, which checks as much.

    jaxtyping binds the arguments of each call by `inspect`, eighty times for a sample that is loaded: a third of the
    suite's time went there.
    """
    if checked is None:
        return functools.partial(check_types, typechecker=typechecker)
    if not inspect.isclass(checked):
        has_shapes = any(map(names_an_array, inspect.get_annotations(checked).values()))
        return (check_shapes(typechecker=typechecker) if has_shapes else typechecker)(checked)
    if dataclasses.is_dataclass(checked) and not hasattr(checked.__init__, "__wrapped__"):
        checked.__init__ = check_types(checked.__init__, typechecker=typechecker)
    return checked


jaxtyping.jaxtyped = check_types  # before the first import of ours, whose functions are decorated as they are defined

import mmclip  # noqa: E402, F401  (declares the operators that torchvision may lack before a test imports open_clip)

torch.set_num_threads(1)
torch.use_deterministic_algorithms(True)
# A busy machine draws slowly, and its examples belong to no one else: no limits of time, no folder in the checkout.
hypothesis.settings.register_profile(
    "suite", deadline=None, database=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("suite")


def pytest_collection_finish() -> None:
    """What was imported and collected stays: a search for garbage need not walk through it again."""
    gc.collect()
    gc.freeze()
