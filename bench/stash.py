"""Presence beside what gunicorn itself offers for state that workers share: `dirty.stash`. Both inside a worker."""

from __future__ import annotations

import json
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gunicorn.dirty import stash
from gunicorn.dirty.app import DirtyApp

import hypern_realtime_shm as ours

from .harness import Options, Samples, now
from .peers import answers, free_port, server

MEMBERS = 500
METADATA = {"name": "Alice", "status": "online"}
CONFIGURATION = """
from hypern_realtime_shm.gunicorn import install
bind = "127.0.0.1:{port}"
workers = 1
timeout = 60
dirty_workers = 1
dirty_apps = ["bench.stash:Idle"]
control_socket_disable = True
install(globals())
"""


def timed(calls: int, call: Callable[[], Any]) -> float:
    start = now()
    for _ in range(calls):
        call()
    return (now() - start) / calls / 1e3


def measure(calls: int) -> dict[str, dict[str, float]]:
    """Runs in a gunicorn worker: a round of each, in microseconds."""
    tracker = ours.PresenceTracker()
    if tracker.count("room") < MEMBERS:
        for number in range(MEMBERS):
            tracker.track("room", f"client-{number}", METADATA)
            stash.put("room", f"client-{number}", METADATA)
    return {
        "a member comes: track / put": {
            "ours_us": timed(calls, lambda: tracker.track("room", "client-50", METADATA)),
            "stash_us": timed(calls, lambda: stash.put("room", "client-50", METADATA)),
        },
        "one member: get / get": {
            "ours_us": timed(calls, lambda: tracker.get("room", "client-50")),
            "stash_us": timed(calls, lambda: stash.get("room", "client-50")),
        },
        f"who of {MEMBERS} is there: list / keys": {
            "ours_us": timed(max(1, calls // 10), lambda: tracker.list("room")),
            "stash_us": timed(max(1, calls // 10), lambda: stash.keys("room")),
        },
    }


def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
    """WSGI: `/calls` measures a round of so many calls."""
    start_response("200 OK", [("Content-Type", "application/json")])
    return [json.dumps(measure(int(environ["PATH_INFO"].strip("/")))).encode()]


def measures(port: int) -> bool:
    """Is the dirty worker there, too? It comes when it comes."""
    try:
        urllib.request.urlopen(f"http://127.0.0.1:{port}/1", timeout=60).close()
    except urllib.error.HTTPError:
        return False
    return True


def measured(options: Options) -> dict[str, dict[str, Any]]:
    """Starts gunicorn with a dirty worker, and has a worker measure in turns."""
    port, calls = free_port(), options.scaled(500)
    found: dict[str, dict[str, Samples]] = {}
    with tempfile.TemporaryDirectory(prefix="bench-") as directory:
        configuration = Path(directory, "conf.py")
        configuration.write_text(CONFIGURATION.format(port=port))
        command = (sys.executable, "-m", "gunicorn", "-c", str(configuration), "bench.stash:app")
        with server(*command, ready=lambda: answers(port) and measures(port)):
            for turn in range(options.rounds + 1):
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/{calls}", timeout=60) as response:
                    for title, sides in json.load(response).items():
                        for side, value in sides.items():
                            samples = found.setdefault(title, {}).setdefault(side, Samples())
                            if turn:
                                samples.rounds.append(value)
    return {title: {side: samples.as_json() for side, samples in sides.items()} for title, sides in found.items()}


class Idle(DirtyApp):  # type: ignore[misc]
    """The stash needs an application beside it; this one does nothing."""
