"""Server-sent event streams: join, replay, live messages, keep-alive and leaving in one iterator.

A stream is what ``hub.sse_stream`` and ``hub.sse_stream_sync`` give: ready bytes for any framework. Streams are
counted: a client with two of them, on one worker or on two, stays until the last has ended. Asking for the next
chunk is the sign of life. A server that stops asking without closing the stream (a client that was killed, and a
server that does not say so) loses the client's presence after the heartbeat's ``timeout_secs``; should it ask
again, the client is back. Where a server goes on asking for a dead client's chunks nothing can be promised.

Source of the format: HTML Living Standard, section 9.2 "Server-sent events".
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import os
import re
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from typing import Any, ClassVar, NoReturn, Protocol

from typing_extensions import Self

from . import _engine
from ._engine import Message, SSEEvent
from ._loops import wait_for_news
from .channels import ChannelManager, Subscriber
from .errors import ChannelClosed, RealtimeError, SegmentClosed, SubscriberClosed
from .heartbeat import HeartbeatMonitor
from .presence import PresenceTracker


class Hub(Protocol):
    """What a stream needs of a hub."""

    channels: ChannelManager
    presence: PresenceTracker
    heartbeat: HeartbeatMonitor

    def join(
        self, channel: str, client_id: str, metadata: dict[str, str] | None = None, *, last_event_id: str | None = None
    ) -> Subscriber: ...


_log = logging.getLogger("hypern_realtime_shm")
_KEEPALIVE = b": keepalive\n\n"
_LINE_BREAK = re.compile(r"\r\n?")  # Hypern's events know LF only
# Messages that are there already and go out as one chunk.
_AT_ONCE = 64
# Seconds: with an interval of 0, keep-alives would be all that a loop does.
_SHORTEST_TICK = 0.01

# What a subscriber raises when the channel is gone, the client was made to leave, or the worker stops.
_ENDS = (ChannelClosed, SubscriberClosed)


def _is_end(error: BaseException) -> bool:
    """Does a stream end by it, or fail? When the program is over, its daemon threads find their segments closed."""
    return isinstance(error, _ENDS) or (isinstance(error, SegmentClosed) and _engine.is_left_over())


_Place = tuple[tuple[int, int], str, str]


class _Stays:
    """Which streams hold which (world, channel, client) in this process. A world's key differs in every forked
    child, so what a child inherits counts for nothing there."""

    def __init__(self) -> None:
        self._locks: dict[tuple[int, int], threading.RLock] = {}
        self._tokens: dict[_Place, set[int]] = {}

    def lock(self, world: tuple[int, int]) -> threading.RLock:
        """Held while somebody joins or leaves, so that the last one leaving and a next one joining do not cross."""
        return self._locks.setdefault(world, threading.RLock())

    def add(self, place: _Place, token: int) -> None:
        """Counts a stream."""
        self._tokens.setdefault(place, set()).add(token)

    def discard(self, place: _Place, token: int) -> bool:
        """Counts a stream no more. True: it was the last of this process."""
        tokens = self._tokens.get(place, set())
        if token not in tokens:
            return False
        tokens.discard(token)
        if tokens:
            return False
        del self._tokens[place]
        return True


_stays = _Stays()
_serial = itertools.count()
# Called by who opens a stream. For what a server's hooks can only do once it serves.
before_each: list[Callable[[], None]] = []
_streams: weakref.WeakValueDictionary[int, _Stream] = weakref.WeakValueDictionary()


def _open_streams() -> list[_Stream]:
    """The streams that somebody still has. Other threads, and whoever a signal interrupts, make and drop streams
    meanwhile: taking the references is one step, walking the dictionary would not be."""
    return [stream for reference in _streams.valuerefs() if (stream := reference()) is not None]


def text_of(message: Message) -> str:
    """A message's data as text: events have nothing else."""
    data: str | bytes = message.data
    return data if isinstance(data, str) else data.decode(errors="replace")


def event_of(message: Message) -> bytes:
    """A message as an event with its id."""
    return SSEEvent(text_of(message), message.id).to_bytes()


class _Stream:
    """A client's stay in a channel, told as events."""

    # Of one whose making failed, too.
    _closed = True
    _joined = False

    def __init__(
        self,
        hub: Hub,
        channel: str,
        client_id: str,
        metadata: dict[str, str] | None,
        last_event_id: str | None,
    ) -> None:
        self._hub = hub
        self._channel = channel
        self._client = client_id
        self._metadata = metadata
        self._token = next(_serial)
        self._waiting = False
        config = hub.heartbeat.config
        for prepare in before_each:
            prepare()
        self._timeout = config.timeout_secs
        self._keepalive = config.send_keepalive
        # Often enough that a client whose server asks is never taken for gone.
        self._tick = max(min(config.interval_secs, config.timeout_secs / 3), _SHORTEST_TICK)
        world = hub.channels.world_key()
        with _stays.lock(world):
            self._subscriber = hub.join(channel, client_id, metadata, last_event_id=last_event_id)
            self._hold(world)
        self._closed = False
        self._retry = config.sse_retry_ms
        # What is replayed comes after this id; a client that reconnects before the first message has no gap.
        self._opening = self._subscriber.last_event_id
        self._asked = time.monotonic()
        _streams[self._token] = self
        _Housekeeper.start()

    def _hold(self, world: tuple[int, int]) -> None:
        self._world = world
        _stays.add((world, self._channel, self._client), self._token)
        self._joined = True

    def _let_go(self) -> None:
        """Ends this stream's part in the client's stay."""
        with _stays.lock(self._world):
            if not self._joined:
                return
            self._joined = False
            if self._world != self._hub.channels.world_key():
                return  # a forked child: the stay is the parent's
            if _stays.discard((self._world, self._channel, self._client), self._token):
                self._hub.channels.release(self._channel, self._client)
                self._hub.presence.release(self._channel, self._client)
                if not self._hub.presence.holds(self._client):
                    self._hub.heartbeat.release(self._client)

    def _ask(self) -> None:
        """The server asks for a chunk: the client lives."""
        self._asked = time.monotonic()
        self._waiting = True
        if not self._sign_of_life() or not self._joined:
            self._come_back()

    def _sign_of_life(self) -> bool:
        """For the heartbeat, and for who evicts members that were not seen for long. False: taken for gone."""
        self._hub.presence.touch(self._channel, self._client)
        return self._hub.heartbeat.pong(self._client)

    def _come_back(self) -> None:
        """Joins again after having been taken for gone; not after somebody made the client leave."""
        if self._subscriber.ended:
            return
        world = self._hub.channels.world_key()
        with _stays.lock(world):
            self._hub.presence.track(self._channel, self._client, self._metadata)
            self._hub.heartbeat.register(self._client, self._subscriber.last_event_id)
            self._hold(world)

    def _take(self) -> list[Message] | str | None:
        """What is there now: the id to go on from, first of all, or messages; None: nothing."""
        if self._opening is not None:
            opening, self._opening = self._opening, None
            return opening
        messages: list[Message] = []
        while len(messages) < _AT_ONCE:
            message = self._subscriber.try_recv_message()
            if message is None:
                break
            messages.append(message)
        if not messages and self._subscriber.ended:
            raise ChannelClosed
        return messages or None

    def _time_passed(self) -> list[Message] | None:
        """Nothing came for a while: a keep-alive, if one is to be sent."""
        self._asked = time.monotonic()
        if self._keepalive:
            return []
        self._sign_of_life()
        return None

    def _encode(self, piece: list[Message] | str) -> bytes:
        if isinstance(piece, str):
            return f"retry: {self._retry}\nid: {piece}\n\n".encode()
        return b"".join(map(event_of, piece)) or _KEEPALIVE

    def _look_after(self, now: float) -> None:
        if not self._waiting and self._joined and now - self._asked > self._timeout:
            _log.info("client %r of channel %r is gone: its stream was not asked for", self._client, self._channel)
            self._let_go()

    def close(self) -> None:
        """Ends the stream; the client leaves if it was its last. Again is harmless."""
        if self._closed:
            return
        self._closed = True
        try:
            self._subscriber.close()
            self._let_go()
        except SegmentClosed:
            return  # everything of this process ended with it

    def __reduce__(self) -> NoReturn:
        # Copies included: whichever went first would end the stay of both.
        raise TypeError(f"cannot pickle or copy {type(self).__name__!r} object")

    def __del__(self, _finalizing: Callable[[], bool] = sys.is_finalizing) -> None:
        # A server that drops a stream without closing it. A process that ends has detached already.
        try:
            if not _finalizing():
                self.close()
        except Exception:
            _log.exception("a stream of client %r could not be closed", self._client)


class SSEStream(_Stream):
    """An asynchronous iterator of ready bytes. Made by ``hub.sse_stream``."""

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        if self._closed:
            raise StopAsyncIteration
        try:
            self._ask()
            piece = self._take()
            while piece is None:
                until = asyncio.get_running_loop().time() + self._tick
                in_time = await wait_for_news(self._subscriber, until)
                piece = self._take() if in_time else self._time_passed()
            return self._encode(piece)
        except (RealtimeError, asyncio.CancelledError) as error:
            self.close()
            if _is_end(error):
                raise StopAsyncIteration from None
            raise
        finally:
            self._waiting = False

    async def aclose(self) -> None:
        """Ends the stream."""
        self.close()


class SSEStreamSync(_Stream):
    """An iterator of ready bytes for threads and greenlets. Made by ``hub.sse_stream_sync``."""

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> bytes:
        return self._encode(self._next())

    def hypern_events(self) -> Iterator[Any]:
        """The same as Hypern's own events, which its responses are made of:
        ``res.sse_stream(hub.sse_stream_sync(channel, client_id).hypern_events())``."""
        from hypern import SSEEvent as HypernEvent

        with contextlib.closing(self), contextlib.suppress(StopIteration):
            while True:
                piece = self._next()
                if isinstance(piece, str):
                    yield HypernEvent(data="", id=piece, retry=self._retry)
                for message in piece if isinstance(piece, list) else []:
                    yield HypernEvent(data=_LINE_BREAK.sub("\n", text_of(message)), id=message.id)
                if piece == []:
                    yield ""  # an empty line, which clients ignore: it has no comments

    def _next(self) -> list[Message] | str:
        if self._closed:
            raise StopIteration
        try:
            self._ask()
            piece = self._take()
            while piece is None:
                try:
                    piece = [self._subscriber.recv_message(self._tick)]
                except TimeoutError:
                    piece = self._time_passed()
            return piece
        except RealtimeError as error:
            self.close()
            if _is_end(error):
                raise StopIteration from None
            raise
        finally:
            self._waiting = False


class _Housekeeper:
    """A thread that lets go of clients whose streams nobody asks for any more, from the first stream on."""

    _started: ClassVar[dict[int, object]] = {}

    @classmethod
    def start(cls) -> None:
        """Starts it, once a process."""
        pid, mine = os.getpid(), object()
        if cls._started.setdefault(pid, mine) is mine:
            threading.Thread(target=cls._run, args=(pid,), name="hypern-shm-streams", daemon=True).start()

    @classmethod
    def _run(cls, pid: int) -> None:
        while os.getpid() == pid:
            # No stream is held while this sleeps: one that its server drops must go at once.
            time.sleep(max(cls._look_after_all() / 4, 0.01))

    @staticmethod
    def _look_after_all() -> float:
        """Lets go of who is gone; returns the shortest time-out, at most 4 s."""
        shortest = 4.0
        for stream in _open_streams():
            shortest = min(shortest, stream._timeout)
            try:
                stream._look_after(time.monotonic())
            except SegmentClosed:
                stream._joined = False
            except Exception:
                _log.exception("a stream of client %r could not be looked after", stream._client)
        return shortest


def end_streams() -> int:
    """Ends all streams of this process, as a worker does that is about to stop; the clients reconnect to another
    worker and go on where they were. Safe in a signal handler. Returns how many there were."""
    ended = 0
    for stream in _open_streams():
        if not stream._closed:
            stream._subscriber.close()
            ended += 1
    return ended


__all__ = ["SSEStream", "SSEStreamSync", "end_streams", "event_of"]
