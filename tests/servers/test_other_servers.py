"""Servers that know nothing of us: the segment is named in the code, nothing else is configured."""

from __future__ import annotations

import os
import signal
import sys
from functools import partial
from pathlib import Path

import pytest

from .harness import HERE, Server, free_port, segment_files, wait_for

CLIENTS = [f"client-{number:02}" for number in range(60)]
SETTLED = 1.0  # seconds within which a dead worker's members are gone


def uvicorn(log: Path, name: str | None, workers: int = 3) -> Server:
    """Its workers are spawned: each imports the application for itself."""
    port = free_port()
    command = [sys.executable, "-m", "uvicorn", "--workers", str(workers), "--port", str(port), "--app-dir", str(HERE)]
    return Server([*command, "--log-level", "warning", "apps:app"], port, log, {"PROBE_SEGMENT": name} if name else {})


def granian(log: Path, name: str | None, workers: int = 3, interface: str = "asgi") -> Server:
    """Its workers are processes with a Rust runtime; handlers run on its event loop or in its threads."""
    port = free_port()
    command = [
        sys.executable,
        "-m",
        "granian",
        "--workers",
        str(workers),
        "--port",
        str(port),
        "--interface",
        interface,
    ]
    target = "apps:app" if interface == "asgi" else "apps:application"
    # A request holds its worker (spin) only where it has one thread for Python.
    command += [
        "--interface",
        interface,
        "--respawn-failed-workers",
        "--no-ws",
        *(["--blocking-threads", "1"] if interface == "wsgi" else []),
    ]
    return Server([*command, target], port, log, {"PROBE_SEGMENT": name} if name else {}, cwd=HERE)


SERVERS = {
    "uvicorn": uvicorn,
    "granian-asgi": granian,
    "granian-wsgi": partial(granian, interface="wsgi"),
}


@pytest.mark.parametrize("kind", SERVERS)
def test_one_world(kind: str, name: str, log: Path) -> None:
    with SERVERS[kind](log, name) as server:
        workers = server.ready().pids(3)
        taken = server.join(CLIENTS)
        assert set(taken.values()) == workers, "a worker took nobody"

        report = server.one_report(workers)
        assert report["members"] == {client: {"pid": str(pid)} for client, pid in taken.items()}
        assert report["subscribers"] == report["heartbeats"] == CLIENTS
        for number in range(20):
            assert server.get("/publish", text=str(number), spin=0.002)["count"] == len(CLIENTS)
        assert server.received(workers) == {client: [str(number) for number in range(20)] for client in CLIENTS}
        assert server.one_report(workers)["stats"] == ["room", len(CLIENTS), 20, 0]

        # One worker dies; its members leave, the others stay.
        victim = next(iter(workers))
        rest = {client for client, pid in taken.items() if pid != victim}
        os.kill(victim, signal.SIGKILL)
        wait_for(lambda: set(server.get("/report")["members"]) <= rest, "the victim's members have left", SETTLED)
        assert set(server.get("/report")["members"]) == rest
        assert server.get("/publish", text="to the rest")["count"] == len(rest)

        again = wait_for(lambda: victim not in (found := server.pids(3)) and found, "another worker in its place")
        assert set(server.one_report(again)["members"]) == rest
        server.stop()
    assert segment_files(name), "a segment that is named in the code stays until somebody unlinks it"


@pytest.mark.parametrize(("workers", "warned"), [(2, 2), (1, 0)])
@pytest.mark.parametrize("kind", SERVERS)
def test_each_of_several_workers_without_a_segment_is_warned(kind: str, workers: int, warned: int, log: Path) -> None:
    with SERVERS[kind](log, None, workers) as server:
        server.ready().pids(workers)
        assert server.output().count("PrivateSegmentWarning:") == warned
