"""`PictureRows`: the rows of the encode pass, one a sample, or one for each of the pictures that a sample has."""

from collections.abc import Sequence

import torch
import xxhash
from jaxtyping import Int
from torch import Tensor

from mmclip.errors import BadSampleError, UserError
from mmclip_eval.samples import Samples


class PictureRows:
    """Pictures in the order of the samples, those of one sample in the order of `places`.

    Without `places` each sample has one picture. With them a row stands for each place that a sample fills, such as the
    `0.png` and `1.png` of Winoground; each sample fills one at least.
    """

    def __init__(self, samples: Samples, places: Sequence[str] = ()) -> None:
        self.samples = samples
        self.places = tuple(places)
        rows = [(i, place) for i in range(len(samples)) for place in self._filled(i)] if places else []
        self._place = [place for _, place in rows]
        self.sample_of_row: Int[Tensor, " row"] = (
            torch.tensor([i for i, _ in rows]) if places else torch.arange(len(samples))
        )
        """Index of the sample that each row belongs to."""

    def __len__(self) -> int:
        return len(self.sample_of_row)

    @property
    def fingerprint(self) -> str:
        """Names the pictures and their order."""
        fingerprint = self.samples.fingerprint
        return xxhash.xxh3_128_hexdigest(repr((fingerprint, self.places)).encode()) if self.places else fingerprint

    def close(self) -> None:
        """Release what is open; a later read opens it again."""
        self.samples.close()

    def sample_id(self, index: int) -> str:
        """Of the row's sample, and which of its pictures it is where there are several."""
        sample_id = self.samples.sample_id(int(self.sample_of_row[index]))
        return f"{sample_id} .{self._place[index]}" if self.places else sample_id

    def image_bytes(self, index: int) -> bytes:
        """The encoded picture.

        Raises:
            BadSampleError: it cannot be read.
        """
        sample = int(self.sample_of_row[index])
        if not self.places:
            return self.samples.image_bytes(sample)
        place = self._place[index]
        try:
            return self.samples.members(sample, (place,))[place]
        except UserError as error:
            raise BadSampleError(str(error)) from error

    def _filled(self, sample: int) -> list[str]:
        there = self.samples.extensions(sample)
        filled = [place for place in self.places if place in there]
        assert filled, "samples without a picture are left out before"
        return filled


def without_picture(samples: Samples, places: Sequence[str] = ()) -> dict[int, str]:
    """Samples that are of no use, or fill none of the places; each with the reason."""
    expected = f"expected one of {', '.join(places)} (pictures)"
    lacking = [i for i in range(len(samples)) if places and not set(places) & set(samples.extensions(i))]
    reasons = {i: f"has no picture: members {', '.join(samples.extensions(i))}; {expected}" for i in lacking}
    return reasons | dict(samples.bad)
