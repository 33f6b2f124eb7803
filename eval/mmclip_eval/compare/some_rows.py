"""A fixed draw of the pictures of a set, as a source of its own: layers cost more room than embeddings."""

from collections.abc import Sequence

import xxhash

from mmclip_data.features.encoder import FingerprintedSource


class SomeRows:
    """Chosen rows of a source, in the order given."""

    def __init__(self, source: FingerprintedSource, rows: Sequence[int]) -> None:
        self.source = source
        self.rows = tuple(rows)

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def fingerprint(self) -> str:
        """Of the pictures and their order."""
        return xxhash.xxh3_128_hexdigest(repr((self.source.fingerprint, self.rows)).encode())

    def sample_id(self, index: int) -> str:
        """Of the row's sample."""
        return self.source.sample_id(self.rows[index])

    def image_bytes(self, index: int) -> bytes:
        """The encoded picture.

        Raises:
            BadSampleError: it cannot be read.
        """
        return self.source.image_bytes(self.rows[index])

    def close(self) -> None:
        """Release what is open; a later read opens it again."""
        self.source.close()
