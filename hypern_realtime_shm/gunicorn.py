"""Hooks that give the workers of a gunicorn server one segment, three ways to use them::

    gunicorn -c gunicorn_conf.py app:app                         # the file beside the README
    gunicorn -c python:hypern_realtime_shm.gunicorn app:app      # straight from the installed package

    # at the end of a configuration of one's own: the hooks above this line still run, after ours
    from hypern_realtime_shm.gunicorn import install
    install(globals())

This module is a configuration: importing it names the segment in the environment (``HYPERN_SHM_NAME``), unless
somebody has named it already, and asks for its removal with its last process (``HYPERN_SHM_UNLINK_WHEN_UNUSED``).
That happens when the configuration executes and not in a hook, because with ``preload_app`` the application is
imported before the first hook runs. No bind address, worker class or number of workers is set here.

The hooks make sharing quicker, never necessary: without them the first worker creates the segment and the workers
notice each other's deaths by themselves, within a second.

====================  ===============================================================================================
``on_starting``       creates the segment before the first worker, and holds it open in the master, so that it
                      outlives any worker. The master starts no thread; each worker attaches when it first uses it.
``on_reload``         the same after ``HUP``, where the configuration may have named another segment.
``pre_exec``          hands the name on to the master that ``USR2`` starts, so that old and new workers share.
``child_exit``        settles what a dead worker left behind, at once.
``on_exit``           waits for the workers that were killed because they did not stop in time.
``post_worker_init``  ends a worker's event streams when it is told to stop, so that a reload does not wait for them:
                      their clients reconnect to another worker and go on where they were.
====================  ===============================================================================================

Nothing is removed in ``on_exit``: after ``USR2`` it runs in the old master while the new one serves. The segment goes
when its last process is gone. Give a name of your own (``HYPERN_SHM_NAME=chat``) where several servers are to share.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import signal
import threading
import time
from collections.abc import Callable, MutableMapping
from functools import wraps
from importlib import import_module
from pathlib import Path
from typing import Any

from .segment import Segment
from .streams import before_each, end_streams

__all__ = ["child_exit", "install", "on_exit", "on_reload", "on_starting", "post_worker_init", "pre_exec"]

_CHAINED = "_hypern_realtime_shm_chained"

# gunicorn reads every name in here that is also one of its settings: the hooks are the only ones without underscore.
_Hook = Callable[..., Any]

_NAME = "HYPERN_SHM_NAME"
_UNLINK = "HYPERN_SHM_UNLINK_WHEN_UNUSED"
# The file of a segment with a default name.
_DEFAULT = re.compile(r"hypern-rt\.(?P<user>\d+)\.v\d+\.(?P<name>gunicorn-\d+-[0-9a-f]{8})")

# Seconds that a master waits for workers that it has killed.
_PATIENCE = 2.0

# What this master holds open. Names that a reload has replaced stay: a preloaded application may still use them.
_held: dict[str, Segment] = {}


def _settle() -> str:
    """Fix the name in the environment, which the workers inherit; what is there already stays (reload, upgrade)."""
    if not os.environ.get(_NAME):
        os.environ[_NAME] = f"gunicorn-{os.getpid()}-{secrets.token_hex(4)}"
    os.environ.setdefault(_UNLINK, "1")
    return os.environ[_NAME]


def _hand_on(server: Any) -> None:
    """Let a re-executed master inherit the name.

    gunicorn executes the new binary with the environment it had before it read its configuration, so what the
    configuration put there would be lost and the new master would make a world of its own.
    """
    for key in (_NAME, _UNLINK):
        if not server.cfg.env_orig.get(key):
            server.cfg.env_orig[key] = os.environ[key]


def _clear_away() -> None:
    """Remove what servers left that were killed with all their processes: nobody will use these names again.

    Attaching and leaving does it: who leaves a segment as its last process unlinks it. Where others are attached,
    they notice nothing.
    """
    with contextlib.suppress(OSError):
        for path in Path("/dev/shm").iterdir():
            found = _DEFAULT.fullmatch(path.name)
            if found and int(found["user"]) == os.geteuid() and found["name"] not in _held:
                with contextlib.suppress(Exception):  # another one's trouble is no reason not to start
                    Segment.attach(found["name"]).close()


def _hold(server: Any) -> None:
    """Create the segment, or attach to it where it is there already, and keep it for the master's lifetime."""
    name = _settle()
    _hand_on(server)
    if name in _held:
        return
    if server.cfg.uid != os.geteuid():
        # The segment would belong to this user and be closed to the workers; the first of them creates it instead.
        server.log.info("Workers share the segment %r, created by the first of them (user %s)", name, server.cfg.uid)
        return
    _held[name] = Segment.open(name)
    server.log.info("Workers share the segment %r", name)
    _clear_away()


def on_starting(server: Any) -> None:
    """Create the segment before the first worker."""
    _hold(server)


def on_reload(server: Any) -> None:
    """Create the segment that the reloaded configuration names, if that is another one."""
    _hold(server)


def pre_exec(server: Any) -> None:
    """Hand the segment's name on to the new master."""
    _settle()
    _hand_on(server)


def child_exit(server: Any, worker: Any) -> None:
    """Settle at once what the worker left behind."""
    for segment in _held.values():
        try:
            segment.reap()
        except Exception:  # whatever it is, the master must not die of it
            server.log.warning("Could not settle worker %s in %r", worker.pid, segment.name, exc_info=True)


def on_exit(server: Any) -> None:
    """Wait for the workers that gunicorn killed a moment ago, since they did not stop in time: the kernel takes a
    moment, and whoever leaves a segment while they seem alive is not the last and leaves it there."""
    if server.cfg.uid != os.geteuid():
        return
    end = time.monotonic() + _PATIENCE
    for pid in list(server.WORKERS):
        with contextlib.suppress(ChildProcessError):
            while not os.waitpid(pid, os.WNOHANG)[0] and time.monotonic() < end:
                time.sleep(0.005)


def post_worker_init(worker: Any) -> None:  # noqa: ARG001
    """End the event streams of a worker that is told to stop: by themselves they never would."""
    _end_streams_when_told()
    # uvicorn's worker sets its handlers when it begins to serve, after all hooks.
    if _end_streams_when_told not in before_each:
        before_each.append(_end_streams_when_told)


def _end_streams_when_told() -> None:
    """Come before whoever is told by the signals that stop a worker: gunicorn's worker, or an event loop."""
    if threading.current_thread() is not threading.main_thread():
        return
    for number in (signal.SIGTERM, signal.SIGQUIT, signal.SIGINT):
        before = signal.getsignal(number)
        if not callable(before) or before is signal.default_int_handler or hasattr(before, _CHAINED):
            continue

        def stop(number: int, frame: Any, before: Callable[..., Any] = before) -> None:
            end_streams()
            before(number, frame)

        setattr(stop, _CHAINED, True)
        signal.signal(number, stop)
        # As gunicorn has it: system calls of requests in progress go on.
        signal.siginterrupt(number, number != signal.SIGTERM)


_HOOKS: dict[str, _Hook] = {
    hook.__name__: hook for hook in (on_starting, on_reload, on_exit, pre_exec, child_exit, post_worker_init)
}


def _chain(ours: _Hook, theirs: _Hook) -> _Hook:
    @wraps(theirs)  # gunicorn checks the number of parameters, through this, of the user's own function
    def hook(*arguments: Any) -> Any:
        ours(*arguments)
        return theirs(*arguments)

    setattr(hook, _CHAINED, True)
    return hook


def install(configuration: MutableMapping[str, Any]) -> None:
    """Add the hooks to a gunicorn configuration: ``install(globals())``, as its last line.

    A hook that the configuration has defined is called after ours, never replaced. Installing twice changes nothing.
    """
    _settle()
    for setting, ours in _HOOKS.items():
        theirs = configuration.get(setting)
        if isinstance(theirs, str):  # gunicorn takes "package.module.function" too
            module, _, attribute = theirs.rpartition(".")
            theirs = getattr(import_module(module), attribute)
        if theirs is None or theirs is ours:
            configuration[setting] = ours
        elif not getattr(theirs, _CHAINED, False):
            configuration[setting] = _chain(ours, theirs)


_settle()
