"""Named channels: publish to every subscriber of every worker."""

from __future__ import annotations

import asyncio
import inspect
import json
from collections.abc import Callable
from typing import Any

from typing_extensions import Self

from . import _engine
from ._engine import ChannelStats, Subscriber
from .segment import resolve


def compact_json(data: Any) -> str:
    """JSON without spaces, as the original publishes it."""
    return json.dumps(data, separators=(",", ":"))


async def deliver(callback: Callable[[Any], Any], message: str | bytes) -> None:
    """Calls a callback, plain or async."""
    result = callback(message)
    if inspect.isawaitable(result):
        await result


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
        return super().__new__(cls, default_buffer_size, resolve(segment), namespace)

    def publish_json(self, channel_name: str, data: Any) -> int:
        """Publishes data as compact JSON; returns how many handles are open.

        Raises:
            KeyError: there is no such channel.
            TypeError: the data cannot be JSON.
        """
        return self.publish(channel_name, compact_json(data))

    async def subscribe_async(
        self,
        channel_name: str,
        client_id: str,
        callback: Callable[[str], Any],
        poll_interval: float = 0.01,
    ) -> None:
        """Subscribes, and calls ``callback`` (plain or async) with each message until the channel is
        removed, the client is unsubscribed or the task is cancelled; then unsubscribes.

        Args:
            poll_interval: seconds between looks while nothing comes.

        Raises:
            KeyError: there is no such channel.
        """
        sub = self.subscribe(channel_name, client_id)
        try:
            while True:
                message = sub.try_recv()
                if message is not None:
                    await deliver(callback, message)
                elif sub.ended:
                    return
                else:
                    await asyncio.sleep(poll_interval)
        finally:
            sub.close()
            self.unsubscribe(channel_name, client_id)


__all__ = ["ChannelManager", "ChannelStats", "Subscriber"]
