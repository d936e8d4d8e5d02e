"""The hub: channels, presence, broadcast and heartbeats of one world in one object."""

from __future__ import annotations

from typing import Any

from . import _engine
from ._engine import BroadcastConfig, HeartbeatConfig, PresenceInfo, Subscriber
from .broadcast import RealtimeBroadcast
from .channels import ChannelManager
from .heartbeat import HeartbeatMonitor
from .presence import PresenceTracker
from .segment import resolve


class RealtimeHub:
    """Channels, presence, broadcast and heartbeats of one namespace of a segment.

    Args:
        channel_buffer_size: messages that a channel retains (256).
        heartbeat_config: None: ``HeartbeatConfig()``.
        segment: a name, a :class:`Segment`, or None: HYPERN_SHM_NAME, else one private segment for all four.
        namespace: separates worlds inside a segment.

    Attributes:
        channels, presence, broadcast, heartbeat: the four parts.
    """

    def __init__(
        self,
        channel_buffer_size: int = 256,
        heartbeat_config: HeartbeatConfig | None = None,
        *,
        segment: str | _engine.Segment | None = None,
        namespace: str = "",
    ) -> None:
        shared = resolve(segment)
        self.channels = ChannelManager(channel_buffer_size, segment=shared, namespace=namespace)
        self.presence = PresenceTracker(segment=shared, namespace=namespace)
        self.broadcast = RealtimeBroadcast(segment=shared, namespace=namespace)
        self.heartbeat = HeartbeatMonitor(heartbeat_config, segment=shared, namespace=namespace)

    def create_channel(
        self,
        name: str,
        buffer_size: int | None = None,
        broadcast_config: BroadcastConfig | None = None,
    ) -> None:
        """Creates a channel and, with a configuration, a broadcast channel of the same name; what
        exists is kept as it is."""
        self.channels.create_channel(name, buffer_size)
        if broadcast_config is not None:
            self.broadcast.create(name, broadcast_config)

    def join(self, channel: str, client_id: str, metadata: dict[str, str] | None = None) -> Subscriber:
        """Subscribes, tracks presence and registers the heartbeat of a client.

        Raises:
            KeyError: there is no such channel.
            SegmentFull: there is no room; nothing of the three is left behind.
        """
        sub = self.channels.subscribe(channel, client_id)
        try:
            self.presence.track(channel, client_id, metadata)
            self.heartbeat.register(client_id)
        except BaseException:
            sub.close()
            self.leave(channel, client_id)
            raise
        return sub

    def leave(self, channel: str, client_id: str) -> None:
        """Takes a client out of a channel; its heartbeat ends with its last channel."""
        self.channels.unsubscribe(channel, client_id)
        self.presence.untrack(channel, client_id)
        if not self.presence.client_channels(client_id):
            self.heartbeat.unregister(client_id)

    def disconnect(self, client_id: str) -> list[str]:
        """Takes a client out of all channels; returns those it was in."""
        left = self.presence.untrack_all(client_id)
        for channel in left:
            self.channels.unsubscribe(channel, client_id)
        self.heartbeat.unregister(client_id)
        return left

    def publish(self, channel: str, message: str | bytes) -> int:
        """Publishes; returns how many handles are open in all workers.

        Raises:
            KeyError: there is no such channel.
        """
        return self.channels.publish(channel, message)

    def publish_json(self, channel: str, data: Any) -> int:
        """Publishes data as compact JSON."""
        return self.channels.publish_json(channel, data)

    def get_presence(self, channel: str) -> list[PresenceInfo]:
        """The members of a channel."""
        return self.presence.list(channel)

    def get_presence_diff(self, channel: str) -> dict[str, Any]:
        """Takes the net change of a channel's members as a dict."""
        return self.presence.diff_as_dict(channel)

    def __repr__(self) -> str:
        return (
            f"RealtimeHub(channels={self.channels.channel_count()}, clients={self.presence.total_clients()}, "
            f"heartbeat={self.heartbeat.client_count()})"
        )


__all__ = ["RealtimeHub"]
