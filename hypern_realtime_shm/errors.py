"""The exceptions of this package: one small tree, built on built-ins where they fit.

::

    RealtimeError
    ├── SegmentError
    │   ├── SegmentNotFound        (FileNotFoundError)  no segment of this name to attach to
    │   ├── SegmentRefused         (PermissionError)    wrong owner, mode or kind in the segment's place
    │   ├── SegmentVersionMismatch                      made by another version or layout
    │   ├── SegmentCorrupt                              its bytes contradict themselves
    │   ├── SegmentNoSpace         (OSError, ENOSPC)    /dev/shm has no room (in a container: --shm-size)
    │   ├── SegmentClosed          (ValueError)         used after close()
    │   └── SegmentFull            (MemoryError)        a part of it is full; says which setting raises it
    ├── UnknownChannel             (KeyError)           no channel of this name
    ├── NoSubscribers              (RuntimeError)       nobody listens and the policy is Error
    ├── SubscriberClosed           (ValueError)         a handle used after close()
    └── ChannelClosed              (EOFError)           nothing will come any more, and nothing is left

    PrivateSegmentWarning          (RuntimeWarning)     a multi-worker server without a shared segment

Arguments out of their bounds are ``ValueError``, of the wrong type ``TypeError``: the text names the argument, its
value or type, and what it must be, and nothing was done. A ``bool`` is an ``int``, as everywhere in Python.
"""

from __future__ import annotations

import errno
from typing import Any


class RealtimeError(Exception):
    """Root of this package's exceptions."""


class SegmentError(RealtimeError):
    """Something about a segment."""


class SegmentNotFound(SegmentError, FileNotFoundError):
    """There is no segment of this name to attach to."""


class SegmentRefused(SegmentError, PermissionError):
    """What is in the segment's place has the wrong owner, mode or kind; it was left untouched."""


class SegmentVersionMismatch(SegmentError):
    """The segment was made by another version or with another layout; it was left untouched."""


class SegmentCorrupt(SegmentError):
    """The segment's bytes contradict themselves."""


class SegmentNoSpace(SegmentError, OSError):
    """The file system has no room for the segment."""

    def __init__(self, message: str) -> None:
        super().__init__(errno.ENOSPC, message)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.strerror,)


class SegmentClosed(SegmentError, ValueError):
    """The segment was closed in this process."""


class SegmentFull(SegmentError, MemoryError):
    """A part of the segment is full. Nothing was changed.

    Attributes:
        what: what is full.
        used: how much of it is in use.
        capacity: how much there is.
        setting: the setting that raises it, an argument of ``Segment.open``.
    """

    def __init__(self, message: str, what: str, used: int, capacity: int, setting: str) -> None:
        super().__init__(message)
        self.what = what
        self.used = used
        self.capacity = capacity
        self.setting = setting

    # Pools of processes hand exceptions on pickled.
    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (str(self), self.what, self.used, self.capacity, self.setting)


class UnknownChannel(RealtimeError, KeyError):
    """There is no channel of this name."""


class NoSubscribers(RealtimeError, RuntimeError):
    """Nobody listens to a broadcast channel whose policy is ``BackpressurePolicy.Error``."""


class SubscriberClosed(RealtimeError, ValueError):
    """The handle was closed."""


class ChannelClosed(RealtimeError, EOFError):
    """The channel was removed or the client unsubscribed, and everything that was left has been received."""


class PrivateSegmentWarning(RuntimeWarning):
    """A manager in a worker of a multi-worker server has no shared segment."""


__all__ = [
    "ChannelClosed",
    "NoSubscribers",
    "PrivateSegmentWarning",
    "RealtimeError",
    "SegmentClosed",
    "SegmentCorrupt",
    "SegmentError",
    "SegmentFull",
    "SegmentNoSpace",
    "SegmentNotFound",
    "SegmentRefused",
    "SegmentVersionMismatch",
    "SubscriberClosed",
    "UnknownChannel",
]
