"""DataComp's subset files: a sorted `.npy` of 128-bit ids, each as two 64-bit numbers, high half first."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import xxhash
from numpy.typing import NDArray

from mmclip.errors import UserError


@dataclass(frozen=True)
class UidSubset:
    """The ids of a subset, in rising order."""

    high: NDArray[np.uint64]
    low: NDArray[np.uint64]

    @classmethod
    def load(cls, path: Path) -> "UidSubset":
        """Read a subset file; one that is not sorted is sorted here.

        Raises:
            UserError: no such file, or none of that kind.
        """
        if not path.is_file():
            raise UserError(f"uids={path}: no such file")
        try:
            ids = np.load(path, allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:  # numpy's own words advise to unpickle it
            raise UserError(f"uids={path}: not a whole .npy file of numbers") from error
        names = ids.dtype.names or ()
        if len(names) != 2 or ids.ndim != 1 or any(ids.dtype[name] != np.dtype("<u8") for name in names):
            raise UserError(
                f"uids={path}: {ids.dtype} of shape {ids.shape}, expected a list of pairs of 64-bit numbers (u8,u8), as "
                "DataComp's subset files are"
            )
        high, low = (np.ascontiguousarray(ids[name]) for name in names)
        order = np.lexsort((low, high))
        return cls(high[order], low[order])

    def __len__(self) -> int:
        return len(self.high)

    def __contains__(self, uid: str) -> bool:
        """Whether an id of 32 hex digits is in the subset.

        Raises:
            ValueError: it is not such an id.
        """
        number = int(uid, 16)
        if number >> 128:
            raise ValueError(f"{uid!r} has more than 128 bits")
        high, low = np.uint64(number >> 64), np.uint64(number & (1 << 64) - 1)
        first, last = np.searchsorted(self.high, high, "left"), np.searchsorted(self.high, high, "right")
        place = first + np.searchsorted(self.low[first:last], low)
        return bool(place < last and self.low[place] == low)

    @property
    def fingerprint(self) -> str:
        return xxhash.xxh3_128_hexdigest(self.high.tobytes() + self.low.tobytes())
