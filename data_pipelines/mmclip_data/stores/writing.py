"""A store that is written to: whole files up, folders listed, folders away; as patient and as typed as reading is."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmclip.errors import UserError
from mmclip_data.stores.faults import NotFoundError
from mmclip_data.stores.filesystems import Store
from mmclip_data.stores.urls import StoreUrl

WRITABLE = ("s3", "s3a", "gs", "gcs", "hf", "memory")


class WritableStore(Store):
    """One kind of store that takes files."""

    def upload(self, path: Path, url: StoreUrl) -> None:
        """Copy a file of this machine there; the object appears whole or not at all.

        Raises:
            StoreError: the store failed for too long.
            OSError: the file cannot be read.
        """
        size = path.stat().st_size
        self._retried(url, lambda: self._call("put_file", str(path), self._path(url), expected=size))

    def names(self, folder: StoreUrl) -> list[str]:
        """What is directly in a folder, files and folders, by the last part of each name; nothing where it is not there."""
        try:
            entries: Sequence[Mapping[str, Any]] = self._retried(
                folder, lambda: self._call("ls", self._path(folder), detail=True)
            )
        except NotFoundError:
            return []
        return sorted({str(entry["name"]).rstrip("/").rpartition("/")[2] for entry in entries})

    def content(self, url: StoreUrl) -> bytes:
        """A small object whole.

        Raises:
            NotFoundError: there is none.
            StoreError: the store failed for too long.
        """
        facts = self.facts(url)
        return self.read(url, facts, 0, facts.size)

    def remove(self, folder: StoreUrl) -> None:
        """Delete a folder with all that is in it.

        Raises:
            StoreError: the store failed for too long.
        """
        try:
            self._retried(folder, lambda: self._call("rm", self._path(folder), recursive=True))
        except NotFoundError:
            return


def writable(url: str, option: str) -> StoreUrl:
    """Check a URL that is to be written to.

    Raises:
        UserError: it is none, or of a kind that takes no files.
    """
    protocol, _, rest = url.partition("://")
    if protocol not in WRITABLE or not rest.strip("/"):
        raise UserError(
            f"{option}={url!r}: expected a URL of a store that takes files ({', '.join(f'{one}://' for one in WRITABLE)}), "
            "such as s3://bucket/runs/NAME"
        )
    return StoreUrl.parse(url.rstrip("/"))
