"""The hub: channels, presence, broadcast and heartbeats of one world in one object."""

from __future__ import annotations

from typing import Any

from . import _engine
from ._arguments import known_as, wrong_type
from ._engine import BroadcastConfig, HeartbeatConfig, PresenceInfo
from .broadcast import RealtimeBroadcast
from .channels import ChannelManager
from .errors import SegmentClosed
from .heartbeat import HeartbeatMonitor
from .presence import PresenceTracker
from .segment import resolve
from .streams import SSEStream, SSEStreamSync


class RealtimeHub(_engine.RealtimeHub):
    """Channels, presence, broadcast and heartbeats of one namespace of a segment.

    Args:
        channel_buffer_size: messages that a channel retains (256).
        heartbeat_config: None: ``HeartbeatConfig()``.
        segment: a name, a :class:`Segment`, or None: HYPERN_SHM_NAME, else one private segment for all four.
        namespace: separates worlds inside a segment.

    Attributes:
        channels, presence, broadcast, heartbeat: the four parts. Joining, leaving and publishing are done with those
            that it was made with, whatever is put in their place later.
    """

    def __init__(
        self,
        channel_buffer_size: int = 256,
        heartbeat_config: HeartbeatConfig | None = None,
        *,
        segment: str | _engine.Segment | None = None,
        namespace: str = "",
    ) -> None:
        with known_as({"default_buffer_size": "channel_buffer_size", "config": "heartbeat_config"}):
            shared = resolve(segment, namespace, default_buffer_size=channel_buffer_size, config=heartbeat_config)
        channels = ChannelManager(channel_buffer_size, segment=shared, namespace=namespace)
        presence = PresenceTracker(segment=shared, namespace=namespace)
        broadcast = RealtimeBroadcast(segment=shared, namespace=namespace)
        heartbeat = HeartbeatMonitor(heartbeat_config, segment=shared, namespace=namespace)
        # Refused the second time, before anything is replaced.
        self._consist_of(channels, presence, heartbeat)
        self.channels, self.presence, self.broadcast, self.heartbeat = channels, presence, broadcast, heartbeat

    def create_channel(
        self,
        name: str,
        buffer_size: int | None = None,
        broadcast_config: BroadcastConfig | None = None,
    ) -> None:
        """Creates a channel and, with a configuration, a broadcast channel of the same name; what
        exists is kept as it is.

        Raises:
            SegmentFull: there is no room. Neither of the two is made then.
        """
        if broadcast_config is not None and not isinstance(broadcast_config, BroadcastConfig):
            raise wrong_type("broadcast_config", broadcast_config, "a BroadcastConfig")
        made = self.channels.create_channel(name, buffer_size)
        try:
            if broadcast_config is not None:
                self.broadcast.create(name, broadcast_config)
        except BaseException:
            if made:
                self.channels.remove_channel(name)
            raise

    def sse_stream(
        self,
        channel: str,
        client_id: str,
        metadata: dict[str, str] | None = None,
        *,
        last_event_id: str | None = None,
    ) -> SSEStream:
        """A client's stay in a channel as an asynchronous iterator of ready server-sent events.

        Joins at once; sends ``retry`` and the id to go on from, what came after ``last_event_id``, then live
        messages with their ids, and a keep-alive comment at the heartbeat's interval. The client leaves when the
        stream is closed, cancelled or dropped, if it was its last on any worker, or when nobody has asked for a
        chunk for the heartbeat's ``timeout_secs``. Streams are counted, a :meth:`join` of the same client in the
        same channel and process is not. The stream ends with the channel, and when somebody makes the client leave.

        >>> StreamingResponse(hub.sse_stream("news", user), media_type="text/event-stream")  # doctest: +SKIP

        Raises:
            KeyError: there is no such channel.
        """
        return SSEStream(self, channel, client_id, metadata, last_event_id)

    def sse_stream_sync(
        self,
        channel: str,
        client_id: str,
        metadata: dict[str, str] | None = None,
        *,
        last_event_id: str | None = None,
    ) -> SSEStreamSync:
        """As :meth:`sse_stream`, an ordinary iterator: for WSGI, and whatever runs handlers in threads."""
        return SSEStreamSync(self, channel, client_id, metadata, last_event_id)

    def get_presence(self, channel: str) -> list[PresenceInfo]:
        """The members of a channel."""
        return self.presence.list(channel)

    def get_presence_diff(self, channel: str) -> dict[str, Any]:
        """Takes the net change of a channel's members as a dict."""
        return self.presence.diff_as_dict(channel)

    def __repr__(self) -> str:
        try:
            return (
                f"RealtimeHub(channels={self.channels.channel_count()}, clients={self.presence.total_clients()}, "
                f"heartbeat={self.heartbeat.client_count()})"
            )
        except SegmentClosed:
            return "RealtimeHub(closed)"


__all__ = ["RealtimeHub"]
