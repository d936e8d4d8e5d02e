"""Presence: who is in which channel, on whatever worker."""

from __future__ import annotations

from collections.abc import Awaitable, Mapping
from typing import Any

from typing_extensions import Self

from . import _engine
from ._arguments import need_items
from ._engine import PresenceDiff, PresenceInfo
from ._loops import deadline_of, wait_for_news
from .segment import resolve


class PresenceWatch(_engine.PresenceWatch):
    """A channel's members as they change: ``for diff in watch`` or ``async for diff in watch``.

    The first diff's ``joins`` is the whole list; every later one is a change, told to each watcher once, and
    the net change where the watcher was slower. Made by ``PresenceTracker.watch``.
    """

    async def next_async(self, timeout: float | None = None) -> PresenceDiff:
        """The next change; waits for it without blocking the loop.

        Raises:
            TimeoutError: none came in time.
            SubscriberClosed: the watch was closed.
        """
        deadline = deadline_of(timeout)
        while True:
            diff = self.try_next()
            if diff is not None:
                return diff
            if not await wait_for_news(self, deadline):
                diff = self.try_next()
                if diff is not None:
                    return diff
                raise TimeoutError("no change came in time")

    def __aiter__(self) -> Self:
        return self

    def __anext__(self) -> Awaitable[PresenceDiff]:
        return _next(self)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exception: object) -> None:
        self.close()


async def _next(watch: PresenceWatch) -> PresenceDiff:
    if watch.closed:
        raise StopAsyncIteration
    try:
        return await watch.next_async()
    except ValueError:
        # Closed by another task: iteration ends.
        if watch.closed:
            raise StopAsyncIteration from None
        raise


class PresenceTracker(_engine.PresenceTracker):
    """Members of the channels of one namespace of a segment, shared by all workers.

    Args:
        segment: a name, a :class:`Segment`, or None: HYPERN_SHM_NAME, else a private segment.
        namespace: separates worlds inside a segment.
    """

    def __new__(cls, *, segment: str | _engine.Segment | None = None, namespace: str = "") -> Self:
        return super().__new__(cls, resolve(segment, namespace), namespace)

    def track_json(self, channel: str, client_id: str, metadata: Any) -> PresenceInfo:
        """Tracks with metadata of any values: keys and values become ``str``."""
        if metadata:
            need_items("metadata", metadata)
        texts = {str(key): str(value) for key, value in metadata.items()} if metadata else None
        return self.track(channel, client_id, texts)

    def watch(self, channel: str) -> PresenceWatch:
        """Watches who is in a channel, on whatever worker: the whole list first, then every change."""
        return PresenceWatch(self, channel)

    def diff_as_dict(self, channel: str) -> dict[str, Any]:
        """Takes the net change as a dict, ready for JSON: joins (client_id, metadata) and leaves."""
        diff = self.flush_diff(channel)
        joins: list[Mapping[str, Any]] = [
            {"client_id": info.client_id, "metadata": info.metadata} for info in diff.joins
        ]
        return {"joins": joins, "leaves": diff.leaves}


__all__ = ["PresenceDiff", "PresenceInfo", "PresenceTracker", "PresenceWatch"]
