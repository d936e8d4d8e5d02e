"""The shapes of what an inspector sees: what ``inspect`` gives, and the JSON Schemas in docs/schema are made from.

Times are seconds since 1970, durations seconds, sizes bytes. What is called ``…_total`` only grows.
"""

from __future__ import annotations

from typing import Literal

from typing_extensions import TypedDict

Kind = Literal["channel", "broadcast"]


class SegmentRow(TypedDict):
    """A segment of this user."""

    name: str
    path: str
    """Its file."""
    layout: int
    """Its layout version. Only segments of this library's version can be looked into."""
    size: int | None
    created_at: float | None
    age_seconds: float | None
    processes: int | None
    """Processes attached and alive; null: it cannot be told."""
    state: Literal["in use", "abandoned", "unfinished", "damaged", "refused"]
    """abandoned: nobody alive is attached. unfinished: its creator is at work, or died."""
    problem: str | None
    """Why it cannot be looked into."""


class Owner(TypedDict):
    """A process that owns something."""

    slot: int
    pid: int | None
    """In its own pid namespace; null: it is not attached any more."""


class Capacity(TypedDict):
    """A thing of which there is a fixed number."""

    what: Literal["processes", "named things", "ring slots", "waiters", "small blocks", "medium blocks", "large blocks"]
    used: int
    capacity: int
    setting: str
    """The argument of ``Segment.open`` that raises it."""


class BlockRow(TypedDict):
    """The blocks of one size."""

    bytes: int
    """Of each."""
    capacity: int
    free: int
    held: int
    """In the hands of a process that is writing them."""
    live: int
    continued: int
    """Second and later ones of a chain."""
    unknown: int
    """In none of these states: damage."""


class Memory(TypedDict):
    """Bytes by what they are used for, in whole blocks."""

    messages: int
    records: int
    """Members, clients, subscriptions, names."""
    pages: int
    """Of the tries over the records."""
    continued: int
    """Later blocks of long messages and records."""
    held: int
    free: int
    total: int
    """All blocks: the sum of the above."""
    fixed: int
    """Header, slots, bells, cells, rings."""


class Totals(TypedDict):
    """Sums over everything there is, and (``_total``) over the segment's life."""

    channels: int
    broadcasts: int
    retired: int
    """Removed channels that open handles keep."""
    handles: int
    subscribers: int
    members: int
    clients: int
    topics: int
    published_total: int
    missed_total: int
    """Messages missed by handles, and broadcasts nobody heard."""
    evicted_total: int
    """Messages whose history was given up because the arena was full."""
    attached_total: int
    reaped_total: int


class NamespaceRow(TypedDict):
    """A namespace; the one used when none is named is empty."""

    namespace: str
    channels: int
    broadcasts: int
    groups: int
    """Channels that have, or have had, members."""
    clients: int
    topics: int
    pings: int
    pongs: int
    timeouts: int


class Keeper(TypedDict):
    """Whose keeper (the thread that settles the dead) beat last."""

    owner: Owner | None
    beat_age_seconds: float | None


class Overview(TypedDict):
    """The whole at a glance."""

    name: str
    layout: int
    identity: str
    """Tells it from every other segment, also one of its name."""
    size: int
    created_at: float | None
    taken_at: float
    taken_monotonic: float
    """When this was read, on a clock that is never set: for rates."""
    current: bool
    """False: the name leads to another segment by now, or to none."""
    unlink_when_unused: bool
    processes: int
    """Attached and alive."""
    capacities: list[Capacity]
    blocks: list[BlockRow]
    memory: Memory
    totals: Totals
    namespaces: list[NamespaceRow]
    keeper: Keeper
    problems: list[str]


class ChannelRow(TypedDict):
    """A channel or broadcast."""

    namespace: str | None
    """null: no name is found for it."""
    name: str | None
    """null: it was removed, or its name cannot be read."""
    kind: Kind
    state: Literal["open", "removed", "clearing"]
    """removed: open handles still drain it. clearing: it is being given back."""
    cell: int
    buffer_size: int
    retained: int
    """Messages that may still be there."""
    oldest_id: str | None
    newest_id: str
    """The id of the newest message, and where a tail begins."""
    published: int
    """In its life."""
    missed: int
    """By handles; of a broadcast also what nobody heard."""
    refused: int
    deduplicated: int
    dedup_window: int
    fail_when_unheard: bool
    subscribers: int
    handles: int
    max_lag: int | None
    """Messages its slowest handle has not received. A busy handle shows how far it is only now and then: this may be
    up to an eighth of the buffer, 64 messages at most, too large. null: no handle has shown it."""
    metadata: dict[str, str]


class Channels(TypedDict):
    """Channels and broadcasts."""

    channels: list[ChannelRow]
    problems: list[str]


class SubscriberRow(TypedDict):
    """A registered subscriber."""

    client: str
    owners: list[Owner]


class HandleRow(TypedDict):
    """An open handle."""

    client: str
    """Empty for a broadcast."""
    owner: Owner
    state: Literal["open", "ended"]
    """ended: unsubscribed; it may still drain what came before."""
    by_pattern: bool
    position_id: str | None
    """The id after which it goes on; null: it has not shown it."""
    lag: int | None
    """Messages it has not received; up to ``lag_precision`` too large."""
    lost: int
    """How many of them are overwritten already, and will be missed."""


class ChannelDetail(TypedDict):
    """All of one channel or broadcast."""

    channel: ChannelRow
    retained_messages: int
    retained_bytes: int
    lag_precision: int
    subscribers: list[SubscriberRow]
    handles: list[HandleRow]
    """Those that lag most first."""
    problems: list[str]


class GroupRow(TypedDict):
    """A channel that has members, or has had."""

    namespace: str
    channel: str
    members: int
    unflushed: int
    """Joins and leaves that no ``flush_diff`` has taken."""


class MemberRow(TypedDict):
    """A member of a channel."""

    namespace: str
    channel: str
    client: str
    joined_at: float
    last_seen: float
    owners: list[Owner]
    """Empty: its processes left in order, and it stays until somebody removes it."""
    metadata: dict[str, str]


class Members(TypedDict):
    """Presence."""

    groups: list[GroupRow]
    members: list[MemberRow]
    problems: list[str]


class ClientRow(TypedDict):
    """A heartbeat client."""

    namespace: str
    client: str
    state: Literal["alive", "due", "late", "dead"]
    """due: alive, and its next ping is due. late: it has timed out. dead: it has used up its retries."""
    timeouts: int
    last_pong_ago: float
    last_ping_ago: float
    last_event_id: str | None
    owners: list[Owner]


class Clients(TypedDict):
    """Heartbeats, judged by the configuration that was asked for: that of the monitors is not in the segment."""

    interval_secs: float
    timeout_secs: float
    max_retries: int
    clients: list[ClientRow]
    """The longest silent first."""
    problems: list[str]


class TopicRow(TypedDict):
    """A subscription to a topic pattern."""

    namespace: str
    of: Literal["manager", "matcher", "handle"]
    """manager: the channel managers' matcher. matcher: free matchers. handle: receives from channels that match."""
    pattern: str
    client: str
    owners: list[Owner]


class Topics(TypedDict):
    """Topic patterns."""

    topics: list[TopicRow]
    problems: list[str]


class Holds(TypedDict):
    """What a process owns, alone or with others."""

    blocks: int
    """Being written just now."""
    handles: int
    subscriptions: int
    members: int
    clients: int
    topics: int


class WaiterRow(TypedDict):
    """An event loop or thread that waits."""

    bell: int
    waits_as: Literal["thread", "event loop"]
    state: Literal["awake", "asleep", "being rung", "rung"]


class ProcessRow(TypedDict):
    """An attached process."""

    slot: int
    pid: int
    start_time: int
    """In clock ticks since boot."""
    incarnation: int
    """How many processes have had the slot."""
    state: Literal["running", "sleeping", "stopped", "alive", "leaving", "dead", "settled"]
    """alive: it cannot be seen from here, and has its lock. dead: it is to be reaped. settled: it was reaped, and a
    child that it left keeps its slot."""
    alive: bool
    attached_at: float
    attached_seconds: float
    keeper: bool
    """Its keeper beat last."""
    waiting: Literal["awake", "asleep"] | None
    """asleep: all of its waiters are. null: it has none."""
    waiters: list[WaiterRow]
    holds: Holds
    command: str | None


class Processes(TypedDict):
    """Who is attached, and what each holds."""

    processes: list[ProcessRow]
    ownerless_members: int
    ownerless_clients: int
    problems: list[str]


class Snapshot(TypedDict):
    """What a live view shows: one look at each."""

    overview: Overview
    channels: list[ChannelRow]
    processes: list[ProcessRow]
    problems: list[str]


class MessageRow(TypedDict):
    """A message, as a tail shows it."""

    namespace: str
    channel: str
    kind: Kind
    id: str
    text: str | None
    """null: it was published as bytes."""
    base64: str | None
    """null: it was published as text."""


class Tail(TypedDict):
    """What a look at a channel found."""

    messages: list[MessageRow]
    next: str
    """The id to go on after."""
    missed: int
    """Messages overwritten before this look."""
    unknown: bool
    """The id was none of this channel's life: these are the oldest there are."""
    left: int
    """Messages that are there after those."""
