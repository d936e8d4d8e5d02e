"""Heartbeats: which clients still answer, whichever worker they are connected to."""

from __future__ import annotations

import asyncio
import inspect
import logging
import re
import sys
import threading
from collections.abc import Callable
from typing import Any

from typing_extensions import Self

from . import _engine
from ._arguments import need_callable
from ._engine import HeartbeatConfig, HeartbeatStats, SSEEvent
from .errors import SegmentClosed
from .segment import resolve

_log = logging.getLogger("hypern_realtime_shm")
_CARRIAGE_RETURN = re.compile(r"\r\n?")


class HeartbeatMonitor(_engine.HeartbeatMonitor):
    """Heartbeats of the clients of one namespace of a segment, shared by all workers.

    Timeouts go by time, not by calls: timeout n of a client happens at
    ``last pong + timeout_secs + (n - 1) * interval_secs``, and each is reported once across workers.

    Args:
        config: this handle's configuration; None: ``HeartbeatConfig()``.
        segment: a name, a :class:`Segment`, or None: HYPERN_SHM_NAME, else a private segment.
        namespace: separates worlds inside a segment.
    """

    def __new__(
        cls,
        config: HeartbeatConfig | None = None,
        *,
        segment: str | _engine.Segment | None = None,
        namespace: str = "",
    ) -> Self:
        return super().__new__(cls, config, resolve(segment, namespace, config=config), namespace)

    async def run_heartbeat_loop(
        self,
        on_ping: Callable[[str], Any] | None = None,
        on_timeout: Callable[[str], Any] | None = None,
        on_dead: Callable[[str], Any] | None = None,
    ) -> None:
        """Every ``interval_secs``: pings the clients of this worker (and ownerless ones, which it
        adopts), reports timeouts that nobody has reported, evicts dead clients. Runs until cancelled.

        Run one in each worker. A callback (plain or async) gets a client id; one that raises is logged,
        and the loop goes on.
        """
        _need_callbacks(on_ping, on_timeout, on_dead)
        while True:
            for client_id in self.own_clients_needing_ping():
                self.ping(client_id)
                await _tell(on_ping, client_id)
            for client_id in self.check_timeouts():
                await _tell(on_timeout, client_id)
            for client_id in self.evict_dead():
                await _tell(on_dead, client_id)
            await asyncio.sleep(self.config.interval_secs)

    def start_heartbeat_thread(
        self,
        on_ping: Callable[[str], Any] | None = None,
        on_timeout: Callable[[str], Any] | None = None,
        on_dead: Callable[[str], Any] | None = None,
    ) -> HeartbeatThread:
        """What :meth:`run_heartbeat_loop` does, in a thread: for servers whose handlers have no long-lived event
        loop, such as Hypern. The callbacks are plain functions, called in that thread. Start it in each worker,
        not in a process that will fork its workers.

        Raises:
            TypeError: a callback is no plain function.
        """
        return HeartbeatThread(self, on_ping, on_timeout, on_dead)

    def make_sse_event(self, data: str, event: str | None = None, id: str | None = None) -> SSEEvent:
        """An SSE event whose ``retry`` is the configuration's.

        Returns Hypern's own ``SSEEvent`` where ``hypern`` is loaded, else this package's.

        Raises:
            ValueError: ``event`` or ``id`` holds CR, LF or NUL.
        """
        retry = self.config.sse_retry_ms
        made = SSEEvent(data=data, event=event, id=id, retry=retry)
        hypern = sys.modules.get("hypern")
        if hypern is None or not hasattr(hypern, "SSEEvent"):
            return made
        # Hypern's class knows LF only.
        data = _CARRIAGE_RETURN.sub("\n", data)
        theirs: SSEEvent = hypern.SSEEvent(data=data, event=event, id=id, retry=retry)
        return theirs


class HeartbeatThread:
    """A running thread of heartbeats; ``stop()``, or the end of a ``with``, ends it."""

    def __init__(
        self,
        monitor: HeartbeatMonitor,
        on_ping: Callable[[str], Any] | None,
        on_timeout: Callable[[str], Any] | None,
        on_dead: Callable[[str], Any] | None,
    ) -> None:
        _need_callbacks(on_ping, on_timeout, on_dead, plain=True)
        self._monitor = monitor
        self._callbacks = (on_ping, on_timeout, on_dead)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="hypern-shm-heartbeats", daemon=True)
        self._thread.start()

    @property
    def running(self) -> bool:
        """Does it still run?"""
        return self._thread.is_alive()

    def stop(self, timeout: float | None = None) -> None:
        """Ends the thread and waits for it, at most ``timeout`` seconds. Again is harmless."""
        patience = None if timeout is None else min(_engine.seconds("timeout", timeout), threading.TIMEOUT_MAX)
        self._stopping.set()
        if self._thread is not threading.current_thread():
            self._thread.join(patience)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop()

    def _run(self) -> None:
        on_ping, on_timeout, on_dead = self._callbacks
        monitor = self._monitor
        while not self._stopping.is_set():
            try:
                for client_id in monitor.own_clients_needing_ping():
                    monitor.ping(client_id)
                    _call(on_ping, client_id)
                for client_id in monitor.check_timeouts():
                    _call(on_timeout, client_id)
                for client_id in monitor.evict_dead():
                    _call(on_dead, client_id)
            except SegmentClosed:
                return
            self._stopping.wait(min(monitor.config.interval_secs, threading.TIMEOUT_MAX))


def _need_callbacks(on_ping: object, on_timeout: object, on_dead: object, *, plain: bool = False) -> None:
    for name, callback in (("on_ping", on_ping), ("on_timeout", on_timeout), ("on_dead", on_dead)):
        if callback is not None:
            need_callable(name, callback, plain=plain)


def _call(callback: Callable[[str], Any] | None, client_id: str) -> Any:
    """Calls a callback; what it raises is logged."""
    if callback is None:
        return None
    try:
        return callback(client_id)
    except Exception:
        _log.exception("a heartbeat callback failed for client %r", client_id)
        return None


async def _tell(callback: Callable[[str], Any] | None, client_id: str) -> None:
    result = _call(callback, client_id)
    try:
        if inspect.isawaitable(result):
            await result
    except Exception:
        _log.exception("a heartbeat callback failed for client %r", client_id)


__all__ = ["HeartbeatConfig", "HeartbeatMonitor", "HeartbeatStats", "HeartbeatThread", "SSEEvent"]
