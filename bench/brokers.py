"""Against what a user would pick instead, between processes: publish, throughput, and there and back.

Ours, Redis, NATS, ZeroMQ, multiprocessing.Queue and iceoryx2 take turns on the same work: a publisher in this process,
receivers in others, every message delivered to each of them as a `str`. Receivers take messages one by one.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from multiprocessing.connection import Connection
from typing import Any

from . import stash
from .harness import Options, Samples, keep, machine, now, number, said, short, table
from .peers import PEERS, Ours, Peer, Pipe

SHORT, LONG = "x" * 64, "x" * 4096
PATIENCE = 30.0  # seconds until a receiver counts as stuck
# Forked, so that multiprocessing.Queue can take part, and before anything is open that a fork would share.
processes = multiprocessing.get_context("fork")


def receive(peer: str, address: str, index: int, retained: int, line: Connection) -> None:
    """A receiver's process: for each number it is sent, receives so many, and says when it had the last one."""
    receive_all = PEERS[peer](address, retained=retained).receiver("there", index)
    line.send("ready")
    while True:
        receive_all(line.recv())
        line.send(now())


def echo(peer: str, address: str, line: Connection) -> None:
    """The other end of a round trip, blocking."""
    made = PEERS[peer](address)
    say, _ = made.speaker("back")
    hear = made.listener("there")
    line.send("ready")
    while True:
        say(hear() or "x")


def echo_async(peer: str, address: str, line: Connection) -> None:
    """The same in an event loop."""

    async def main() -> None:
        made: Any = PEERS[peer](address)
        say, hear = await made.say("back"), await made.hear("there")
        line.send("ready")
        while True:
            await say(await hear() or "x")

    asyncio.run(main())


@contextmanager
def partners(*works: tuple[Any, ...]) -> Iterator[list[Connection]]:
    """Processes that are ready, each with a line to it; gone afterwards."""
    started, lines = [], []
    try:
        for work, *arguments in works:
            line, theirs = processes.Pipe()
            process = processes.Process(target=work, args=(*arguments, theirs), daemon=True)
            process.start()
            started.append(process)
            lines.append(line)
        yield lines
    finally:
        for process in started:
            process.kill()
            process.join()


def said_by(line: Connection) -> Any:
    if not line.poll(PATIENCE):
        raise TimeoutError(f"a receiver has said nothing for {PATIENCE:.0f} s")
    return line.recv()


# A side whose first step makes its other processes ready, and does no more: all are forked before anybody is connected.
Sides = dict[str, Generator[tuple[float, ...], None, None]]


def publishing(peer: type[Peer], message: str, receivers: int, count: int) -> Iterator[tuple[float, ...]]:
    """Each round: nanoseconds that a publish kept the publisher, nanoseconds of processor time that a message cost the
    publisher's process, and messages delivered in a second."""
    retained = 1 << (count - 1).bit_length()
    with ExitStack() as stack:
        address = stack.enter_context(peer.serving())
        works = [(receive, peer.name, address, index, retained) for index in range(receivers)]
        lines = stack.enter_context(partners(*works))
        yield ()
        made = peer(address, receivers, retained)
        say, flush = made.speaker("there")
        for line in lines:
            assert said_by(line) == "ready"
        time.sleep(0.3)  # ZeroMQ's subscriptions arrive by themselves, and nothing says when
        try:
            while True:
                for line in lines:
                    line.send(count)
                spent, start = time.process_time_ns(), now()
                for _ in range(count):
                    say(message)
                published = now()
                flush()
                last = max(said_by(line) for line in lines)
                spent = time.process_time_ns() - spent
                yield (published - start) / count, spent / count, count * receivers / (last - start) * 1e9
        finally:
            made.close()


def measured(sides: Sides, what: Sequence[str], rounds: int) -> dict[str, dict[str, Any]]:
    """All sides in turns; everything that was started ends with it."""
    found = {name: {each: Samples() for each in what} for name in sides}
    with ExitStack() as stack:
        for side in sides.values():
            stack.callback(side.close)
            next(side)
        for turn in range(rounds + 1):
            for name, side in sides.items():
                for each, value in zip(what, next(side), strict=True):
                    if turn:
                        found[name][each].rounds.append(value)
    return {name: {each: samples.as_json() for each, samples in values.items()} for name, values in found.items()}


def round_trips(peer: type[Peer], count: int) -> Iterator[tuple[float, ...]]:
    """Each round: p50 and p99 of the microseconds there and back, blocking."""
    with peer.serving() as address, partners((echo, peer.name, address)) as lines:
        yield ()
        made = peer(address)
        say, flush = made.speaker("there")
        hear = made.listener("back")
        assert said_by(lines[0]) == "ready"
        time.sleep(0.3)
        while True:
            times = []
            for _ in range(count):
                start = now()
                say(SHORT)
                flush()
                hear()
                times.append((now() - start) / 1e3)
            yield percentiles(times)


def round_trips_async(peer: Any, count: int) -> Iterator[tuple[float, ...]]:
    """The same in event loops."""
    with peer.serving() as address, partners((echo_async, peer.name, address)) as lines:
        yield ()
        loop, made = asyncio.new_event_loop(), peer(address)

        async def ends() -> tuple[Any, Any]:
            return await made.say("there"), await made.hear("back")

        async def rounds(say: Any, hear: Any) -> list[float]:
            times = []
            for _ in range(count):
                start = now()
                waiting = asyncio.ensure_future(hear())
                await asyncio.sleep(0)  # it waits before anything is said
                await say(SHORT)
                await waiting
                times.append((now() - start) / 1e3)
            return times

        try:
            say, hear = loop.run_until_complete(ends())
            assert said_by(lines[0]) == "ready"
            time.sleep(0.3)
            while True:
                yield percentiles(loop.run_until_complete(asyncio.wait_for(rounds(say, hear), PATIENCE)))
        finally:
            made.close()
            for task in asyncio.all_tasks(loop):
                task.cancel()
            loop.run_until_complete(asyncio.sleep(0))


def percentiles(times: list[float]) -> tuple[float, float]:
    times.sort()
    return times[len(times) // 2], times[len(times) * 99 // 100]


BESIDE_STASH = "presence beside dirty.stash"
WORKS = {
    "64 B to 1 process": (SHORT, 1, 10_000),
    "64 B to 4 processes": (SHORT, 4, 5_000),
    "4 KiB to 1 process": (LONG, 1, 2_000),
    "4 KiB to 4 processes": (LONG, 4, 1_000),
}


def run(options: Options) -> None:
    about = machine(*(peer.package for peer in PEERS.values() if peer.package), "gunicorn")
    carriers = [peer for peer in PEERS.values() if peer is not Pipe]
    tasks: dict[str, tuple[Callable[[], Any], tuple[str, ...]]] = {}
    for title, work in WORKS.items():
        message, receivers, count = work
        tasks[title] = (
            lambda m=message, r=receivers, c=count: {p.name: publishing(p, m, r, options.scaled(c)) for p in carriers},
            ("publish_ns", "publisher_ns", "per_second"),
        )
    for title, trips, peers in (
        ("there and back, blocking", round_trips, [peer for peer in PEERS.values() if peer.name != "NATS"]),
        ("there and back, asyncio", round_trips_async, [peer for peer in PEERS.values() if hasattr(peer, "hear")]),
    ):
        tasks[title] = (
            lambda t=trips, all_of_them=peers: {p.name: t(p, options.scaled(1_000)) for p in all_of_them},
            ("p50_us", "p99_us"),
        )
    results: dict[str, Any] = {}
    for title, (sides, what) in tasks.items():
        if options.wants(title):
            results[title] = measured(sides(), what, options.rounds)
            show(title, results[title])
    if options.wants(BESIDE_STASH):
        results[BESIDE_STASH] = stash.measured(options)
        show(BESIDE_STASH, results[BESIDE_STASH])
    report = {"machine": about, "rounds": options.rounds, "results": results}
    keep(options, "brokers", report, text(about, options, results) if options.whole else "")


def show(title: str, found: dict[str, Any]) -> None:
    print(title)
    for name, values in found.items():
        cells = "".join(
            f"{what:>14} {number(value['median']):>10} ±{value['spread'] / 2:<5.0%}" for what, value in values.items()
        )
        print(f"  {name:<24}{cells}", flush=True)


def text(about: dict[str, Any], options: Options, results: dict[str, Any]) -> str:
    names = [name for name in PEERS if name != Pipe.name]
    costs, processor, rates = [], [], []
    for title in WORKS:
        found = results[title]
        ours = found[Ours.name]
        others = [name for name in names if name != Ours.name]
        cheapest = min(found[name]["publish_ns"]["median"] for name in others) / ours["publish_ns"]["median"]
        redis = found["Redis pub/sub"]["publish_ns"]["median"] / ours["publish_ns"]["median"]
        best = ours["per_second"]["median"] / max(found[name]["per_second"]["median"] for name in others)
        costs.append(
            (
                title,
                *(number(found[name]["publish_ns"]["median"]) for name in names),
                f"**{cheapest:.0f}** ({redis:.0f})",
            )
        )
        processor.append((title, *(number(found[name]["publisher_ns"]["median"]) for name in names)))
        rates.append((title, *(number(found[name]["per_second"]["median"] / 1e3) for name in names), f"**{best:.1f}**"))
    trips = []
    for title in ("there and back, blocking", "there and back, asyncio"):
        found = results[title]
        ours = found[Ours.name]["p50_us"]["median"]
        best = min(found[name]["p50_us"]["median"] for name in names if name in found and name != Ours.name)
        cells = [
            f"{number(found[name]['p50_us']['median'])} ({number(found[name]['p99_us']['median'])})"
            if name in found
            else "–"
            for name in (*names, Pipe.name)
        ]
        pipe = ours / found[Pipe.name]["p50_us"]["median"]
        trips.append((title.removeprefix("there and back, "), *cells, f"**{ours / best:.2f}**", f"**{pipe:.2f}**"))
    held = results[BESIDE_STASH]
    kept = [
        (
            title,
            *(number(values[side]["median"]) for side in ("ours_us", "stash_us")),
            f"**{short(values['stash_us']['median'] / values['ours_us']['median']):,.0f}**",
        )
        for title, values in held.items()
    ]
    return f"""# Between processes: against what a user would pick instead

{said(about)}
Median of {options.rounds} rounds in turns. Every message reaches each receiver as a `str`, and none is lost.

## What a publish keeps the publisher, ns

With receivers at work. The last column: how many times cheaper ours is than the cheapest of the others (than
Redis); aim 10 (200).

{table(("", *names, "times cheaper"), costs)}

When a publish of NATS, ZeroMQ or `multiprocessing.Queue` returns, the message is yet to be sent by
the same process. What a message costs that process in processor time, all threads together:

{table(("", *names), processor)}

## Messages delivered, thousands in a second

From the first publish until the last receiver has the last message. The last column: ours against the best of the
others; aim 5.

{table(("", *names, "times the best"), rates)}

## There and back, µs: p50 (p99)

A message of 64 bytes to another process and one back; a byte through a FIFO for the bare pipe. nats-py has asyncio
only, the queue and iceoryx2's binding none. Aims: 0.20 of the best of the others, 1.30 of the pipe.

{table(("", *names, "bare pipe", "of the best", "of the pipe"), trips)}

## Presence, µs: against gunicorn's `dirty.stash`

In a gunicorn worker: a member's metadata put and taken, and who of 500 is there.

{table(("", "presence", "dirty.stash", "times cheaper"), kept)}
"""
