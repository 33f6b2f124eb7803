"""Two ranks with two loader processes each, killed as a machine is that loses its power: at ten moments, all at once."""

import random
import time
from collections.abc import Callable
from typing import Any

import pytest

KILLS, STEPS = 10, 24


@pytest.mark.slow
@pytest.mark.xdist_group("launchers")
def test_ten_kills_of_the_whole_tree_leave_no_trace(small: Callable[..., Any], two_ranks: Any):
    """Each by its own id: a kill of the launcher's process group alone would spare the ranks, which have their own."""
    dice, run = random.Random(8), small(workers=2)
    for number in range(KILLS):
        target = (number + 1) * STEPS // (KILLS + 1)
        run.start("torchrun", "--resume")
        run.until(lambda target=target: run.steps_done() >= target)
        time.sleep(dice.uniform(0.0, 0.05))  # between the steps, inside a step, inside a save
        run.kill_tree()
    run.finish("torchrun", "--resume")
    assert run.digests() == two_ranks.digests()
    assert run.ledger() == two_ranks.ledger()
