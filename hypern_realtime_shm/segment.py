"""Segments: the shared memory that managers of all workers meet in."""

from __future__ import annotations

import os
from collections.abc import Callable
from types import TracebackType
from typing import TypeVar

from typing_extensions import Self

from . import _engine, _lifecycle, _servers
from ._settings import parse_size, variable_bool, variable_int, variable_size

DEFAULT_SIZE = "32MiB"
DEFAULT_MAX_PROCESSES = 128
PRIVATE_SIZE = "4MiB"


def _checked(name: str) -> None:
    # None means a private segment to the engine, which nobody asks for by a name.
    if not isinstance(name, str):
        raise TypeError(f"name must be a str, not {type(name).__name__!r}")


T = TypeVar("T")


def _given(argument: T | None, read: Callable[[str], T | None], variable: str, default: T) -> T:
    """The argument, else its variable, else the default; 0 and False are given, too."""
    if argument is not None:
        return argument
    value = read(variable)
    return default if value is None else value


class Segment(_engine.Segment):
    """A named shared-memory segment that this process is attached to.

    Use ``Segment.open(name)`` to create or attach, ``Segment.attach(name)`` only to attach. As a
    context manager it closes at the end. Forked children may go on using it; each attaches by itself
    on first use.

    >>> with Segment.open("chat") as segment:  # doctest: +SKIP
    ...     hub = RealtimeHub(segment=segment)
    """

    @classmethod
    def open(
        cls,
        name: str,
        *,
        size: int | str | None = None,
        max_processes: int | None = None,
        unlink_when_unused: bool | None = None,
        channels: int | None = None,
        ring_slots: int | None = None,
        members: int | None = None,
        clients: int | None = None,
        waiters: int | None = None,
    ) -> Self:
        """Attaches to the segment of this name, or creates it; any number of processes may start at once.

        What is not given comes from the environment, then from the default; all of it only counts for
        the process that creates.

        Args:
            name: 1 to 128 bytes of UTF-8 without ``/`` and NUL.
            size: bytes, or text such as ``"32MiB"`` (HYPERN_SHM_SIZE; 32 MiB).
            max_processes: processes attached at once, up to 4095 (HYPERN_SHM_MAX_PROCESSES; 128).
            unlink_when_unused: remove the name with the last process (HYPERN_SHM_UNLINK_WHEN_UNUSED; False).
            channels: channels at once, each with members (HYPERN_SHM_CHANNELS; follows from size).
            ring_slots: messages all channels retain together (HYPERN_SHM_RING_SLOTS; follows from size).
            members: members at once, all channels together (HYPERN_SHM_MEMBERS; follows from size).
            clients: heartbeat clients at once (HYPERN_SHM_CLIENTS; follows from size).
            waiters: event loops and threads that wait at once, in all processes (HYPERN_SHM_WAITERS; follows from
                size: 512 of 32 MiB). A thread beyond them looks for news every 5 ms, a loop raises SegmentFull.

        Raises:
            TypeError: ``name`` is no str.
            ValueError: an argument or variable is out of its bounds, or the capacities do not fit the size.
            SegmentNoSpace: /dev/shm has no room.
            SegmentRefused: something else is in its place.
            SegmentVersionMismatch: another version made it.
            SegmentFull: all process slots are taken.
        """
        _checked(name)
        default = parse_size(DEFAULT_SIZE)
        wanted = None if size is None else parse_size(size)
        _lifecycle.install()
        return cls(
            name,
            True,
            size=_given(wanted, variable_size, "HYPERN_SHM_SIZE", default),
            max_processes=_given(max_processes, variable_int, "HYPERN_SHM_MAX_PROCESSES", DEFAULT_MAX_PROCESSES),
            unlink_when_unused=_given(unlink_when_unused, variable_bool, "HYPERN_SHM_UNLINK_WHEN_UNUSED", False),
            channels=_given(channels, variable_int, "HYPERN_SHM_CHANNELS", None),
            ring_slots=_given(ring_slots, variable_int, "HYPERN_SHM_RING_SLOTS", None),
            members=_given(members, variable_int, "HYPERN_SHM_MEMBERS", None),
            clients=_given(clients, variable_int, "HYPERN_SHM_CLIENTS", None),
            waiters=_given(waiters, variable_int, "HYPERN_SHM_WAITERS", None),
        )

    @classmethod
    def attach(cls, name: str) -> Self:
        """Attaches to the segment of this name.

        Raises:
            SegmentNotFound: there is none.
        """
        _checked(name)
        _lifecycle.install()
        return cls(name, False, size=0, max_processes=1)

    @classmethod
    def private(cls, *, size: int | str = PRIVATE_SIZE) -> Self:
        """A segment without a name, for this process and the children it forks; freed with its last handle."""
        _lifecycle.install()
        return cls(None, True, size=parse_size(size), max_processes=DEFAULT_MAX_PROCESSES)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        state = ", closed" if self.closed else ""
        return f"Segment(name={self.name!r}, size={self.size}{state})"


def resolve(segment: str | _engine.Segment | None) -> _engine.Segment:
    """The segment that a manager is to use: the argument, else HYPERN_SHM_NAME, else a private one.

    Raises:
        TypeError: it is none of these.
    """
    if isinstance(segment, _engine.Segment):
        return segment
    if isinstance(segment, str):
        return Segment.open(segment)
    if segment is not None:
        raise TypeError(f"segment must be a str, a Segment or None, not {type(segment).__name__!r}")
    name = os.environ.get("HYPERN_SHM_NAME")
    if name:
        return Segment.open(name)
    _servers.warn_if_alone(stacklevel=4)
    return Segment.private()


__all__ = ["Segment"]
