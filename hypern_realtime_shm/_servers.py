"""Are we in a worker of a multi-worker server? Only looked at to warn; no server is imported.

gunicorn: the application is imported below the arbiter's frames, whose configuration says how many
workers there are. uvicorn and granian: a worker's parent shows ``--workers N`` in its command line, or
WEB_CONCURRENCY is set. A manager made in a master before its workers fork is theirs too, so nothing
is said then.
"""

from __future__ import annotations

import os
import sys
import warnings
from pathlib import Path

from .errors import PrivateSegmentWarning

_warned = False

_ADVICE = (
    "this worker is one of several, and no shared segment is configured: channels, presence and "
    "heartbeats made here are this worker's alone. Give them a name, segment='chat' in the code or "
    "HYPERN_SHM_NAME in the environment, or run gunicorn with -c python:hypern_realtime_shm.gunicorn."
)


def _gunicorn_workers() -> int:
    """Workers of the gunicorn arbiter below which this worker's code runs; 0: there is none."""
    if "gunicorn.arbiter" not in sys.modules:
        return 0
    in_worker = False
    frame = sys._getframe()
    while frame is not None:
        this = frame.f_locals.get("self") if frame.f_code.co_name in {"init_process", "spawn_worker"} else None
        if frame.f_code.co_name == "init_process" and this is not None:
            in_worker = True
        if in_worker and this is not None and type(this).__name__ == "Arbiter":
            return int(getattr(this, "num_workers", 0) or 0)
        frame = frame.f_back  # type: ignore[assignment]
    return 0


def _parent_workers() -> int:
    """``--workers N`` of a uvicorn or granian parent; 0: there is none."""
    try:
        words = Path(f"/proc/{os.getppid()}/cmdline").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return 0
    if not any(Path(word).name in {"uvicorn", "granian"} for word in words[:4]):
        return 0
    for index, word in enumerate(words):
        name, _, value = word.partition("=")
        if name == "--workers":
            value = value or (words[index + 1] if index + 1 < len(words) else "")
            return int(value) if value.isdigit() else 0
    value = os.environ.get("WEB_CONCURRENCY", "")
    return int(value) if value.isdigit() else 0


def warn_if_alone(stacklevel: int) -> None:
    """Warns once per process when a private segment is made in one of several workers."""
    global _warned
    if _warned:
        return
    if max(_gunicorn_workers(), _parent_workers()) > 1:
        _warned = True
        warnings.warn(_ADVICE, PrivateSegmentWarning, stacklevel=stacklevel)
