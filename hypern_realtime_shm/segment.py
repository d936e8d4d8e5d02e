"""Segments: the shared memory that managers of all workers meet in."""

from __future__ import annotations

import os
from collections.abc import Callable
from types import TracebackType
from typing import Any

from typing_extensions import Self

from . import _engine, _lifecycle, _servers
from ._arguments import known_as, wrong_type
from ._settings import parse_size, variable_bool, variable_int, variable_size

DEFAULT_SIZE = "32MiB"
DEFAULT_MAX_PROCESSES = 128
PRIVATE_SIZE = "4MiB"


# The settings of a new segment: what each is read from where it is not given, how, and what it is by default.
_SETTINGS: dict[str, tuple[str, Callable[[str], Any], Any]] = {
    "size": ("HYPERN_SHM_SIZE", variable_size, parse_size(DEFAULT_SIZE)),
    "max_processes": ("HYPERN_SHM_MAX_PROCESSES", variable_int, DEFAULT_MAX_PROCESSES),
    "unlink_when_unused": ("HYPERN_SHM_UNLINK_WHEN_UNUSED", variable_bool, False),
    "channels": ("HYPERN_SHM_CHANNELS", variable_int, None),
    "ring_slots": ("HYPERN_SHM_RING_SLOTS", variable_int, None),
    "members": ("HYPERN_SHM_MEMBERS", variable_int, None),
    "clients": ("HYPERN_SHM_CLIENTS", variable_int, None),
    "waiters": ("HYPERN_SHM_WAITERS", variable_int, None),
}


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
            TypeError: an argument is of the wrong type.
            ValueError: an argument or variable is out of its bounds, or the capacities do not fit the size.
            SegmentNoSpace: /dev/shm has no room.
            SegmentRefused: something else is in its place.
            SegmentVersionMismatch: another version made it.
            SegmentFull: all process slots are taken.
        """
        _engine.text("name", name)  # None means a private segment to the engine: nobody asks for that by a name
        settings: dict[str, Any] = {
            "size": None if size is None else parse_size(size),
            "max_processes": max_processes,
            "unlink_when_unused": unlink_when_unused,
            "channels": channels,
            "ring_slots": ring_slots,
            "members": members,
            "clients": clients,
            "waiters": waiters,
        }
        # 0 and False are given, too.
        from_variables = {}
        for argument in [argument for argument, given in settings.items() if given is None]:
            variable, read, default = _SETTINGS[argument]
            settings[argument] = read(variable)
            if settings[argument] is None:
                settings[argument] = default
            else:
                from_variables[argument] = variable
        _lifecycle.install()
        with known_as(from_variables):
            return cls(name, True, **settings)

    @classmethod
    def attach(cls, name: str) -> Self:
        """Attaches to the segment of this name.

        Raises:
            SegmentNotFound: there is none.
        """
        _engine.text("name", name)
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


def resolve(segment: str | _engine.Segment | None, namespace: str, **others: Any) -> _engine.Segment:
    """The segment that a manager is to use: the argument, else HYPERN_SHM_NAME, else a private one.

    Args:
        namespace: the manager's; it and
        others: its other arguments are looked at first, so that no segment is made for a manager that cannot be.

    Raises:
        TypeError, ValueError: one of them is not what it must be.
    """
    _engine.check_manager(namespace=namespace, **others)
    if isinstance(segment, _engine.Segment):
        return segment
    if isinstance(segment, str):
        with known_as({"name": "segment"}):
            return Segment.open(segment)
    if segment is not None:
        raise wrong_type("segment", segment, "a str, a Segment or None")
    name = os.environ.get("HYPERN_SHM_NAME")
    if name:
        with known_as({"name": "HYPERN_SHM_NAME"}):
            return Segment.open(name)
    _servers.warn_if_alone(stacklevel=4)
    return Segment.private()


__all__ = ["Segment"]
