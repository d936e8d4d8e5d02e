"""What the page shows of the whole: one look a second for all pages together, and the sums' history for plots."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
from collections import deque
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Any

from hypern_realtime_shm._sight import Sight
from hypern_realtime_shm.errors import SegmentError
from hypern_realtime_shm.inspect import ChannelRow, Overview

log = logging.getLogger("hypern_realtime_shm")

KEPT = 300  # sums, one a look, that a page gets when it opens or comes back
CHANNELS = 1000  # rows that a look shows, those with most traffic first
MEMBERS = 200


@dataclass(frozen=True)
class Sample:
    """The sums at one look."""

    id: str
    data: dict[str, Any]


class Watch:
    """Looks every ``interval`` seconds, as long as it runs: at the sums always, at everything while a page is open.

    Args:
        sight: the segment.
        interval: seconds.
    """

    def __init__(self, sight: Sight, interval: float) -> None:
        self.sight = sight
        self.interval = interval
        self.stopping = False
        self.look: dict[str, Any] = {}
        self.samples: deque[Sample] = deque(maxlen=KEPT)
        self._run = secrets.token_hex(4)  # ids of an earlier run of this program are none of this one's
        self._count = 0
        self._news = asyncio.Event()
        self._pages = 0
        self._opened = asyncio.Event()
        self._before: dict[tuple[int, str], int] = {}

    async def run(self) -> None:
        """Looks until it is cancelled."""
        while True:
            self._opened.clear()
            try:
                self._take(*await asyncio.to_thread(self._see, self._pages > 0))
            except Exception:
                log.exception("a look failed; the next one follows")
            with contextlib.suppress(asyncio.TimeoutError):  # the first page that opens does not wait
                await asyncio.wait_for(self._opened.wait(), self.interval)

    def stop(self) -> None:
        """Ends all streams."""
        self.stopping = True
        self._tell()

    def _tell(self) -> None:
        news, self._news = self._news, asyncio.Event()
        news.set()

    def _see(self, everything: bool) -> tuple[Overview | None, dict[str, Any]]:
        """One look, on a thread: the sums, and what pages are shown."""
        try:
            inspector = self.sight.inspector()
            if not everything:
                return inspector.overview(), {}
            seen = inspector.snapshot()
            members = inspector.members(limit=MEMBERS)
        except SegmentError as error:
            return None, {"gone": str(error)}
        rows = self._by_traffic(seen["channels"])
        return seen["overview"], {
            "gone": None,
            "overview": seen["overview"],
            "channels": rows[:CHANNELS],
            "channels_left_out": max(0, len(rows) - CHANNELS),
            "processes": seen["processes"],
            "groups": sorted(members["groups"], key=lambda group: -group["members"])[:MEMBERS],
            "members": members["members"],
            "problems": list(dict.fromkeys([*seen["problems"], *members["problems"]]))[:50],
        }

    def _by_traffic(self, rows: list[ChannelRow]) -> list[ChannelRow]:
        """Those that have published most since the last look first."""
        before = self._before
        lives = {(row["cell"], row["newest_id"].partition("-")[0]): row["published"] for row in rows}
        self._before = lives

        def rank(row: ChannelRow) -> tuple[int, int]:
            life = row["cell"], row["newest_id"].partition("-")[0]
            return before.get(life, 0) - row["published"], -row["published"]

        return sorted(rows, key=rank)

    def _take(self, overview: Overview | None, look: dict[str, Any]) -> None:
        self.look = look
        if overview is not None:
            totals = overview["totals"]
            data = {
                "identity": overview["identity"],
                "at": overview["taken_at"],
                "monotonic": overview["taken_monotonic"],
                "published": totals["published_total"],
                "missed": totals["missed_total"],
                "evicted": totals["evicted_total"],
                "memory": overview["memory"],
            }
            self._count += 1
            self.samples.append(Sample(f"{self._run}-{self._count}", data))
        self._tell()

    async def events(self, last_id: str) -> AsyncGenerator[tuple[str, str | None, Any], None]:
        """(event, id, data), for ever: the sums after ``last_id``, or all that are kept; and each look."""
        seen = 0
        run, _, number = last_id.partition("-")
        if run == self._run and number.isdecimal():
            seen = min(int(number), self._count)
        self._pages += 1
        if self._pages == 1:
            self._opened.set()
        try:
            while not self.stopping:
                news = self._news
                first, last = self._count - len(self.samples), self._count
                for sample in list(self.samples)[max(0, seen - first) :]:
                    yield "sample", sample.id, sample.data
                seen = last
                if self.look:
                    yield "look", None, self.look
                await news.wait()
        finally:
            self._pages -= 1


__all__ = ["Watch"]
