"""Stores that fail as stores do, on this machine: a web server with files in it, and a proxy before any other server.

Faults are chosen by a function of the request, or drawn from a seed; each is told in `faults`, so a test can say what it
has survived.
"""

import http.client
import random
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple
from urllib.parse import urlsplit

import xxhash

LONGEST_STALL_SECONDS = 60.0
HOP_BY_HOP = {"connection", "transfer-encoding", "content-length", "keep-alive"}


class Request(NamedTuple):
    """What a client asked for."""

    method: str
    path: str
    headers: Mapping[str, str]

    @property
    def span(self) -> tuple[int, int] | None:
        """First byte and byte behind the last, where a range was asked for."""
        first, dash, last = self.headers.get("range", "").removeprefix("bytes=").partition("-")
        return (int(first), int(last) + 1) if dash and first and last else None


class Answer(NamedTuple):
    """What a server says."""

    status: int
    headers: Mapping[str, str]
    body: bytes


Fault = str
"""`mute` (no byte comes), `stall` (half of them), `short`, `honest-short`, `drop`, `redirect:URL`, or a status as `503`."""
Choose = Callable[[Request], Fault | None]


@dataclass
class SeededFaults:
    """Draws a fault for some requests; never twice in a row for one path, so that a patient client always wins.

    A 403 comes at most once a path, since it is tried again once only.
    """

    seed: int
    kinds: Sequence[Fault] = ("500", "503", "403", "stall", "short", "honest-short", "drop")
    rate: float = 0.3
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _draws: random.Random = field(init=False)
    _last: set[str] = field(default_factory=set)
    _forbidden: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self._draws = random.Random(self.seed)

    def __call__(self, request: Request) -> Fault | None:
        path = request.path.partition("?")[0]
        with self._lock:
            kind = self._draws.choice(self.kinds) if self._draws.random() < self.rate else None
            if kind is None or path in self._last or (kind == "403" and path in self._forbidden):
                self._last.discard(path)
                return None
            self._last.add(path)
            if kind == "403":
                self._forbidden.add(path)
            return kind


class FaultyServer(ThreadingHTTPServer):
    """Serves `files`, or what the server at `upstream` says; `choose` says which requests fail, and how."""

    daemon_threads = True

    def __init__(
        self,
        files: Mapping[str, bytes] | None = None,
        upstream: tuple[str, int] | None = None,
        choose: Choose = lambda request: None,
        ranges: bool = True,
    ) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files = dict(files or {})
        self.upstream = upstream
        self.choose = choose
        self.ranges = ranges
        self.requests: list[Request] = []
        self.faults: Counter[Fault] = Counter()
        self.closing = threading.Event()

    def handle_error(self, request: object, client_address: object) -> None:
        """A server that is closing may lose its own upstream first."""
        if not self.closing.is_set():
            super().handle_error(request, client_address)  # type: ignore[arg-type]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def answer(self, request: Request, body: bytes) -> Answer:
        """What is said where nothing fails."""
        if self.upstream is not None:
            return _forward(self.upstream, request, body)
        content = self.files.get(urlsplit(request.path).path)
        if content is None:
            return Answer(404, {}, b"no such file")
        facts = {"ETag": f'"{xxhash.xxh3_64_hexdigest(content)}"', "Content-Type": "application/x-tar"}
        if self.ranges:
            facts["Accept-Ranges"] = "bytes"
        if request.span and self.ranges:
            start, end = request.span[0], min(request.span[1], len(content))
            facts["Content-Range"] = f"bytes {start}-{end - 1}/{len(content)}"
            return Answer(206, facts, content[start:end])
        return Answer(200, facts, content)


def wait_until(done: Callable[[], bool]) -> None:
    """Look again and again; a test that waits for what never comes fails after some minutes."""
    waiting = threading.Event()
    for _ in range(12000):
        if done():
            return
        waiting.wait(0.01)
    raise AssertionError("it did not come")


@contextmanager
def serving(server: FaultyServer) -> Iterator[FaultyServer]:
    """Run a server in a thread for as long as the block lasts."""
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.closing.set()
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # headers and body are two writes, of which the second would wait 40 ms
    server: FaultyServer  # pyright: ignore[reportIncompatibleVariableOverride]

    def _serve(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        headers = {name.lower(): value for name, value in self.headers.items()}
        request = Request(self.command, self.path, headers)
        self.server.requests.append(request)
        fault = self.server.choose(request)
        if fault is not None:
            self.server.faults[fault] += 1
        if fault == "mute":
            self.server.closing.wait(LONGEST_STALL_SECONDS)
        if fault in ("mute", "drop"):
            self.close_connection = True
        elif fault is not None and fault.isdigit():
            self._send(Answer(int(fault), {}, b"an injected fault"))
        elif fault is not None and fault.startswith("redirect:"):
            self._send(Answer(302, {"Location": fault.removeprefix("redirect:")}, b""))
        else:
            self._send(self.server.answer(request, body), fault)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _serve

    def _send(self, answer: Answer, fault: Fault | None = None) -> None:
        body = answer.body[: len(answer.body) // 2] if fault in ("short", "honest-short", "stall") else answer.body
        promised = len(body) if fault == "honest-short" else len(answer.body)
        self.send_response(answer.status)
        headers = {name.lower(): value for name, value in answer.headers.items() if name.lower() not in HOP_BY_HOP}
        if self.command == "HEAD" and "content-length" in {name.lower() for name in answer.headers}:
            promised = int(next(value for name, value in answer.headers.items() if name.lower() == "content-length"))
        for name, value in (headers | {"Content-Length": str(promised)}).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
            self.wfile.flush()
        if fault == "stall":
            self.server.closing.wait(LONGEST_STALL_SECONDS)
        if fault in ("stall", "short"):
            self.close_connection = True

    def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002
        """Nothing: `requests` has it all."""

    def handle(self) -> None:
        try:
            super().handle()
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True  # the client gave up, which is what some faults are for


def _forward(upstream: tuple[str, int], request: Request, body: bytes) -> Answer:
    connection = http.client.HTTPConnection(*upstream, timeout=LONGEST_STALL_SECONDS)
    try:
        connection.request(request.method, request.path, body or None, dict(request.headers))
        answer = connection.getresponse()
        return Answer(answer.status, dict(answer.getheaders()), answer.read())
    finally:
        connection.close()
