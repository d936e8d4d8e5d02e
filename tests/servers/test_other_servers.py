"""Servers that know nothing of us: the segment is named in the code, nothing else is configured."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest

from .harness import HERE, Server, free_port, segment_files, wait_for

CLIENTS = [f"client-{number:02}" for number in range(60)]
SETTLED = 1.0  # seconds within which a dead worker's members are gone


def uvicorn(log: Path, name: str) -> Server:
    """Its workers are spawned: each imports the application for itself."""
    port = free_port()
    command = [sys.executable, "-m", "uvicorn", "--workers", "3", "--port", str(port), "--app-dir", str(HERE)]
    return Server([*command, "--log-level", "warning", "apps:app"], port, log, {"PROBE_SEGMENT": name})


def granian(log: Path, name: str, interface: str) -> Server:
    """Its workers are processes with a Rust runtime; handlers run on its event loop or in its threads."""
    port = free_port()
    command = [sys.executable, "-m", "granian", "--workers", "3", "--port", str(port), "--interface", interface]
    target = "apps:app" if interface == "asgi" else "apps:application"
    # A request holds its worker (spin) only where it has one thread for Python.
    command += ["--respawn-failed-workers", "--no-ws", *(["--blocking-threads", "1"] if interface == "wsgi" else [])]
    return Server([*command, target], port, log, {"PROBE_SEGMENT": name}, cwd=HERE)


SERVERS = {
    "uvicorn": uvicorn,
    "granian-asgi": lambda log, name: granian(log, name, "asgi"),
    "granian-wsgi": lambda log, name: granian(log, name, "wsgi"),
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
