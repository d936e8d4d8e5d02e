"""What ``top`` shows, apart from the terminal: rates out of two looks, sorting, filtering, scrolling."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from hypern_realtime_shm.inspect import ChannelRow, ProcessRow, Snapshot


@dataclass(frozen=True)
class Channel:
    """A channel and its traffic."""

    row: ChannelRow
    rate: float
    """Messages a second, since the last look."""
    missed_rate: float

    @property
    def name(self) -> str:
        namespace, name = self.row["namespace"], self.row["name"] or "(removed)"
        return f"{namespace}/{name}" if namespace else name

    @property
    def lag(self) -> int:
        return self.row["max_lag"] or 0

    @property
    def lags(self) -> bool:
        """Is its slowest handle more than half a buffer behind?"""
        return self.lag * 2 > self.row["buffer_size"]


# What can be sorted by, the largest first; names from a to z.
COLUMNS: dict[str, Callable[[Channel], float | str]] = {
    "rate": lambda channel: -channel.rate,
    "lag": lambda channel: -channel.lag,
    "missed": lambda channel: -channel.row["missed"],
    "published": lambda channel: -channel.row["published"],
    "handles": lambda channel: -channel.row["handles"],
    "channel": lambda channel: channel.name,
}


@dataclass
class View:
    """The state of the view: two looks, and what the keys have chosen."""

    interval: float
    wanted: str = ""
    sort: str = "rate"
    reverse: bool = False
    paused: bool = False
    typing: bool = False
    scroll: int = 0
    now: Snapshot | None = None
    published_rate: float = 0.0
    missed_rate: float = 0.0
    evicted_rate: float = 0.0
    channels: list[Channel] = field(default_factory=list)

    def take(self, look: Snapshot) -> None:
        """The next look: rates are what has changed since the one before."""
        before, self.now = self.now, look
        seconds = 0.0
        if before is not None and before["overview"]["identity"] == look["overview"]["identity"]:
            seconds = look["overview"]["taken_monotonic"] - before["overview"]["taken_monotonic"]
        old = {} if before is None else {_life(row): row for row in before["channels"]}

        def rate(new: int, then: int) -> float:
            return max(0, new - then) / seconds if seconds > 0 else 0.0

        totals = look["overview"]["totals"]
        past = totals if before is None else before["overview"]["totals"]
        self.published_rate = rate(totals["published_total"], past["published_total"])
        self.missed_rate = rate(totals["missed_total"], past["missed_total"])
        self.evicted_rate = rate(totals["evicted_total"], past["evicted_total"])
        self.channels = []
        for row in look["channels"]:
            then = old.get(_life(row))
            # A channel made since the last look has published all of its messages since.
            published, missed = (then["published"], then["missed"]) if then is not None else (0, 0)
            if before is None:
                published, missed = row["published"], row["missed"]
            self.channels.append(Channel(row, rate(row["published"], published), rate(row["missed"], missed)))

    def shown(self) -> list[Channel]:
        """The channels that are wanted, sorted."""
        found = [channel for channel in self.channels if self.wanted.lower() in channel.name.lower()]
        found.sort(key=lambda channel: channel.name)
        found.sort(key=COLUMNS[self.sort], reverse=self.reverse)
        return found

    def processes(self) -> list[ProcessRow]:
        """Those that are dead or stopped first."""
        rows = [] if self.now is None else self.now["processes"]
        return sorted(rows, key=lambda row: (row["alive"] and row["state"] != "stopped", row["slot"]))

    def key(self, key: str) -> bool:
        """Does what a key means; False: quit."""
        if self.typing:
            self._typed(key)
        elif key in ("q", "Q", "\x03", "\x04"):
            return False
        elif key == "s":
            columns = list(COLUMNS)
            self.sort = columns[(columns.index(self.sort) + 1) % len(columns)]
        elif key == "r":
            self.reverse = not self.reverse
        elif key == "/":
            self.typing = True
        elif key == "escape":
            self.wanted = ""
        elif key == "p":
            self.paused = not self.paused
        elif key == "+":
            self.interval = min(60.0, self.interval * 2)
        elif key == "-":
            self.interval = max(0.1, self.interval / 2)
        elif key in ("up", "down", "pgup", "pgdn"):
            by = {"up": -1, "down": 1, "pgup": -10, "pgdn": 10}[key]
            self.scroll = max(0, min(self.scroll + by, len(self.shown()) - 1))
        return True

    def _typed(self, key: str) -> None:
        if key in ("\r", "\n"):
            self.typing = False
        elif key == "escape":
            self.typing, self.wanted = False, ""
        elif key in ("\x7f", "\b"):
            self.wanted = self.wanted[:-1]
        elif len(key) == 1 and key.isprintable():
            self.wanted += key
        self.scroll = 0


def _life(row: ChannelRow) -> tuple[int, str]:
    """What tells this life of a channel from all others: its cell, and the epoch of its ids."""
    return row["cell"], row["newest_id"].partition("-")[0]
