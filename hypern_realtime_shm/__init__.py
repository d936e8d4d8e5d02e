"""Realtime channels, presence, broadcast and heartbeats that all workers of a server share.

``from hypern_realtime_shm import RealtimeHub`` in the place of ``from hypern.realtime import
RealtimeHub`` is the whole migration; ``segment="chat"`` names the shared memory that workers meet in.
"""

from ._engine import __version__
from .broadcast import BackpressurePolicy, BroadcastConfig, BroadcastStats, BroadcastSubscriber, RealtimeBroadcast
from .channels import ChannelManager, ChannelStats, Subscriber
from .errors import (
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
from .presence import PresenceDiff, PresenceInfo, PresenceTracker
from .segment import Segment
from .topics import TopicMatcher

__all__ = [
    "BackpressurePolicy",
    "BroadcastConfig",
    "BroadcastStats",
    "BroadcastSubscriber",
    "ChannelManager",
    "ChannelStats",
    "HeartbeatConfig",
    "HeartbeatMonitor",
    "HeartbeatStats",
    "NoSubscribers",
    "PresenceDiff",
    "PresenceInfo",
    "PresenceTracker",
    "PrivateSegmentWarning",
    "RealtimeBroadcast",
    "RealtimeError",
    "RealtimeHub",
    "SSEEvent",
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
]
