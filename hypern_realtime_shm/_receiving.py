"""The asynchronous half of handles, of every kind: methods of the engine's class that are Python's."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any, TypeVar

from ._engine import Handle, Message
from ._loops import deadline_of, wait_for_news
from .errors import ChannelClosed

T = TypeVar("T")
H = TypeVar("H", bound=Handle)


class Messages:
    """The messages of a subscriber with their channels and ids: ``for`` and ``async for`` both work."""

    def __init__(self, subscriber: Handle) -> None:
        self._subscriber = subscriber

    def __iter__(self) -> Iterator[Message]:
        while True:
            try:
                message = self._subscriber.recv_message()
            except (ChannelClosed, ValueError) as error:
                if _is_over(self._subscriber, error):
                    return
                raise
            yield message

    async def __aiter__(self) -> AsyncIterator[Message]:
        while True:
            try:
                message = await self._subscriber.recv_message_async()
            except (ChannelClosed, ValueError) as error:
                if _is_over(self._subscriber, error):
                    return
                raise
            yield message


def _is_over(subscriber: Handle, error: Exception) -> bool:
    """Does iteration end: with the channel, or because somebody closed the handle?"""
    return isinstance(error, ChannelClosed) or subscriber.closed


async def recv_async(self: Handle, timeout: float | None = None) -> str | bytes:
    """The next message, as it was published; waits for it without blocking the loop.

    Args:
        timeout: seconds; None: for ever.

    Raises:
        TimeoutError: none came in time.
        ChannelClosed: the channel was removed or the client unsubscribed, and nothing is left.
        SubscriberClosed: the handle was closed.
    """
    deadline = deadline_of(timeout)
    message = self.try_recv()
    return message if message is not None else await _receive(self, self.try_recv, deadline)


async def recv_message_async(self: Handle, timeout: float | None = None) -> Message:
    """As :meth:`recv_async`, with the channel's name and the id."""
    deadline = deadline_of(timeout)
    message = self.try_recv_message()
    return message if message is not None else await _receive(self, self.try_recv_message, deadline)


def messages(self: Handle) -> Messages:
    """The messages with their channels and ids, for ``for`` and ``async for``."""
    return Messages(self)


def __aiter__(self: H) -> H:
    return self


def __anext__(self: Handle) -> Awaitable[str | bytes]:
    return _next(self)


async def __aenter__(self: H) -> H:
    return self


async def __aexit__(self: Handle, *_exception: object) -> None:
    self.close()


# Onto the class itself: a subclass with these would cost each subscribe a call of a type, and each handle its memory.
for _method in (recv_async, recv_message_async, messages, __aiter__, __anext__, __aenter__, __aexit__):
    _method.__qualname__ = f"Handle.{_method.__name__}"
    setattr(Handle, _method.__name__, _method)


async def _receive(subscriber: Any, take: Callable[[], T | None], deadline: float | None) -> T:
    while True:
        if subscriber.ended:
            # What was published before the end is there by now.
            message = take()
            if message is not None:
                return message
            raise ChannelClosed(
                f"channel '{subscriber.channel_name}' was removed, or the client unsubscribed; "
                "nothing will come any more"
            )
        in_time = await wait_for_news(subscriber, deadline)
        message = take()
        if message is not None:
            return message
        if not in_time:
            raise TimeoutError("no message came in time")


async def _next(subscriber: Handle) -> str | bytes:
    try:
        return await subscriber.recv_async()
    except (ChannelClosed, ValueError) as error:
        if _is_over(subscriber, error):
            raise StopAsyncIteration from None
        raise
