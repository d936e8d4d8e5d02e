"""Waiting in asyncio: one descriptor for each running event loop, however many tasks wait.

Promise: no thread, no polling, no timer per call. The loop watches the descriptor of its waitlist; what is
rung resolves the futures of those who have news, and of nobody else. A message is only taken by the task that
returns it, so a task that is cancelled while it waits loses nothing. What a loop had goes with the loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import weakref
from collections.abc import AsyncGenerator
from typing import Any

from . import _engine
from .errors import SegmentClosed, SegmentError


class _Loops(threading.local):
    """The desks of the loops that ran in this thread."""

    def __init__(self) -> None:
        self.desks: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, list[_Desk]] = weakref.WeakKeyDictionary()


_loops = _Loops()


class _Desk:
    """Who waits in one loop for handles of one segment."""

    def __init__(self, loop: asyncio.AbstractEventLoop, handle: Any) -> None:
        # Nothing in here refers to the loop, which would keep it alive.
        self.waits = _engine.Waitlist(handle)
        self.futures: dict[int, asyncio.Future[bool]] = {}
        self.deadlines: dict[int, float] = {}
        self.timer: asyncio.Handle | None = None
        # Kept here: what uvloop gives for a time that is just over cannot tell it.
        self.timer_at = 0.0
        self.lifetime = self._until_the_loop_ends()
        loop.add_reader(self.waits.fileno(), self._rung)
        # An asynchronous generator that has begun is closed by ``loop.shutdown_asyncgens``, as every runner
        # of loops calls it: that is how the end of the loop is heard of.
        with contextlib.suppress(StopIteration):
            self.lifetime.__anext__().send(None)

    async def _until_the_loop_ends(self) -> AsyncGenerator[None, None]:
        try:
            yield
        finally:
            self.close(asyncio.get_running_loop())

    def close(self, loop: asyncio.AbstractEventLoop) -> None:
        """Ends all waits, whose tasks look once more and meet what ended them."""
        if not loop.is_closed():
            loop.remove_reader(self.waits.fileno())
        if self.timer is not None:
            self.timer.cancel()
        self.waits.take_all()
        futures, self.futures = self.futures, {}
        for future in futures.values():
            if not future.done():
                future.set_result(True)
        with contextlib.suppress(KeyError, ValueError):
            _loops.desks[loop].remove(self)

    def _rung(self) -> None:
        try:
            tokens = self.waits.take()
        except SegmentError:
            loop = asyncio.get_running_loop()
            if _engine.is_left_over():
                # The program is over: who waits in a daemon thread goes with the process.
                loop.remove_reader(self.waits.fileno())
                return
            # The segment was closed: whoever waits looks once more and meets that.
            self.close(loop)
            return
        for token in tokens:
            self._resolve(token, True)

    def _resolve(self, token: int, news: bool) -> None:
        self.deadlines.pop(token, None)
        future = self.futures.pop(token, None)
        if future is not None and not future.done():
            future.set_result(news)

    async def wait(self, loop: asyncio.AbstractEventLoop, handle: Any, deadline: float | None) -> bool:
        token = self.waits.park(handle)
        if token is None:
            return True
        future: asyncio.Future[bool] = loop.create_future()
        self.futures[token] = future
        if deadline is not None:
            self.deadlines[token] = deadline
            # One timer for all: it is only moved forward, and finds the next deadline when it fires.
            if self.timer is None or self.timer_at > deadline:
                self._set_timer(loop, deadline)
        try:
            return await future
        finally:
            if self.futures.pop(token, None) is not None:
                self.deadlines.pop(token, None)
                self.waits.unpark(token)

    def _set_timer(self, loop: asyncio.AbstractEventLoop, deadline: float) -> None:
        if self.timer is not None:
            self.timer.cancel()
        self.timer_at = deadline
        self.timer = loop.call_at(deadline, self._time_passed)

    def _time_passed(self) -> None:
        loop = asyncio.get_running_loop()
        now = loop.time()
        self.timer = None
        for token in [token for token, deadline in self.deadlines.items() if deadline <= now]:
            self.waits.unpark(token)
            self._resolve(token, False)
        if self.deadlines:
            self._set_timer(loop, min(self.deadlines.values()))


def _desk(loop: asyncio.AbstractEventLoop, handle: Any) -> _Desk:
    desks = _loops.desks.get(loop)
    if desks is None:
        # Loops that were closed without a word: their descriptors go with their desks.
        for other in [other for other in _loops.desks if other.is_closed()]:
            del _loops.desks[other]
        desks = _loops.desks[loop] = []
    for desk in desks:
        if desk.waits.serves(handle):
            return desk
    for desk in [desk for desk in desks if desk.waits.stale]:
        desk.close(loop)
    desk = _Desk(loop, handle)
    desks.append(desk)
    return desk


def deadline_of(timeout: float | None) -> float | None:
    """When a wait in the running loop ends.

    Raises:
        ValueError: ``timeout`` is NaN.
        TypeError: ``timeout`` is no number.
    """
    if timeout is None:
        return None
    return asyncio.get_running_loop().time() + _engine.seconds("timeout", timeout)


async def wait_for_news(handle: Any, deadline: float | None) -> bool:
    """Waits until there may be news of a handle; False: the time is over."""
    loop = asyncio.get_running_loop()
    if deadline is not None and deadline <= loop.time():
        return False
    try:
        return await _desk(loop, handle).wait(loop, handle, deadline)
    except SegmentClosed:
        if _engine.is_left_over():
            await loop.create_future()  # for ever, which is not long
        raise
