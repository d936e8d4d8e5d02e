"""Heartbeats: which clients still answer, whichever worker they are connected to."""

from __future__ import annotations

import asyncio
import inspect
import logging
import re
import sys
from collections.abc import Callable
from typing import Any

from typing_extensions import Self

from . import _engine
from ._engine import HeartbeatConfig, HeartbeatStats, SSEEvent
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
        return super().__new__(cls, config, resolve(segment), namespace)

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
        while True:
            for client_id in self.own_clients_needing_ping():
                self.ping(client_id)
                await _tell(on_ping, client_id)
            for client_id in self.check_timeouts():
                await _tell(on_timeout, client_id)
            for client_id in self.evict_dead():
                await _tell(on_dead, client_id)
            await asyncio.sleep(self.config.interval_secs)

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


async def _tell(callback: Callable[[str], Any] | None, client_id: str) -> None:
    if callback is None:
        return
    try:
        result = callback(client_id)
        if inspect.isawaitable(result):
            await result
    except Exception:
        _log.exception("a heartbeat callback failed for client %r", client_id)


__all__ = ["HeartbeatConfig", "HeartbeatMonitor", "HeartbeatStats", "SSEEvent"]
