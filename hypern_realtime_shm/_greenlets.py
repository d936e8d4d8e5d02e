"""Waiting under gevent: only the greenlet that waits is suspended. Called by the engine where gevent has
patched the process; imported nowhere else.

Promise: one descriptor for each hub, however many greenlets wait; only those with news are switched to.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

from gevent.event import Event  # type: ignore[import-untyped,import-not-found,unused-ignore]
from gevent.hub import get_hub  # type: ignore[import-untyped,import-not-found,unused-ignore]

from . import _engine
from .errors import SegmentError


class _Desk:
    """Who waits in one hub for handles of one segment."""

    def __init__(self, hub: Any, handle: Any) -> None:
        self.waits = _engine.Waitlist(handle)
        self.wake: dict[int, Callable[[], None]] = {}
        self.watcher = hub.loop.io(self.waits.fileno(), 1)

    def _rung(self) -> None:
        try:
            tokens = self.waits.take()
        except SegmentError:
            # It was closed: whoever waits looks once more and meets that.
            tokens = list(self.wake)
        for token in tokens:
            wake = self.wake.get(token)
            if wake is not None:
                wake()

    def wait(self, handle: Any, timeout: float | None) -> bool:
        token = self.waits.park(handle)
        if token is None:
            return True
        event = Event()
        self.wake[token] = event.set
        # Watched only while somebody waits, so that a hub with nothing else to do can end.
        if len(self.wake) == 1:
            self.watcher.start(self._rung)
        try:
            return bool(event.wait(timeout))
        finally:
            del self.wake[token]
            self.waits.unpark(token)
            if not self.wake:
                self.watcher.stop()


_desks: weakref.WeakKeyDictionary[Any, list[_Desk]] = weakref.WeakKeyDictionary()


def wait(handle: Any, timeout: float | None) -> bool:
    """Waits until there may be news of a handle; False: the time is over."""
    hub = get_hub()
    desks = _desks.setdefault(hub, [])
    for desk in desks:
        if desk.waits.serves(handle):
            return desk.wait(handle, timeout)
    desks[:] = [desk for desk in desks if not desk.waits.stale]
    desk = _Desk(hub, handle)
    desks.append(desk)
    return desk.wait(handle, timeout)
