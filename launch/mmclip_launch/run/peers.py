"""The processes of one run find each other here, within a time limit, before anything waits for them."""

import contextlib
import errno
import os
import socket
import threading
import time
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from mmclip.errors import MachineError, UserError
from mmclip_launch.run.attempt import key
from mmclip_launch.screen import Screen

FREED_WITHIN_SECONDS = 20.0
"""How long rank 0 waits for a port that is taken."""


def world_size() -> int:
    """Processes that the launcher started for this run.

    Raises:
        UserError: the launcher's variables are no numbers, or do not fit each other.
    """
    return _rank_and_world(os.environ)[1]


def refuse_several(what: str) -> None:
    """Refuse a launcher where one process does it all; `what` says so, such as `a comparison is made by one`.

    Raises:
        UserError: it started several.
    """
    if world_size() > 1:
        raise UserError(f"{world_size()} processes: {what}; start it without a launcher")


def rank() -> int:
    """This process's place among them; 0 speaks, writes and evaluates."""
    return _rank_and_world(os.environ)[0]


def _rank_and_world(environment: Mapping[str, str]) -> tuple[int, int]:
    words = {name: environment.get(name, default) for name, default in (("RANK", "0"), ("WORLD_SIZE", "1"))}
    if not all(word.isascii() and word.isdigit() for word in words.values()):
        raise UserError(f"environment: expected whole numbers from the launcher, got {_pairs(words)}")
    rank, world = int(words["RANK"]), int(words["WORLD_SIZE"])
    if not rank < world:
        raise UserError(f"environment: {_pairs(words)}: expected RANK from 0 to WORLD_SIZE - 1; start with torchrun")
    missing = [name for name in ("RANK", "MASTER_ADDR", "MASTER_PORT") if name not in environment]
    if world > 1 and missing:
        raise UserError(
            f"environment: WORLD_SIZE={world} but no {', '.join(missing)}: expected all of them from a launcher; "
            "start with torchrun or accelerate launch, or unset WORLD_SIZE"
        )
    return rank, world


def _pairs(words: Mapping[str, str]) -> str:
    return ", ".join(f"{name}={word}" for name, word in words.items())


def refuse_too_few_devices(processes_here: int, devices: int) -> None:
    """Refuse to let two processes share an accelerator, which would fail much later or be slow.

    Raises:
        UserError: more processes than devices.
    """
    if devices and processes_here > devices:
        raise UserError(
            f"{processes_here} processes on this machine, which has {devices} GPU(s): expected at most one process for "
            f"each; start --nproc_per_node {devices}, or give device = 'cpu'"
        )


def meet_peers(timeout_seconds: int) -> Any:
    """Wait until every process of the run is there; keep what this returns until the process group stands.

    torch's own rendezvous would wait for half an hour, and its client for ever where another program has the port.

    Raises:
        MachineError: the port is taken, or some did not come in time; they are named.
    """
    rank, world = _rank_and_world(os.environ)
    if world == 1:
        return None
    import torch.distributed  # seconds, which are not the peers' fault  # noqa: F401

    host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    deadline = time.monotonic() + timeout_seconds
    while True:
        store = _store(rank, world, host, port, timeout_seconds, deadline)
        if _all_there(store, rank, world, (host, port), timeout_seconds, deadline):
            return store


def _store(rank: int, world: int, host: str, port: int, timeout_seconds: int, deadline: float) -> Any:
    hosts_store = rank == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
    if hosts_store:
        _await_free_port(host, port, deadline)
    else:
        _await_listener(host, port, world, timeout_seconds, deadline)
    stores: list[Any] = []
    joining = threading.Thread(
        target=_join, args=(stores, host, port, world, hosts_store, timeout_seconds), daemon=True
    )
    joining.start()
    joining.join(max(1.0, deadline - time.monotonic()))
    if not stores:
        raise MachineError(_nobody_answers(host, port, world, timeout_seconds))
    return stores[0]


def _all_there(
    store: Any, rank: int, world: int, place: tuple[str, int], timeout_seconds: int, deadline: float
) -> bool:
    """Wait for all; False where the store went away: it was that of an attempt before this one, which has ended now."""
    from torch.distributed import DistError  # pyright: ignore[reportPrivateImportUsage]

    try:
        store.set(key(f"rank{rank}"), "here")
        absent = list(range(world))
        while absent := [other for other in absent if not store.check([key(f"rank{other}")])]:
            if time.monotonic() > deadline:
                raise MachineError(
                    f"rank {', '.join(map(str, absent))} of {world} did not come to {place[0]}:{place[1]} within "
                    f"{timeout_seconds} s: "
                    f"expected WORLD_SIZE={world} processes; start the missing ones, or raise peer_timeout_seconds where "
                    "they start slowly"
                )
            time.sleep(0.05)
    except DistError as error:
        if time.monotonic() > deadline:
            raise MachineError(_nobody_answers(*place, world, timeout_seconds)) from error
        return False
    return True


def _join(stores: list[Any], host: str, port: int, world: int, hosts_store: bool, timeout_seconds: int) -> None:
    from torch.distributed import DistError, TCPStore  # pyright: ignore[reportPrivateImportUsage]

    with contextlib.suppress(DistError):  # told by the caller, to whom an empty list says the same
        # multi_tenant: torch's own rendezvous on this port, a moment later, shares the server.
        limit = timedelta(seconds=timeout_seconds)
        stores.append(TCPStore(host, port, world, hosts_store, limit, wait_for_workers=False, multi_tenant=True))


def _await_free_port(host: str, port: int, deadline: float) -> None:
    """A job that starts anew at once may find the port still held by what is left of its last attempt."""
    limit, told = min(deadline, time.monotonic() + FREED_WITHIN_SECONDS), False
    while True:
        try:
            socket.create_server(("", port)).close()
            return
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise MachineError(f"port {port} (MASTER_PORT) cannot be opened here: {error.strerror}") from error
            if not told:
                told = True
                Screen().say(f"{host}:{port} is taken: waiting up to {FREED_WITHIN_SECONDS:g} s for it")
            if time.monotonic() > limit:
                raise MachineError(
                    f"{host}:{port} (MASTER_ADDR:MASTER_PORT) is in use by another program: expected a free port for the "
                    "processes of this run; end that program, or start with another --master_port (torchrun) or "
                    "--main_process_port (accelerate launch)"
                ) from error
            time.sleep(0.2)


def _await_listener(host: str, port: int, world: int, timeout_seconds: int, deadline: float) -> None:
    """Knock until somebody opens: torch's client prints a stack trace for each try that fails."""
    while True:
        try:
            socket.create_connection((host, port), timeout=2).close()
            return
        except socket.gaierror as error:
            raise MachineError(
                f"MASTER_ADDR={host}: expected the name of process 0's machine ({error.strerror})"
            ) from error
        except OSError as error:
            if time.monotonic() > deadline:
                raise MachineError(_nobody_answers(host, port, world, timeout_seconds)) from error
            time.sleep(0.1)


def _nobody_answers(host: str, port: int, world: int, timeout_seconds: int) -> str:
    return (
        f"process 0 of {world} does not answer at {host}:{port} (MASTER_ADDR:MASTER_PORT) within {timeout_seconds} s: "
        "check that it started, that no other program has this port, and that no firewall is between"
    )
