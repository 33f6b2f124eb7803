"""Which few of many are shown: drawn by a fixed seed, never picked by hand or by score."""

import numpy as np

SEED = 0


def draw(count: int, total: int, stream: int = 0) -> list[int]:
    """`count` different numbers below `total` (all of them where there are fewer), in ascending order.

    The same for the same arguments on every machine: raw Philox bits and a stable argsort, which no library moves.
    """
    keys = np.random.Philox(key=[SEED, stream]).random_raw(total)
    return sorted(np.argsort(keys, kind="stable")[:count].tolist())
