"""Pictures that look alike: hashes of 64 bits that differ in few places, found without comparing every pair.

Two hashes that differ in at most d bits agree in at least one of d + 1 bands of bits, so only those that share a band
are compared. What is alike directly or over others is one group (union-find).
"""

import numpy as np
from numpy.typing import NDArray

BITS = 64
MIN_SET_BITS = 8
"""A picture without structure (one colour) has next to no bits set, or nearly all: such hashes say nothing."""


def is_flat(hashes: NDArray[np.uint64]) -> NDArray[np.bool_]:
    """Hashes of pictures without structure, which would all be alike."""
    bits = np.bitwise_count(hashes)
    return (bits < MIN_SET_BITS) | (bits > BITS - MIN_SET_BITS)


def first_alike(hashes: NDArray[np.uint64], distance: int) -> NDArray[np.int64]:
    """For each hash the first one of its group; `distance` is the number of bits in which two may differ."""
    distinct, first, member = np.unique(hashes, return_index=True, return_inverse=True)
    parent = np.arange(len(distinct))
    for shift, width in _bands(distance) if distance else ():
        band = (distinct >> np.uint64(shift)) & np.uint64((1 << width) - 1)
        order = np.argsort(band, kind="stable")
        starts = np.flatnonzero(np.diff(band[order], prepend=band[order][:1] + np.uint64(1)))
        for group in np.split(order, starts[1:]):
            _join_group(parent, distinct, group, distance)
    roots = np.array([_root(parent, place) for place in range(len(parent))], np.int64)
    lowest = np.full(len(distinct), len(hashes), np.int64)
    np.minimum.at(lowest, roots, first)
    return lowest[roots[member]]


def _bands(distance: int) -> list[tuple[int, int]]:
    """First bit and number of bits of each band."""
    edges = np.linspace(0, BITS, distance + 2).astype(int).tolist()
    return [(start, end - start) for start, end in zip(edges, edges[1:], strict=False)]


def _join_group(parent: NDArray[np.int64], hashes: NDArray[np.uint64], group: NDArray[np.int64], distance: int) -> None:
    for number, place in enumerate(group[:-1].tolist()):
        rest = group[number + 1 :]
        for other in rest[np.bitwise_count(hashes[rest] ^ hashes[place]) <= distance].tolist():
            parent[_root(parent, other)] = _root(parent, place)


def _root(parent: NDArray[np.int64], place: int) -> int:
    while parent[place] != place:
        parent[place] = parent[parent[place]]
        place = int(parent[place])
    return place
