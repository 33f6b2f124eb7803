"""What stands at a mirror's URL, and who may add to it.

    leases/00000003-5f2c9a1b.json                                  a trainer, and the step it went on from
    checkpoints/step-00000200-t00000003-5f2c9a1b/MANIFEST.json     the last object of a copy to be written
                                                 /open_clip_model.safetensors ...
                                                 /run/config.toml, run/ledger.jsonl ...

A store renames nothing and asks nobody. So the token stands in the folder's name, a folder without a manifest is no copy,
and one of an earlier trainer that lies behind the step from which a later one went on counts for nothing: it was written by
a trainer that had been given up.
"""

import json
import re
import secrets
from dataclasses import dataclass

from mmclip.envelope import MANIFEST
from mmclip.training.checkpoint.lease import CHECKPOINTS, LEASES, StaleLeaseError
from mmclip_data.stores.config import CacheConfig
from mmclip_data.stores.urls import StoreUrl
from mmclip_data.stores.writing import WritableStore

RUN_FILES = "run/"
"""Before the names of the run folder's own files in a copy."""
LEASE_NAME = re.compile(r"^(\d{8,})-([0-9a-f]{8})\.json$")
COPY_NAME = re.compile(r"^step-(\d{8,})-t(\d{8,})-([0-9a-f]{8})$")


@dataclass(frozen=True, order=True)
class Holder:
    """A trainer that writes, or wrote: by token, then by chance where two asked at once."""

    token: int
    nonce: str

    @property
    def name(self) -> str:
        return f"{self.token:08d}-{self.nonce}"


@dataclass(frozen=True, order=True)
class Copy:
    """A checkpoint at the mirror, sealed or not."""

    step: int
    holder: Holder

    @property
    def name(self) -> str:
        return f"step-{self.step:08d}-t{self.holder.name}"


class Place:
    """A mirror's URL."""

    def __init__(self, url: str, retry_seconds: float = 60.0) -> None:
        self.url = StoreUrl(url.rstrip("/"))
        self.store = WritableStore(self.url.protocol, CacheConfig(retry_seconds=retry_seconds))

    def at(self, *parts: str) -> StoreUrl:
        """An object or folder beneath."""
        return StoreUrl("/".join([self.url.full, *parts]))

    def holders(self) -> list[Holder]:
        """All who ever asked, the newest last."""
        found = [LEASE_NAME.match(name) for name in self.store.names(self.at(LEASES))]
        return sorted(Holder(int(match[1]), match[2]) for match in found if match)

    def claim(self, resumed_step: int) -> Holder:
        """Become the one who writes; what earlier ones write from now on, or wrote behind `resumed_step`, counts for nothing.

        Raises:
            StoreError: the store does not take it.
        """
        token = max((holder.token for holder in self.holders()), default=0) + 1
        holder = Holder(token, secrets.token_hex(4))
        self.store.write(self.at(LEASES, f"{holder.name}.json"), json.dumps({"resumed_step": resumed_step}).encode())
        return holder

    def check(self, holder: Holder) -> None:
        """Refuse to go on for a trainer that was replaced.

        Raises:
            StaleLeaseError: it was.
        """
        newest = self.holders()[-1:]
        if newest and newest[0] > holder:
            raise StaleLeaseError(
                f"{self.url}: another trainer has taken over this run (token {newest[0].name}, this one has {holder.name}): "
                "this process copies nothing more"
            )

    def copies(self) -> list[Copy]:
        """All that are sealed and count, the newest first."""
        resumed = {holder: self._resumed_step(holder) for holder in self.holders()}

        def counts(copy: Copy) -> bool:
            return all(copy.step <= step for holder, step in resumed.items() if holder > copy.holder)

        return [copy for copy in self.every_copy() if counts(copy) and self.is_sealed(copy)]

    def every_copy(self) -> list[Copy]:
        """All, sealed or not, the newest first."""
        found = [COPY_NAME.match(name) for name in self.store.names(self.at(CHECKPOINTS))]
        named = [Copy(int(match[1]), Holder(int(match[2]), match[3])) for match in found if match]
        return sorted(named, reverse=True)

    def is_sealed(self, copy: Copy) -> bool:
        """Whether it was written to its end."""
        return MANIFEST in self.store.names(self.at(CHECKPOINTS, copy.name))

    def retire(self, keep: int, holder: Holder) -> None:
        """Delete what is older than the newest `keep` copies, and halves that earlier trainers left."""
        kept = self.copies()[:keep]
        for copy in self.every_copy():
            is_half = copy.holder < holder and not self.is_sealed(copy)
            if copy not in kept and ((kept and copy < kept[-1]) or is_half):
                self.store.remove(self.at(CHECKPOINTS, copy.name))

    def _resumed_step(self, holder: Holder) -> int:
        return int(json.loads(self.store.content(self.at(LEASES, f"{holder.name}.json")))["resumed_step"])
