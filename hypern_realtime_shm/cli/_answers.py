"""The shapes of what verbs print with --json that are no answers of an inspector's."""

from __future__ import annotations

from typing import Literal

from typing_extensions import TypedDict

from hypern_realtime_shm.inspect import SegmentRow


class Segments(TypedDict):
    """``ls``."""

    segments: list[SegmentRow]


class Check(TypedDict):
    """``check``."""

    segment: str
    sound: bool
    findings: list[str]
    """One a thing that is wrong."""


class Reaped(TypedDict):
    """``reap``."""

    segment: str
    reaped: int
    """Dead processes that were settled."""
    scavenged: bool
    """Nobody was attached: what belongs to connections was cleared."""


class Unlinked(TypedDict):
    """``unlink``."""

    segment: str
    unlinked: bool
    """False: it was gone."""


class Published(TypedDict):
    """``publish``."""

    segment: str
    channel: str
    receivers: int
    """Open handles, or the sum over the channels that match."""


class Missed(TypedDict):
    """A line of ``tail``: messages that were overwritten before they could be shown."""

    missed: int


class Finding(TypedDict):
    """One thing that ``doctor`` looks at."""

    what: str
    verdict: Literal["ok", "note", "wrong"]
    """note: it works, and something could be better. wrong: segments will not work."""
    found: str
    advice: str | None


class Doctor(TypedDict):
    """``doctor``."""

    version: str
    layout: int
    healthy: bool
    """Nothing is wrong."""
    findings: list[Finding]


class Size(TypedDict):
    """``size``."""

    size: int
    """Bytes that the segment should have, and with them in /dev/shm."""
    settings: dict[str, str]
    """Environment variables to create it so."""
    blocks_needed: dict[str, int]
    """Blocks of 256 bytes, 2 KiB and 16 KiB for what was asked for."""
    blocks: dict[str, int]
    """Blocks that a segment of this size has."""
    fixed: int
    """Bytes for processes, channels and rings."""
