"""URLs of shards: what may be shown of one, what tells two of them apart, and how names are joined to them."""

import posixpath
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit

from mmclip.errors import UserError

PROTOCOLS = ("s3", "s3a", "gs", "gcs", "hf", "http", "https", "memory")
SIGNING = re.compile(
    r"^(x-amz-.*|x-goog-.*|awsaccesskeyid|googleaccessid|signature|expires|policy|key-pair-id"
    r"|se|sig|sp|spr|sr|st|sv|skoid|sktid|skt|ske|sks|skv)$",
    re.IGNORECASE,
)
"""Query parameters that say who may read for how long, not what is read; those of S3, GCS, CloudFront and Azure."""


def is_url(text: str) -> bool:
    """Whether `text` names something on a store (or would, were its protocol known)."""
    return "://" in text


def refuse_url(option: str, path: Path) -> None:
    """Refuse a URL where a folder of this machine is written: as a path it would become a folder called `s3:`.

    Raises:
        UserError: it is one.
    """
    protocol, colon, rest = str(path).partition(":/")
    if colon and protocol in PROTOCOLS:
        url = public(f"{protocol}://{rest.lstrip('/')}")
        raise UserError(
            f"{option}={url}: expected a folder of this machine; have it written there, and copy it to the store"
        )


@dataclass(frozen=True)
class StoreUrl:
    """One object or folder on a store; its text, `str()`, is safe to print: a query, which may be a signature, is not in it."""

    full: str = field(repr=False)

    @classmethod
    def parse(cls, text: str) -> "StoreUrl":
        """Check and wrap what a person wrote.

        Raises:
            UserError: a protocol that is not read, a password inside the URL, or nothing behind the protocol.
        """
        protocol, _, rest = text.partition("://")
        if protocol not in PROTOCOLS:
            raise UserError(
                f"shards={public(text)!r}: stores of the kind {protocol}:// are not read; expected one of "
                f"{', '.join(f'{known}://' for known in PROTOCOLS)}, or a path"
            )
        host, slash, _ = rest.partition("/")
        if protocol.startswith("http") and "@" in host:
            raise UserError(
                f"shards={public(text)!r}: a user name or password stands in the URL, and URLs are written into the run "
                "folder: put it into ~/.netrc instead"
            )
        if not rest.strip("/") or (protocol.startswith("http") and not host):
            raise UserError(
                f"shards={public(text)!r}: expected a place behind {protocol}://, such as a bucket and a folder"
            )
        return cls(text)

    @property
    def protocol(self) -> str:
        return self.full.partition("://")[0]

    @property
    def bare(self) -> str:
        """Without query and fragment, where they are such: a key of S3 may hold `?` and `#`."""
        return re.split(r"[?#]", self.full, maxsplit=1)[0] if self.protocol.startswith("http") else self.full

    @property
    def query(self) -> str:
        return self.full[len(self.bare) :]

    @property
    def name(self) -> str:
        """The last part of the path, as the file would be called on a disk."""
        name = posixpath.basename(self.bare.rstrip("/"))
        return unquote(name) if self.protocol.startswith("http") else name

    @property
    def parent(self) -> "StoreUrl":
        """The folder; it keeps no query, since a signature is good for one object."""
        return StoreUrl(self.bare.rstrip("/").rpartition("/")[0])

    @property
    def identity(self) -> str:
        """What tells this object from others; renewing a signature does not change it."""
        if not self.query:
            return self.full
        kept = [
            pair for pair in parse_qsl(self.query.lstrip("?"), keep_blank_values=True) if not SIGNING.match(pair[0])
        ]
        return f"{self.bare}?{urlencode(kept)}" if kept else self.bare

    def sibling(self, suffix: str) -> "StoreUrl":
        """The object whose name is longer by `suffix`, under the same query."""
        return StoreUrl(self.bare + suffix + self.query)

    def __str__(self) -> str:
        return public(self.full)

    def __repr__(self) -> str:
        return f"StoreUrl({str(self)!r})"

    def key(self, etag: str, size: int) -> str:
        """A name for this content that no other has: 64 hex digits, from which no part of the URL can be read."""
        return sha256("\n".join((self.identity, etag, str(size))).encode()).hexdigest()


def public(text: str) -> str:
    """`text`, a URL, without user, query and fragment: those may be secrets."""
    protocol, mark, rest = text.partition("://")
    if not mark:
        return text
    if protocol.startswith("http"):
        rest = re.split(r"[?#]", rest, maxsplit=1)[0]
    host, slash, path = rest.partition("/")
    return f"{protocol}://{host.rpartition('@')[2] if protocol.startswith('http') else host}{slash}{path}"


def without_secrets(table: Any) -> Any:
    """A table of settings, as it may be kept and compared: signatures of URLs are left out."""
    if isinstance(table, Mapping):
        return {name: without_secrets(entry) for name, entry in table.items()}
    if isinstance(table, list | tuple):
        return type(table)(without_secrets(entry) for entry in table)
    if isinstance(table, str) and is_url(table):
        return "::".join(_unsigned(part) if is_url(part) else part for part in table.split("::"))
    return table


def _unsigned(part: str) -> str:
    signed = urlsplit(part).query if part.startswith("http") else ""
    return StoreUrl(part).identity if any(SIGNING.match(name) for name, _ in parse_qsl(signed)) else part
