"""Call by call on a named segment, against the in-process original: the same script with the module swapped.

Both sides do the same work in this process: the same buffers and messages, handles kept alive alike, results dropped
alike. What waking another process costs is in `wake`, what a broker costs in `brokers`.
"""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any, NamedTuple

from hypern import realtime as theirs

import hypern_realtime_shm as ours

from .harness import Options, Side, each, in_turns, keep, machine, number, repeated, said, segment_name, table

SHORT, LONG = "x" * 64, "x" * 4096
BUFFER = 256
METADATA = {"name": "Alice"}
EVENT = {"type": "message", "from": "alice", "text": "Hello everyone!", "at": 1732000000}
TOPIC = "shop:42:orders:new"


class Bench:
    """One side of a case: the module under test, where it keeps things, and how much to do a round."""

    def __init__(self, api: ModuleType, where: dict[str, Any], options: Options) -> None:
        self.api, self.where = api, where
        self.calls = options.scaled(50_000)
        self.clients = [f"client-{n}" for n in range(options.scaled(3_000))]

    def channel(self, name: str = "room") -> Any:
        manager = self.api.ChannelManager(BUFFER, **self.where)
        manager.create_channel(name)
        return manager

    def members(self, count: int) -> Any:
        tracker = self.api.PresenceTracker(**self.where)
        for n in range(count):
            tracker.track("room", f"client-{n}", METADATA)
        return tracker

    def hub(self) -> Any:
        hub = self.api.RealtimeHub(BUFFER, **self.where)
        hub.create_channel("room")
        return hub

    def broadcast(self, **config: Any) -> Any:
        broadcast = self.api.RealtimeBroadcast(**self.where)
        broadcast.create("room", self.api.BroadcastConfig(buffer_size=BUFFER, **config))
        return broadcast


def publishing(subscribers: int, message: str) -> Callable[[Bench], Side]:
    def case(bench: Bench) -> Side:
        manager = bench.channel()
        _open = [manager.subscribe("room", f"client-{n}") for n in range(subscribers)]
        while True:
            yield repeated(bench.calls, manager.publish, "room", message)

    return case


def hub_publish(bench: Bench) -> Side:
    hub = bench.hub()
    _open = hub.channels.subscribe("room", "client")
    while True:
        yield repeated(bench.calls, hub.publish, "room", SHORT)


def publish_json(bench: Bench) -> Side:
    manager = bench.channel()
    _open = manager.subscribe("room", "client")
    while True:
        yield repeated(bench.calls // 4, manager.publish_json, "room", EVENT)


def publish_to_topic(bench: Bench) -> Side:
    """100 channels, 10 of which match, each with a subscriber."""
    manager = bench.api.ChannelManager(BUFFER, **bench.where)
    names = [f"{'chat' if n < 10 else 'other'}:{n}" for n in range(100)]
    for name in names:
        manager.create_channel(name)
    _open = [manager.subscribe(name, "client") for name in names]
    while True:
        yield repeated(bench.calls // 10, manager.publish_to_topic, "chat:*", SHORT)


def receiving(message: str) -> Callable[[Bench], Side]:
    """Batches of messages that are all there still."""

    def case(bench: Bench) -> Side:
        manager = bench.channel()
        sub = manager.subscribe("room", "client")
        batches = max(1, bench.calls // BUFFER)
        while True:
            total = 0.0
            for _ in range(batches):
                repeated(BUFFER, manager.publish, "room", message)
                total += repeated(BUFFER, sub.try_recv)
            assert sub.try_recv() is None
            assert sub.missed_count == 0
            yield total / batches

    return case


def receive_nothing(bench: Bench) -> Side:
    manager = bench.channel()
    sub = manager.subscribe("room", "client")
    while True:
        yield repeated(bench.calls, sub.try_recv)


def drain(bench: Bench) -> Side:
    manager = bench.channel()
    sub = manager.subscribe("room", "client")
    batches = max(1, bench.calls // BUFFER)
    while True:
        total = 0.0
        for _ in range(batches):
            repeated(BUFFER, manager.publish, "room", SHORT)
            total += repeated(1, sub.drain)
        assert sub.received_count % BUFFER == 0
        assert sub.missed_count == 0
        yield total / batches


def subscribe_and_drop(bench: Bench) -> Side:
    manager = bench.channel()
    while True:
        yield repeated(bench.calls // 5, manager.subscribe, "room", "client")


def track_new(bench: Bench) -> Side:
    tracker = bench.api.PresenceTracker(**bench.where)
    rows = [("room", client, METADATA) for client in bench.clients]
    while True:
        yield each(tracker.track, rows)
        for client in bench.clients:
            tracker.untrack("room", client)
        tracker.flush_diff("room")


def track_again(bench: Bench) -> Side:
    tracker = bench.members(100)
    while True:
        yield repeated(bench.calls // 5, tracker.track, "room", "client-50", METADATA)


def touch(bench: Bench) -> Side:
    tracker = bench.members(100)
    while True:
        yield repeated(bench.calls, tracker.touch, "room", "client-50")


def count(bench: Bench) -> Side:
    tracker = bench.members(100)
    while True:
        yield repeated(bench.calls, tracker.count, "room")


def update(bench: Bench) -> Side:
    """Each time other metadata."""
    tracker = bench.members(100)
    rows = [("room", "client-50", {"name": name}) for name in ("Alice A.", "Alice B.")] * (bench.calls // 10)
    while True:
        yield each(tracker.update, rows)


def update_alike(bench: Bench) -> Side:
    """The metadata that is there."""
    tracker = bench.members(100)
    while True:
        yield repeated(bench.calls // 5, tracker.update, "room", "client-50", METADATA)


def list_members(bench: Bench) -> Side:
    tracker = bench.members(100)
    while True:
        yield repeated(bench.calls // 100, tracker.list, "room")


def list_as_dicts(bench: Bench) -> Side:
    tracker = bench.members(100)
    while True:
        yield repeated(bench.calls // 100, tracker.list_as_dicts, "room")


def come_and_go(bench: Bench) -> Side:
    """One member of a room of 100 comes and goes, and the change is taken."""
    tracker = bench.members(100)
    tracker.flush_diff("room")

    def round_of_it() -> None:
        tracker.track("room", "visitor", METADATA)
        tracker.untrack("room", "visitor")
        tracker.flush_diff("room")

    while True:
        yield repeated(bench.calls // 10, round_of_it)


def matching(prefix: str) -> Callable[[Bench], Side]:
    """1,000 patterns, 4 of which match. With a prefix they all begin alike."""

    def case(bench: Bench) -> Side:
        matcher = bench.api.TopicMatcher(**bench.where)
        for n in range(996):
            matcher.subscribe(f"{prefix}room{1000 + n}:orders:*", "somebody")
        topic = prefix + TOPIC
        for n, pattern in enumerate((f"{prefix}shop:42:#", f"{prefix}shop:*:orders:*", "#:new", topic)):
            matcher.subscribe(pattern, f"client-{n}")
        assert sorted(matcher.match_topic(topic)) == [f"client-{n}" for n in range(4)]
        while True:
            yield repeated(bench.calls // 50, matcher.match_topic, topic)

    return case


def heartbeats(bench: Bench, clients: int = 1_000) -> Any:
    monitor = bench.api.HeartbeatMonitor(**bench.where)
    for n in range(clients):
        monitor.register(f"client-{n}")
    return monitor


def ping(bench: Bench) -> Side:
    monitor = heartbeats(bench)
    while True:
        yield repeated(bench.calls, monitor.ping, "client-500")


def pong(bench: Bench) -> Side:
    monitor = heartbeats(bench)
    while True:
        yield repeated(bench.calls, monitor.pong, "client-500")


def check_timeouts(bench: Bench) -> Side:
    monitor = heartbeats(bench)
    while True:
        yield repeated(bench.calls // 200, monitor.check_timeouts)


def hub_join(bench: Bench) -> Side:
    hub = bench.hub()
    rows = [("room", client, METADATA) for client in bench.clients]
    handles: list[Any] = []
    while True:
        yield each(hub.join, rows, handles)
        handles.clear()
        for client in bench.clients:
            hub.disconnect(client)
        hub.presence.flush_diff("room")


def hub_leaving(method: str, *before: str) -> Callable[[Bench], Side]:
    def case(bench: Bench) -> Side:
        hub = bench.hub()
        rows = [(*before, client) for client in bench.clients]
        while True:
            handles = [hub.join("room", client, METADATA) for client in bench.clients]
            yield each(getattr(hub, method), rows)
            handles.clear()
            hub.presence.flush_diff("room")

    return case


def send(bench: Bench) -> Side:
    broadcast = bench.broadcast()
    _open = broadcast.subscribe("room")
    while True:
        yield repeated(bench.calls, broadcast.send, "room", SHORT)


def send_new_ids(bench: Bench) -> Side:
    """Every id is new, and the window is full."""
    broadcast = bench.broadcast(dedup_enabled=True, dedup_window=1_000)
    _open = broadcast.subscribe("room")
    size, begun = bench.calls // 5, 0
    while True:
        rows = [("room", SHORT, f"event-{n}") for n in range(begun, begun + size)]
        begun += size
        yield each(broadcast.send, rows)


def send_a_duplicate(bench: Bench) -> Side:
    """The id is in the middle of a full window."""
    broadcast = bench.broadcast(dedup_enabled=True, dedup_window=1_000)
    _open = broadcast.subscribe("room")
    for n in range(1_000):
        broadcast.send("room", SHORT, f"event-{n}")
    assert broadcast.send("room", SHORT, "event-500") == 0
    while True:
        yield repeated(bench.calls, broadcast.send, "room", SHORT, "event-500")


class Row(NamedTuple):
    """A case and the ratio it is to reach."""

    case: Callable[[Bench], Side]
    aim: float = 1.0


ROWS: dict[str, Row] = {
    "publish 64 B, 0 subscribers": Row(publishing(0, SHORT), 0.7),
    "publish 64 B, 1 subscriber": Row(publishing(1, SHORT), 0.7),
    "publish 64 B, 100 subscribers": Row(publishing(100, SHORT), 0.7),
    "publish 4 KiB, 0 subscribers": Row(publishing(0, LONG)),
    "publish 4 KiB, 1 subscriber": Row(publishing(1, LONG)),
    "publish 4 KiB, 100 subscribers": Row(publishing(100, LONG)),
    "hub.publish 64 B": Row(hub_publish),
    "publish_json": Row(publish_json, 0.2),
    "publish_to_topic, 10 of 100 channels": Row(publish_to_topic, 0.2),
    "try_recv, a message of 64 B": Row(receiving(SHORT)),
    "try_recv, a message of 4 KiB": Row(receiving(LONG)),
    "try_recv, nothing there": Row(receive_nothing),
    "drain of 256": Row(drain),
    "subscribe and drop": Row(subscribe_and_drop),
    "presence.track, new member": Row(track_new, 0.7),
    "presence.track, known member": Row(track_again),
    "presence.touch": Row(touch),
    "presence.count": Row(count),
    "presence.update, other metadata": Row(update),
    "presence.update, the same metadata": Row(update_alike),
    "presence.list of 100": Row(list_members),
    "presence.list_as_dicts of 100": Row(list_as_dicts),
    "presence.track + untrack + flush_diff": Row(come_and_go),
    "match_topic, 1,000 patterns": Row(matching(""), 0.05),
    "match_topic, 1,000 patterns, long shared prefix": Row(matching("app:prod:eu:west:tenant:7:"), 0.05),
    "heartbeat.ping": Row(ping),
    "heartbeat.pong": Row(pong),
    "heartbeat.check_timeouts, 1,000 clients": Row(check_timeouts),
    "hub.join, new member": Row(hub_join, 0.7),
    "hub.leave": Row(hub_leaving("leave", "room")),
    "hub.disconnect": Row(hub_leaving("disconnect")),
    "broadcast.send 64 B": Row(send),
    "broadcast.send, dedup(1,000), new ids": Row(send_new_ids, 0.2),
    "broadcast.send, dedup(1,000), a duplicate": Row(send_a_duplicate, 0.2),
}


def run(options: Options) -> None:
    about = machine("hypern")
    results: dict[str, Any] = {}
    print(
        f"{f'ns a call, median of {options.rounds}':<50}{'shm':>10}{'original':>10}{'ratio':>8}{'aim':>6}{'spread':>8}"
    )
    for title, row in ROWS.items():
        if not options.wants(title):
            continue
        with segment_name() as name:
            found = in_turns(
                {
                    "shm": row.case(Bench(ours, {"segment": name}, options)),
                    "original": row.case(Bench(theirs, {}, options)),
                },
                options.rounds,
            )
        one, other = found["shm"], found["original"]
        ratio = one.over(other)
        results[title] = {"shm": one.as_json(), "original": other.as_json(), "aim": row.aim} | ratio.as_ratio()
        print(
            f"{title:<50}{number(one.median):>10}{number(other.median):>10}{ratio.median:>8.2f}{row.aim:>6.2f}"
            f"{ratio.spread:>8.0%}{'' if ratio.median <= row.aim else '  above'}",
            flush=True,
        )
    keep(
        options,
        "calls",
        {"unit": "ns", "machine": about, "rounds": options.rounds, "results": results},
        text(about, options, results),
    )


def text(about: dict[str, Any], options: Options, results: dict[str, Any]) -> str:
    rows = [
        (
            title,
            *(f"{number(found[side]['median'])} (±{found[side]['spread'] / 2:.0%})" for side in ("shm", "original")),
            f"**{found['ratio']:.2f}** (±{found['ratio_spread'] / 2:.0%})",
            f"{found['aim']:.2f}{'' if found['ratio'] <= found['aim'] else ' ✗'}",
        )
        for title, found in results.items()
    ]
    reached = sum(found["ratio"] <= found["aim"] for found in results.values())
    return f"""# Call by call: a named segment against the in-process original

{said(about)}
Median of {options.rounds} rounds in turns, ns a call, half the reach of the middle half of the rounds in brackets. The
ratio, the median of those of rounds side by side, is the result: below 1, sharing across processes costs less than not
sharing. {reached} of {len(results)} rows reach their aim; ✗ marks those that do not.

{table(("call", "shm", "original", "ratio", "aim"), rows)}
"""
