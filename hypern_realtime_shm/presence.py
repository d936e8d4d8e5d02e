"""Presence: who is in which channel, on whatever worker."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from typing_extensions import Self

from . import _engine
from ._engine import PresenceDiff, PresenceInfo
from .segment import resolve


class PresenceTracker(_engine.PresenceTracker):
    """Members of the channels of one namespace of a segment, shared by all workers.

    Args:
        segment: a name, a :class:`Segment`, or None: HYPERN_SHM_NAME, else a private segment.
        namespace: separates worlds inside a segment.
    """

    def __new__(cls, *, segment: str | _engine.Segment | None = None, namespace: str = "") -> Self:
        return super().__new__(cls, resolve(segment), namespace)

    def track_json(self, channel: str, client_id: str, metadata: Any) -> PresenceInfo:
        """Tracks with metadata of any values: keys and values become ``str``."""
        texts = {str(key): str(value) for key, value in metadata.items()} if metadata else None
        return self.track(channel, client_id, texts)

    def list_as_dicts(self, channel: str) -> list[dict[str, Any]]:
        """The members as dicts, ready for JSON: client_id, channel, metadata, joined_at, last_seen."""
        return [
            {
                "client_id": info.client_id,
                "channel": info.channel,
                "metadata": info.metadata,
                "joined_at": info.joined_at,
                "last_seen": info.last_seen,
            }
            for info in self.list(channel)
        ]

    def diff_as_dict(self, channel: str) -> dict[str, Any]:
        """Takes the net change as a dict, ready for JSON: joins (client_id, metadata) and leaves."""
        diff = self.flush_diff(channel)
        joins: list[Mapping[str, Any]] = [
            {"client_id": info.client_id, "metadata": info.metadata} for info in diff.joins
        ]
        return {"joins": joins, "leaves": diff.leaves}


__all__ = ["PresenceDiff", "PresenceInfo", "PresenceTracker"]
