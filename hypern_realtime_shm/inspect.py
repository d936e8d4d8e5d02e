"""See inside a segment, from any process, without disturbing anybody.

An inspector maps the segment read-only. It takes no place in it, holds no lock, waits for nobody, and no process waits
for it or can tell that it is there; so it works on a live server at full speed, after every worker has died, and on a
damaged segment, where it shows what can be read and lists in ``problems`` what cannot.

>>> inspector = Inspector("chat")  # doctest: +SKIP
>>> for row in inspector.channels()["channels"]:  # doctest: +SKIP
...     print(row["name"], row["published"], row["max_lag"])

Everything is plain data, ready for JSON; ``docs/schema`` has the JSON Schema of each answer, made from the types below.
Times are seconds since 1970, durations seconds, sizes bytes. What is called ``…_total`` only grows. The counts of one
answer are read one after the other: on a live segment they may be of slightly different moments.
"""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Iterator
from typing import Any, cast

from . import _engine
from ._seen import (
    BlockRow,
    Capacity,
    ChannelDetail,
    ChannelRow,
    Channels,
    ClientRow,
    Clients,
    GroupRow,
    HandleRow,
    Holds,
    Keeper,
    Kind,
    MemberRow,
    Members,
    Memory,
    MessageRow,
    NamespaceRow,
    Overview,
    Owner,
    Processes,
    ProcessRow,
    SegmentRow,
    Snapshot,
    SubscriberRow,
    Tail,
    TopicRow,
    Topics,
    Totals,
    WaiterRow,
)
from .errors import UnknownChannel
from .topics import TopicMatcher


class Inspector:
    """Looks at a segment. One may be used by several threads, and after a fork.

    Args:
        name: the segment's.

    Raises:
        SegmentNotFound: there is none of this name.
        SegmentRefused: it belongs to somebody else, or is no segment.
        SegmentVersionMismatch: another version made it.
        SegmentCorrupt: its header is damaged, so that nothing in it can be found.
    """

    def __init__(self, name: str) -> None:
        self._inner = _engine.Inspector(name)

    @property
    def name(self) -> str:
        """The segment's name."""
        return self._inner.name

    def is_current(self) -> bool:
        """Does the name still lead to this segment? Not after it was unlinked, or made anew."""
        return self._inner.is_current()

    def alive(self) -> int:
        """How many processes are attached and alive."""
        return self._inner.alive()

    def overview(self) -> Overview:
        """The whole at a glance: capacities, memory by use, sums, namespaces, the keeper."""
        return cast(Overview, json.loads(self._inner.overview()))

    def processes(self) -> Processes:
        """Who is attached: alive, stopped or dead, asleep or awake, and what each holds."""
        return cast(Processes, json.loads(self._inner.processes()))

    def channels(self, namespace: str | None = None) -> Channels:
        """Channels and broadcasts; ``namespace``: only its, else all, removed ones included."""
        return cast(Channels, json.loads(self._inner.channels(namespace)))

    def channel(self, name: str, namespace: str = "", kind: Kind = "channel") -> ChannelDetail:
        """All of one channel: subscribers with their processes, the lag of each handle.

        Raises:
            UnknownChannel: there is none of this name.
        """
        return cast(ChannelDetail, json.loads(self._inner.channel(name, namespace, kind)))

    def names(self, namespace: str = "", kind: Kind = "channel") -> list[str]:
        """The names of a namespace's open channels or broadcasts, in order."""
        return self._inner.names(namespace, kind)

    def members(self, channel: str | None = None, namespace: str | None = None, limit: int | None = None) -> Members:
        """Who is present: in one channel or in all, no more than ``limit`` of them (0: only how many)."""
        return cast(Members, json.loads(self._inner.members(channel, namespace, limit)))

    def clients(
        self,
        namespace: str | None = None,
        *,
        interval_secs: float = 30.0,
        timeout_secs: float = 90.0,
        max_retries: int = 5,
    ) -> Clients:
        """Heartbeat clients. Which are due, late or dead follows from a configuration, by default that of
        ``HeartbeatConfig()``: each monitor has its own, and none is in the segment."""
        return cast(Clients, json.loads(self._inner.clients(namespace, interval_secs, timeout_secs, max_retries)))

    def topics(self, namespace: str | None = None) -> Topics:
        """Who wants which topics."""
        return cast(Topics, json.loads(self._inner.topics(namespace)))

    def snapshot(self) -> Snapshot:
        """Overview, channels and processes: what a live view shows."""
        overview, channels, processes = self.overview(), self.channels(), self.processes()
        problems = list(dict.fromkeys(overview["problems"] + channels["problems"] + processes["problems"]))
        return {
            "overview": overview,
            "channels": channels["channels"],
            "processes": processes["processes"],
            "problems": problems,
        }

    def check(self) -> list[str]:
        """Walks the whole segment and says what is wrong with it; empty: nothing. See ``Segment.check``."""
        return self._inner.check()

    def tail(
        self,
        name: str,
        namespace: str = "",
        kind: Kind = "channel",
        *,
        after: str | None = None,
        last: int = 0,
        limit: int = 1000,
    ) -> Tail:
        """Messages of a channel, without a handle: those after an id, or the last few; at most ``limit``.

        The first call takes ``last``; each next one ``after=`` the ``next`` of the one before. Publishers do not count
        who looks on like this. Who asks too rarely misses what is overwritten meanwhile, and is told how many.

        Raises:
            UnknownChannel: there is none of this name.
        """
        messages, following, missed, unknown, left = self._inner.tail(
            name, namespace, kind, after=after, last=last, limit=limit
        )
        rows = [_message(namespace, name, kind, *message) for message in messages]
        return {"messages": rows, "next": following, "missed": missed, "unknown": unknown, "left": left}

    def follow(
        self,
        pattern: str,
        namespace: str = "",
        kind: Kind = "channel",
        *,
        after: str | None = None,
        last: int = 0,
        interval: float = 0.05,
    ) -> Iterator[MessageRow | int | None]:
        """Messages of a channel, or of all whose names match a topic pattern, as they come; for ever.

        Between two looks it yields None and sleeps ``interval`` seconds: nobody can ring for one who must not be
        noticed. A number is how many messages were missed at this place. ``after`` counts for the channel whose
        id it is.

        Raises:
            UnknownChannel: there is none of this name when it begins. Where it is removed later, it is waited for.
        """
        _engine.text("pattern", pattern)
        _engine.whole("last", last)
        if after is not None:
            _engine.text("after", after)
        pause = max(_engine.seconds("interval", interval), 0.0)
        cursors: dict[str, str] = {}
        exact = self._is_exact(pattern)
        first = True
        while True:
            for name in [pattern] if exact else self._matching(pattern, namespace, kind):
                if name in cursors:
                    start: dict[str, Any] = {"after": cursors[name]}
                elif not first:
                    start = {"after": ""}  # made since the last look: from its first message on
                else:
                    start = {"last": last} if after is None else {"after": after}
                try:
                    found = self.tail(name, namespace, kind, **start)
                    if first and after is not None and found["unknown"] and not exact:
                        found = self.tail(name, namespace, kind, last=last)  # the id is another channel's
                    yield from self._rest(found, name, namespace, kind, cursors)
                except UnknownChannel:  # it has just been removed
                    cursors.pop(name, None)
                    if first and exact:
                        raise
            first = False
            yield None
            time.sleep(pause)

    def _rest(
        self, found: Tail, name: str, namespace: str, kind: Kind, cursors: dict[str, str]
    ) -> Iterator[MessageRow | int]:
        """What a look found, and what is left after it."""
        while True:
            cursors[name] = found["next"]
            if found["missed"]:
                yield found["missed"]
            yield from found["messages"]
            if not found["left"]:
                return
            found = self.tail(name, namespace, kind, after=found["next"])

    @staticmethod
    def _is_exact(pattern: str) -> bool:
        return not {"*", "#"} & set(pattern.split(":"))

    def _matching(self, pattern: str, namespace: str, kind: Kind) -> list[str]:
        return [name for name in self.names(namespace, kind) if TopicMatcher.pattern_matches(pattern, name)]

    def __repr__(self) -> str:
        return f"Inspector({self.name!r})"


def _message(namespace: str, channel: str, kind: Kind, id: str, data: str | bytes) -> MessageRow:
    return {
        "namespace": namespace,
        "channel": channel,
        "kind": kind,
        "id": id,
        "text": data if isinstance(data, str) else None,
        "base64": base64.b64encode(data).decode() if isinstance(data, bytes) else None,
    }


def segments() -> list[SegmentRow]:
    """The segments of this user on this machine, by name."""
    return cast(list[SegmentRow], json.loads(_engine.list_segments()))


__all__ = [
    "BlockRow",
    "Capacity",
    "ChannelDetail",
    "ChannelRow",
    "Channels",
    "ClientRow",
    "Clients",
    "GroupRow",
    "HandleRow",
    "Holds",
    "Inspector",
    "Keeper",
    "Kind",
    "MemberRow",
    "Members",
    "Memory",
    "MessageRow",
    "NamespaceRow",
    "Overview",
    "Owner",
    "ProcessRow",
    "Processes",
    "SegmentRow",
    "Snapshot",
    "SubscriberRow",
    "Tail",
    "TopicRow",
    "Topics",
    "Totals",
    "WaiterRow",
    "segments",
]
