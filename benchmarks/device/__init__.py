"""The sections of `benchmarks/gpu.py`, one a file; each notes at once what it has measured."""
