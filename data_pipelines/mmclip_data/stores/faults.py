"""What can go wrong at a store, told apart by what helps: another name, other credentials, another try, or nothing.

A message holds the public part of the URL, a status and the store's error code. The text of the libraries' own errors is
never passed on: they put headers and signed URLs into it.
"""

import asyncio
import errno
import os
import socket
import ssl
from collections.abc import Iterator

from mmclip.errors import MachineError
from mmclip_data.stores.urls import StoreUrl

CREDENTIALS = {
    "s3": "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, AWS_PROFILE or an instance role; "
    "data.source.cache.anonymous = true reads a public bucket without any",
    "gs": "GOOGLE_APPLICATION_CREDENTIALS or `gcloud auth application-default login`; "
    "data.source.cache.anonymous = true reads a public bucket without any",
    "hf": "HF_TOKEN or `hf auth login`, and the data set's conditions accepted on its page",
    "http": "~/.netrc, or a signed URL that has not expired",
}
CREDENTIAL_CODES = {
    "ExpiredToken",
    "ExpiredTokenException",
    "InvalidToken",
    "TokenRefreshRequired",
}
CREDENTIAL_ERRORS = {
    "NoCredentialsError",
    "PartialCredentialsError",
    "CredentialRetrievalError",
    "ProfileNotFound",
    "DefaultCredentialsError",
    "RefreshError",
    "GatedRepoError",
    "LocalTokenNotFoundError",
}
CUT_SHORT = {"ClientPayloadError", "ContentLengthError", "IncompleteRead", "IncompleteReadError", "ResponseParserError"}
DAMAGED = {"FlexibleChecksumError"}
"""The bytes that came are not those that the store had vouched for."""
THEIRS = {"aiohttp", "aiobotocore", "botocore", "fsspec", "gcsfs", "google", "httpcore", "httpcore2", "httpx", "httpx2"}
THEIRS |= {"huggingface_hub", "requests", "s3fs", "urllib3"}


class StoreError(MachineError, OSError):
    """The store failed, not the sample: nothing is replaced, the run stops. The message is complete and holds no secret."""

    may_pass = False
    """Whether another try may succeed."""


class NotFoundError(StoreError):
    """No such object: another try finds none either."""


class ForbiddenError(StoreError):
    """The credentials do not do; one other try is made, with fresh ones."""


class ChangedError(StoreError):
    """The object is another one than at the beginning: its samples may be others too."""


class RefusedError(StoreError):
    """The store understood and will not: another region, another method."""


class PassingError(StoreError):
    """What may have passed at the next try."""

    may_pass = True


class UnavailableError(PassingError):
    """An answer that says: not now (throttled, or 5xx)."""


class UnreachableError(PassingError):
    """No answer at all: no such host, refused, reset, no network."""


class StalledError(PassingError):
    """Bytes stopped coming."""


class ShortBodyError(PassingError):
    """The answer ended before all bytes were there, or was damaged."""


def classify(error: BaseException, url: StoreUrl) -> StoreError | None:
    """The fault behind an exception of a store's library, or None for one that is a fault of the program."""
    if isinstance(error, StoreError):
        return error
    chain = list(_chain(error))
    status, code = next(filter(any, map(_answer, chain)), (0, ""))
    names = {kind.__name__ for link in chain for kind in type(link).__mro__}
    if names & CUT_SHORT:  # before the status: aiohttp says 400 of its own accord when a body is cut
        return ShortBodyError(f"{url}: the answer ended before all bytes were there")
    if names & DAMAGED:
        return ShortBodyError(f"{url}: the answer was damaged on its way, or cut: its checksum is another")
    if code in CREDENTIAL_CODES or names & CREDENTIAL_ERRORS or status in (401, 403):
        return forbidden(url, status, code or next(iter(sorted(names & CREDENTIAL_ERRORS)), ""))
    if status:
        return _by_status(url, status, code)
    if isinstance(error, FileNotFoundError):
        return NotFoundError(f"{url}: no such object")
    if isinstance(error, PermissionError):
        return forbidden(url, 0, "")
    if any(isinstance(link, TimeoutError | asyncio.TimeoutError) or "Timeout" in type(link).__name__ for link in chain):
        return StalledError(f"{url}: no byte came for too long")
    if isinstance(error, OSError) or any(_root(kind) in THEIRS for kind in type(error).__mro__):
        return UnreachableError(f"{url}: no answer ({_reason(chain)})")
    return None


def forbidden(url: StoreUrl, status: int, code: str) -> ForbiddenError:
    """The fault with the settings to look at."""
    kind = {"s3a": "s3", "gcs": "gs", "https": "http"}.get(url.protocol, url.protocol)
    what = " ".join(filter(None, (str(status or ""), code))) or "permission denied"
    return ForbiddenError(
        f"{url}: forbidden ({what}); credentials come from {CREDENTIALS.get(kind, 'the environment')}. Stores also say so "
        "of a name that is not there, to those who may not list"
    )


def _by_status(url: StoreUrl, status: int, code: str) -> StoreError:
    what = f"{status} {code}".strip() if code != str(status) else str(status)
    if status in (404, 410):
        return NotFoundError(f"{url}: no such object ({what})")
    if status in (412, 416):
        return ChangedError(f"{url}: it was changed while it was read ({what}); start again when it is whole")
    if status in (408, 425, 429) or status >= 500 or code in ("SlowDown", "RequestTimeout", "InternalError"):
        return UnavailableError(f"{url}: the store answers {what}")
    hint = "; is the bucket in another region (AWS_REGION)?" if status in (301, 307) else ""
    return RefusedError(f"{url}: the store refuses ({what}){hint}")


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The exception and what it came from, in botocore's way too."""
    link: BaseException | None = error
    for _ in range(10):
        if link is None:
            return
        yield link
        inner = getattr(link, "kwargs", None)
        inside = inner.get("error") if isinstance(inner, dict) else None
        link = link.__cause__ or (inside if isinstance(inside, BaseException) else None) or link.__context__


def _answer(error: BaseException) -> tuple[int, str]:
    """HTTP status and error code that an exception carries, or (0, '')."""
    response = getattr(error, "response", None)
    if isinstance(response, dict):  # botocore
        details = response.get("Error", {})
        status = response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        code = str(details.get("Code", ""))
        return int(status or (code if code.isdigit() else 0)), "" if code.isdigit() else _word(code)
    own = "status" if hasattr(error, "status") else "code"  # aiohttp's, and that of gcsfs
    for place, name in ((error, own), (response, "status_code")):
        status = getattr(place, name, None)
        if isinstance(status, int) and 300 <= status < 600 and not isinstance(error, SystemExit):
            return status, ""
    return 0, ""


def _word(code: str) -> str:
    """An error code is a word; whatever else a server sends in its place is not shown."""
    return code if code.isalnum() and len(code) <= 60 else ""


def _reason(chain: list[BaseException]) -> str:
    """Why there was no answer, in the system's words, which hold no URL."""
    for link in reversed(chain):
        if isinstance(link, ssl.SSLCertVerificationError):
            return f"the server's certificate cannot be verified: {link.verify_message}"
        if isinstance(link, socket.gaierror):
            return "the host has no address: a wrong name, or no network"
        if isinstance(link, OSError) and link.errno is not None and link.errno in errno.errorcode:
            return os.strerror(link.errno)
    return type(chain[0]).__name__


def _root(kind: type) -> str:
    return kind.__module__.partition(".")[0]
