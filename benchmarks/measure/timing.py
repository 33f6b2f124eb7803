"""CPU and wall time of the two sides, in turn, as rows."""

import time
from collections.abc import Callable, Mapping
from functools import partial

from measure.interleave import interleave
from measure.ratios import Row, compare

METRICS = ("CPU seconds", "wall seconds")


def timed(run: Callable[[], object]) -> tuple[float, float]:
    """CPU seconds of all threads of this process, and seconds on the clock."""
    cpu, wall = time.process_time(), time.perf_counter()
    run()
    return time.process_time() - cpu, time.perf_counter() - wall


def time_sides(sides: Mapping[str, Callable[[], object]], repetitions: int) -> dict[str, list[tuple[float, float]]]:
    """The times of each side, called in turn."""

    def measure(side: str, repetition: int) -> tuple[float, float]:
        found = timed(sides[side])
        print(f"  {side}, {repetition + 1} of {repetitions}: {found[0]:.3g} CPU s, {found[1]:.3g} s", flush=True)
        return found

    return interleave({side: partial(measure, side) for side in sides}, repetitions)


def time_rows(case: str, ours: list[tuple[float, float]], peer: list[tuple[float, float]], peer_name: str) -> list[Row]:
    """A row for CPU time and one for wall time."""
    return [
        compare(
            case,
            metric,
            [times[number] for times in ours],
            [times[number] for times in peer],
            peer_name,
            higher_is_better=False,
        )
        for number, metric in enumerate(METRICS)
    ]
