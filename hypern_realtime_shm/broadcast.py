"""Broadcast channels: fan-out with a policy for nobody listening, and dedup by message id."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from typing_extensions import Self

from . import _engine
from ._arguments import need_callable
from ._engine import BackpressurePolicy, BroadcastConfig, BroadcastStats, BroadcastSubscriber
from .channels import deliver_all
from .segment import resolve


class RealtimeBroadcast(_engine.RealtimeBroadcast):
    """Broadcast channels of one namespace of a segment, shared by all workers.

    Args:
        segment: a name, a :class:`Segment`, or None: HYPERN_SHM_NAME, else a private segment.
        namespace: separates worlds inside a segment.
    """

    def __new__(cls, *, segment: str | _engine.Segment | None = None, namespace: str = "") -> Self:
        return super().__new__(cls, resolve(segment, namespace), namespace)

    async def subscribe_async(
        self,
        name: str,
        callback: Callable[[str], Any],
        poll_interval: float = 0.01,  # noqa: ARG002
    ) -> None:
        """Subscribes, and calls ``callback`` (plain or async) with each message until the channel is
        removed or the task is cancelled.

        Args:
            poll_interval: kept for those who pass it; nothing is polled, a message wakes the task at once.

        Raises:
            KeyError: there is no such channel.
        """
        need_callable("callback", callback)
        rx = self.subscribe(name)
        try:
            await deliver_all(rx, callback)
        finally:
            rx.close()


__all__ = ["BackpressurePolicy", "BroadcastConfig", "BroadcastStats", "BroadcastSubscriber", "RealtimeBroadcast"]
