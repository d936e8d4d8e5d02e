"""A channel's messages as they come, for one page: from outside, thinned out where they come too fast to read."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from typing import Any

from hypern_realtime_shm.errors import SegmentError, UnknownChannel
from hypern_realtime_shm.inspect import Inspector, Kind, MessageRow

from .watch import MEMBERS, Watch

BETWEEN = 0.2  # seconds between two looks
AT_ONCE = 50  # messages shown for each
SHOWN = 4096  # characters of each
LAST = 50  # messages that are there already, when it begins
DETAILS = 2.0  # seconds between two looks at who listens


def _shown(message: MessageRow) -> dict[str, Any]:
    text, kind = message["text"], "text"
    if text is None:
        text, kind = message["base64"] or "", "base64"
    return {"id": message["id"], "data": text[:SHOWN], "as": kind, "cut": max(0, len(text) - SHOWN)}


async def tail(
    watch: Watch, name: str, namespace: str, kind: Kind, after: str
) -> AsyncGenerator[tuple[str, str | None, Any], None]:
    """(event, id, data), for ever: message, missed, skipped, detail, gone, nothing (None: still there)."""
    start: dict[str, Any] = {"after": after} if after else {"last": LAST}
    next_detail = 0.0
    gone = False
    while not watch.stopping:
        try:
            inspector = watch.sight.inspector()
            found = inspector.tail(name, namespace, kind, limit=AT_ONCE, **start)
            if found["unknown"]:  # the channel was made anew
                yield "anew", None, {}
            if found["missed"]:
                yield "missed", None, found["missed"]
            for message in found["messages"]:
                yield "message", message["id"], _shown(message)
            start = {"after": found["next"]}
            if found["left"]:  # faster than anybody reads: go on at the end
                start = {"after": inspector.tail(name, namespace, kind)["next"]}
                yield "skipped", start["after"], found["left"]
            if time.monotonic() >= next_detail:
                yield "detail", None, await asyncio.to_thread(_detail, inspector, name, namespace, kind)
                next_detail = time.monotonic() + DETAILS
            gone = False
        except (SegmentError, UnknownChannel) as error:
            if not gone:
                yield "gone", None, str(error.args[0]) if error.args else ""
            gone, start = True, {"after": ""}  # made again: from its first message on
        yield "", None, None
        await asyncio.sleep(BETWEEN)


def _detail(inspector: Inspector, name: str, namespace: str, kind: Kind) -> dict[str, Any]:
    seen = inspector.channel(name, namespace, kind)
    members = inspector.members(name, namespace, MEMBERS)["members"] if kind == "channel" else []
    return {
        "channel": seen["channel"],
        "retained_bytes": seen["retained_bytes"],
        "subscribers": seen["subscribers"][:MEMBERS],
        "subscribers_in_all": len(seen["subscribers"]),
        "handles": seen["handles"][:MEMBERS],
        "members": members,
    }


__all__ = ["tail"]
