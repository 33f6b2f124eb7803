"""The names of the tasks, as they stand in configurations, results and CLIP_benchmark's files."""

from typing import Literal

Task = Literal["zero_shot_classification", "zero_shot_retrieval"]
