"""Realtime channels, presence, broadcast and heartbeats that all workers of a server share.

``from hypern_realtime_shm import RealtimeHub`` in the place of ``from hypern.realtime import
RealtimeHub`` is the whole migration; ``segment="chat"`` names the shared memory that workers meet in.
"""

from ._engine import __version__
from .broadcast import BackpressurePolicy, BroadcastConfig, BroadcastStats, BroadcastSubscriber, RealtimeBroadcast
from .channels import ChannelManager, ChannelStats, Message, Subscriber
from .errors import (
    ChannelClosed,
    NoSubscribers,
    PrivateSegmentWarning,
    RealtimeError,
    SegmentClosed,
    SegmentCorrupt,
    SegmentError,
    SegmentFull,
    SegmentNoSpace,
    SegmentNotFound,
    SegmentRefused,
    SegmentVersionMismatch,
    SubscriberClosed,
    UnknownChannel,
)
from .heartbeat import HeartbeatConfig, HeartbeatMonitor, HeartbeatStats, SSEEvent
from .hub import RealtimeHub
from .presence import PresenceDiff, PresenceInfo, PresenceTracker, PresenceWatch
from .segment import Segment
from .streams import SSEStream, SSEStreamSync, end_streams
from .topics import TopicMatcher

__all__ = [
    "BackpressurePolicy",
    "BroadcastConfig",
    "BroadcastStats",
    "BroadcastSubscriber",
    "ChannelClosed",
    "ChannelManager",
    "ChannelStats",
    "HeartbeatConfig",
    "HeartbeatMonitor",
    "HeartbeatStats",
    "Message",
    "NoSubscribers",
    "PresenceDiff",
    "PresenceInfo",
    "PresenceTracker",
    "PresenceWatch",
    "PrivateSegmentWarning",
    "RealtimeBroadcast",
    "RealtimeError",
    "RealtimeHub",
    "SSEEvent",
    "SSEStream",
    "SSEStreamSync",
    "Segment",
    "SegmentClosed",
    "SegmentCorrupt",
    "SegmentError",
    "SegmentFull",
    "SegmentNoSpace",
    "SegmentNotFound",
    "SegmentRefused",
    "SegmentVersionMismatch",
    "Subscriber",
    "SubscriberClosed",
    "TopicMatcher",
    "UnknownChannel",
    "__version__",
    "end_streams",
]
