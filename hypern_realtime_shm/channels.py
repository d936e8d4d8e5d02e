"""Named channels: publish to every subscriber of every worker."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from typing_extensions import Self

from . import _engine
from ._arguments import need_callable
from ._engine import ChannelStats, Handle, Message, Subscriber
from ._receiving import Messages
from .errors import ChannelClosed
from .segment import resolve


async def deliver(callback: Callable[[Any], Any], message: str | bytes) -> None:
    """Calls a callback, plain or async."""
    result = callback(message)
    if inspect.isawaitable(result):
        await result


async def deliver_all(subscriber: Handle, callback: Callable[[Any], Any]) -> None:
    """Calls a callback with each message until nothing will come any more."""
    try:
        while True:
            await deliver(callback, await subscriber.recv_async())
    except ChannelClosed:
        return


class ChannelManager(_engine.ChannelManager):
    """Named channels of one namespace of a segment, shared by all workers.

    Args:
        default_buffer_size: messages that a channel retains, rounded up to a power of two (256).
        segment: a name, a :class:`Segment`, or None: HYPERN_SHM_NAME, else a private segment.
        namespace: separates worlds inside a segment.

    Raises:
        ValueError: ``default_buffer_size`` is not between 1 and 2**20.
    """

    def __new__(
        cls,
        default_buffer_size: int = 256,
        *,
        segment: str | _engine.Segment | None = None,
        namespace: str = "",
    ) -> Self:
        used = resolve(segment, namespace, default_buffer_size=default_buffer_size)
        return super().__new__(cls, default_buffer_size, used, namespace)

    async def subscribe_async(
        self,
        channel_name: str,
        client_id: str,
        callback: Callable[[str], Any],
        poll_interval: float = 0.01,  # noqa: ARG002
    ) -> None:
        """Subscribes, and calls ``callback`` (plain or async) with each message until the channel is
        removed, the client is unsubscribed or the task is cancelled; then unsubscribes.

        Args:
            poll_interval: kept for those who pass it; nothing is polled, a message wakes the task at once.

        Raises:
            KeyError: there is no such channel.
        """
        need_callable("callback", callback)
        sub = self.subscribe(channel_name, client_id)
        try:
            await deliver_all(sub, callback)
        finally:
            sub.close()
            self.unsubscribe(channel_name, client_id)


__all__ = ["ChannelManager", "ChannelStats", "Message", "Messages", "Subscriber"]
