"""How cost grows: with subscribers, processes, channels, members, patterns and clients; what is flat should be flat.

Each curve is a row of sizes, measured in turns (all sizes a round), and the exponent that fits: cost = c · n^k. Beside
them: memory, attaching, what a lapped receiver still gets, and many publishers at once.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import cycle, islice
from typing import Any, NamedTuple

import hypern_realtime_shm as ours

from . import crowd
from .harness import (
    RESULTS,
    Options,
    Side,
    each,
    in_turns,
    keep,
    machine,
    number,
    repeated,
    said,
    segment_name,
    table,
)

MESSAGE = "x" * 64
METADATA = {"name": "Alice"}


@contextmanager
def segment(**options: Any) -> Iterator[Any]:
    with segment_name() as name:
        opened = ours.Segment.open(name, **options)
        try:
            yield opened
        finally:
            opened.close()


def publish_to(subscribers: int, options: Options) -> Side:
    with segment() as where:
        manager = ours.ChannelManager(segment=where)
        manager.create_channel("room")
        _open = [manager.subscribe("room", f"client-{n}") for n in range(subscribers)]
        while True:
            yield repeated(options.scaled(10_000), manager.publish, "room", MESSAGE)


def publish_beside(processes: int, options: Options, asleep: bool) -> Side:
    """Every other process has a subscriber, and either waits for each message or never looks."""
    with segment(waiters=1024) as where:
        manager = ours.ChannelManager(segment=where)
        manager.create_channel("room")
        with crowd.listeners(where.name, "room", processes, asleep):
            while True:
                total = 0.0
                calls = options.scaled(50)
                for _ in range(calls):
                    if asleep:
                        time.sleep(0.001 + processes * 2e-5)  # for all of them to be asleep again
                    total += repeated(1, manager.publish, "room", MESSAGE)
                yield total / calls if asleep else repeated(options.scaled(10_000), manager.publish, "room", MESSAGE)


def publish_among(channels: int, options: Options) -> Side:
    """One message to each of some thousand channels, in no order."""
    size = f"{max(32, channels * 2 // 1000)}MiB"
    with segment(size=size, channels=channels + 8, ring_slots=16 * (channels + 8)) as where:
        manager = ours.ChannelManager(16, segment=where)
        names = [f"room-{n}" for n in range(channels)]
        for name in names:
            manager.create_channel(name)
        random.Random(1).shuffle(names)
        rows = [(name, MESSAGE) for name in islice(cycle(names), max(1_000, min(channels, options.scaled(10_000))))]
        while True:
            yield each(manager.publish, rows)


def with_members(method: str) -> Callable[[int, Options], Side]:
    def side(members: int, options: Options) -> Side:
        spare = 2_000
        with segment(size=f"{max(32, members * 2 // 1000)}MiB", members=members + spare) as where:
            tracker = ours.PresenceTracker(segment=where)
            for n in range(members):
                tracker.track("room", f"client-{n}", METADATA)
            tracker.flush_diff("room")
            chosen = random.Random(1)
            rows = [("room", f"client-{chosen.randrange(members)}") for _ in range(options.scaled(2_000))]
            new = [("room", f"visitor-{n}", METADATA) for n in range(options.scaled(spare))]
            while True:
                if method == "count":
                    yield repeated(options.scaled(2_000), tracker.count, "room")
                elif method == "touch":
                    yield each(tracker.touch, rows)
                else:
                    yield each(tracker.track, new)
                    for _, visitor, _ in new:
                        tracker.untrack("room", visitor)
                    tracker.flush_diff("room")

    return side


def list_members(members: int, options: Options) -> Side:
    with segment(size="64MiB", members=members + 8) as where:
        tracker = ours.PresenceTracker(segment=where)
        for n in range(members):
            tracker.track("room", f"client-{n}", METADATA)
        calls = max(1, options.scaled(10_000) // members)
        while True:
            yield repeated(calls, tracker.list, "room") / members


def match(patterns: int, options: Options) -> Side:
    with segment(size=f"{max(32, patterns // 1000)}MiB", members=patterns + 8) as where:
        matcher = ours.TopicMatcher(segment=where)
        for n in range(patterns - 1):
            matcher.subscribe(f"shop:{1000 + n}:orders:*", "somebody")
        matcher.subscribe("shop:42:#", "client")
        assert matcher.match_topic("shop:42:orders:new") == ["client"]
        while True:
            yield repeated(options.scaled(2_000), matcher.match_topic, "shop:42:orders:new")


def match_after_a_change(patterns: int, options: Options) -> Side:
    """As another worker sees it, whose copy of the patterns is behind by one."""
    with segment(size=f"{max(32, patterns // 1000)}MiB", members=patterns + 8) as where:
        matcher, watching = (ours.TopicMatcher(segment=where) for _ in range(2))
        for n in range(patterns - 1):
            matcher.subscribe(f"shop:{1000 + n}:orders:*", "somebody")
        matcher.subscribe("shop:42:#", "client")
        watching.match_topic("shop:42:orders:new")
        while True:
            total, calls = 0.0, options.scaled(100)
            for n in range(calls):
                matcher.subscribe("other:*", f"x{n}")
                total += repeated(1, watching.match_topic, "shop:42:orders:new")
                matcher.unsubscribe("other:*", f"x{n}")
                watching.match_topic("shop:42:orders:new")
            yield total / calls


def check_timeouts(clients: int, options: Options) -> Side:
    with segment(size=f"{max(32, clients // 1000)}MiB", clients=clients + 8) as where:
        monitor = ours.HeartbeatMonitor(segment=where)
        for n in range(clients):
            monitor.register(f"client-{n}")
        calls = max(1, options.scaled(20_000) // clients)
        while True:
            yield repeated(calls, monitor.check_timeouts)


class Family(NamedTuple):
    """Curves over one kind of size; `expected` is the exponent that is called flat or proportional."""

    across: str
    curves: dict[str, Callable[[int, Options], Side]]
    sizes: tuple[int, ...]
    expected: dict[str, float]
    unit: str = "ns a call"


FAMILIES: dict[str, Family] = {
    "subscribers": Family("open handles of the channel", {"publish": publish_to}, (1, 10, 100, 1_000), {"publish": 0}),
    "processes": Family(
        "other processes attached, each with a subscriber",
        {
            "publish, all awake": lambda n, o: publish_beside(n, o, asleep=False),
            "publish, all asleep": lambda n, o: publish_beside(n, o, asleep=True),
        },
        (1, 4, 16, 64),
        {"publish, all awake": 0, "publish, all asleep": 1},
    ),
    "channels": Family("channels", {"publish": publish_among}, (1, 10, 100, 1_000, 10_000, 100_000), {"publish": 0}),
    "members": Family(
        "members of the channel",
        {"track, new": with_members("track"), "touch": with_members("touch"), "count": with_members("count")},
        (1, 10, 100, 1_000, 10_000, 100_000, 1_000_000),
        {"track, new": 0, "touch": 0, "count": 0},
    ),
    "list": Family(
        "members of the channel", {"list": list_members}, (1, 10, 100, 1_000, 10_000), {"list": 0}, "ns a member"
    ),
    "patterns": Family(
        "patterns, one of which matches",
        {"match_topic": match, "match_topic after one changed": match_after_a_change},
        (1, 10, 100, 1_000, 10_000, 100_000),
        {"match_topic": 0, "match_topic after one changed": 0},
    ),
    "clients": Family(
        "heartbeat clients, none late",
        {"check_timeouts": check_timeouts},
        (1, 10, 100, 1_000, 10_000, 100_000),
        {"check_timeouts": 1},
    ),
}


def measured(family: Family, options: Options) -> dict[str, dict[int, Any]]:
    """All sizes of a curve in turns; the largest ones are left out where /dev/shm has no room for all of them."""
    found: dict[str, dict[int, Any]] = {}
    for name, make in family.curves.items():
        sizes = [n for n in family.sizes if n * 2_500 < room() / 2 and not (options.quick and n > 10_000)]
        sides = {str(n): make(n, options) for n in sizes}
        samples = in_turns(sides, max(3, options.rounds))
        found[name] = {n: samples[str(n)].as_json() for n in sizes}
    return found


def room() -> int:
    about = os.statvfs("/dev/shm")
    return about.f_bavail * about.f_frsize


def run(options: Options) -> None:
    from . import plots  # takes a second to import

    about = machine()
    results: dict[str, Any] = {}
    for title, family in FAMILIES.items():
        if not options.wants(title):
            continue
        curves = measured(family, options)
        lines = {name: [(n, found["median"]) for n, found in curve.items()] for name, curve in curves.items()}
        results[title] = {
            name: {"exponent": round(plots.exponent(lines[name]), 3), "expected": family.expected[name], "sizes": curve}
            for name, curve in curves.items()
        }
        for name, line in lines.items():
            cells = "  ".join(f"{n:,}: {number(cost)}" for n, cost in line)
            print(f"{title:<12}{name:<32}n^{results[title][name]['exponent']:<7.2f}{family.unit}  {cells}", flush=True)
        if options.whole:
            RESULTS.mkdir(exist_ok=True)
            plots.draw(RESULTS / f"growth-{title}.svg", ", ".join(family.curves), family.across, family.unit, lines)
    others: dict[str, Any] = {}
    for title, measure in crowd.FIGURES.items():
        if options.wants(title):
            others[title] = {name: samples.as_json() for name, samples in measure(options).items()}
            print(title)
            for name, found in others[title].items():
                print(f"  {name:<60}{number(found['median']):>12} ±{found['spread'] / 2:.0%}", flush=True)
    report = {"machine": about, "rounds": options.rounds, "curves": results, "figures": others}
    keep(options, "growth", report, text(about, options, results, others))


def text(about: dict[str, Any], options: Options, results: dict[str, Any], others: dict[str, Any]) -> str:
    parts = []
    for title, curves in results.items():
        family = FAMILIES[title]
        sizes = [int(n) for n in next(iter(curves.values()))["sizes"]]
        rows = [
            (
                name,
                *(number(curve["sizes"][n]["median"]) for n in sizes),
                f"**{curve['exponent']:.2f}** (ideal {curve['expected']})",
            )
            for name, curve in curves.items()
        ]
        heading = f"## {title.capitalize()}\n\n![{title}](growth-{title}.svg)\n\n{family.unit}, by {family.across}:\n\n"
        parts.append(heading + table(("", *(f"{n:,}" for n in sizes), "exponent"), rows))
    for title, found in others.items():
        parts.append(
            f"## {title}\n\n"
            + table(
                ("", ""),
                [(name, f"{number(each['median'])} (±{each['spread'] / 2:.0%})") for name, each in found.items()],
            )
        )
    body = "\n\n".join(parts)
    return f"""# How cost grows

{said(about)}
Medians of {options.rounds} rounds, all sizes of a curve in turns. The exponent is the k of cost = c · n^k that fits the
curve best: 0 is flat, 1 proportional. Where structures outgrow the caches a curve rises though each call does the same.

{body}
"""
