"""What every test runs under: no model hub, one thread a worker, deterministic kernels."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"  # a test that would download must fail, not wait
os.environ["OMP_NUM_THREADS"] = "1"  # also for the processes that tests start; several workers share the cores
os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"  # without it deterministic mode refuses matrix products on CUDA

import torch
from hypothesis import HealthCheck, settings

import mmclip  # noqa: F401  (declares the operators that torchvision may lack before a test imports open_clip)

torch.set_num_threads(1)
torch.use_deterministic_algorithms(True)

# Other work on the machine must not fail a test: neither an example nor its making has a time limit.
settings.register_profile("mmclip", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("mmclip")
