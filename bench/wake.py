"""What waking another process costs: a message there and one back, awake and asleep, beside the bare thing.

Two processes hand a small message to and fro. Each pair of rows does the same thing twice in one run (A B A B …):
once with nothing but a pipe or FIFO and ``os.read``/``os.write``, once through a channel of ours. What counts is
the ratio of the medians of the round trips' p50.

- *blocking, hot*: no pause; ours finds the message while it still looks for itself, the pipe sleeps in ``read``.
- *blocking, asleep*: 2 ms between rounds, so that both sides are asleep in the kernel.
- *asyncio*, *uvloop*: an event loop on both sides; the bare one is ``add_reader`` on a FIFO and a future.
- *one CPU*: both ends on the same one, where waking costs nothing but the switch; else each has its own, *hot*
  whichever the scheduler gives it.

"""

from __future__ import annotations

import asyncio
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from typing import Any

import uvloop

import hypern_realtime_shm as ours
from hypern_realtime_shm.testing import unique_name, unlink_segment

from .harness import Options, keep, machine, now, said, table

HOT = "blocking, hot"

# The two ends of a line: what one says the other hears.
Line = tuple[Callable[[], Any], Callable[[], Any]]


def bare(directory: str, server: bool) -> Line:
    """A pair of FIFOs."""
    there, back = (os.open(f"{directory}/{name}", os.O_RDWR) for name in ("there", "back"))
    hear, say = (there, back) if server else (back, there)
    return (lambda: os.write(say, b"x")), (lambda: os.read(hear, 1))


def channels(name: str, server: bool) -> Line:
    """A pair of channels."""
    manager = ours.ChannelManager(segment=name)
    for channel in ("there", "back"):
        manager.create_channel(channel)
    hear, say = ("there", "back") if server else ("back", "there")
    sub = manager.subscribe(hear, "bench")
    return (lambda: manager.publish(say, "x")), sub.recv


AsyncLine = tuple[Callable[[], Any], Callable[[], Awaitable[Any]]]


def bare_async(directory: str, server: bool) -> AsyncLine:
    """A pair of FIFOs and ``add_reader``."""
    there, back = (os.open(f"{directory}/{name}", os.O_RDWR | os.O_NONBLOCK) for name in ("there", "back"))
    hear, say = (there, back) if server else (back, there)
    loop = asyncio.get_running_loop()
    waiting: list[asyncio.Future[None]] = []

    def readable() -> None:
        os.read(hear, 1)
        waiting.pop().set_result(None)

    loop.add_reader(hear, readable)

    async def listen() -> None:
        future = loop.create_future()
        waiting.append(future)
        await future

    return (lambda: os.write(say, b"x")), listen


def channels_async(name: str, server: bool) -> AsyncLine:
    """A pair of channels, awaited."""
    manager = ours.ChannelManager(segment=name)
    for channel in ("there", "back"):
        manager.create_channel(channel)
    hear, say = ("there", "back") if server else ("back", "there")
    sub = manager.subscribe(hear, "bench")
    return (lambda: manager.publish(say, "x")), sub.recv_async


LINES: dict[str, Any] = {"bare": (bare, bare_async), "ours": (channels, channels_async)}


def pin(kind: str, end: int) -> None:
    """Each end on a CPU of its own: where the scheduler puts them decides more than what is compared here. But who
    may run on one CPU only, when it first waits, does not look for news before it sleeps: *hot* comes last."""
    if kind == HOT:
        return
    cpus = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cpus[0 if kind.endswith("one CPU") else end % len(cpus)]})


def answer(kind: str, which: str, where: str) -> None:
    """The other process: sends back whatever comes."""
    pin(kind, 1)
    blocking, awaiting = LINES[which]
    if kind.startswith("blocking"):
        say, hear = blocking(where, True)
        print("ready", flush=True)
        while True:
            hear()
            say()

    async def main() -> None:
        say, hear = awaiting(where, True)
        print("ready", flush=True)
        while True:
            await hear()
            say()

    loop = uvloop.new_event_loop() if kind.startswith("uvloop") else asyncio.new_event_loop()
    loop.run_until_complete(main())


class Partner:
    """A line and the process at its other end."""

    def __init__(self, kind: str, which: str) -> None:
        self.kind, self.which = kind, which
        self.directory = tempfile.TemporaryDirectory()
        for name in ("there", "back"):
            os.mkfifo(f"{self.directory.name}/{name}")
        self.name = unique_name("bench")
        self.where = self.directory.name if which == "bare" else self.name
        self.process = subprocess.Popen(
            [sys.executable, "-m", "bench.wake", "answer", kind, which, self.where], stdout=subprocess.PIPE, text=True
        )
        assert self.process.stdout is not None
        self.process.stdout.readline()
        self.loop = (uvloop.new_event_loop if kind.startswith("uvloop") else asyncio.new_event_loop)()
        self.line: Any = None

    def round_trips(self, count: int, pause: float) -> list[int]:
        """Nanoseconds of each."""
        blocking, awaiting = LINES[self.which]
        times = []
        if self.kind.startswith("blocking"):
            say, hear = self.line = self.line or blocking(self.where, False)
            for _ in range(count):
                if pause:
                    time.sleep(pause)
                start = now()
                say()
                hear()
                times.append(now() - start)
            return times

        async def main() -> None:
            say, hear = self.line = self.line or awaiting(self.where, False)
            for _ in range(count):
                start = now()
                waiting = asyncio.ensure_future(hear())
                await asyncio.sleep(0)  # it waits before anything is said
                say()
                await waiting
                times.append(now() - start)

        self.loop.run_until_complete(main())
        return times

    def end(self) -> None:
        self.process.kill()
        self.process.wait()
        self.line = None
        self.loop.run_until_complete(self.loop.shutdown_asyncgens())
        self.loop.close()
        self.directory.cleanup()
        unlink_segment(self.name)


CASES = {
    "blocking, asleep": (300, 0.002),
    "asyncio": (2000, 0.0),
    "uvloop": (2000, 0.0),
    "blocking, one CPU": (3000, 0.0),
    "asyncio, one CPU": (2000, 0.0),
    "uvloop, one CPU": (2000, 0.0),
    HOT: (3000, 0.0),
}


def percentile(times: list[int], part: float) -> float:
    return sorted(times)[int(len(times) * part)] / 1e3


def compare(kind: str, options: Options) -> dict[str, Any]:
    count, pause = CASES[kind]
    count = options.scaled(count)
    cpus = os.sched_getaffinity(0)
    partners = {which: Partner(kind, which) for which in LINES}
    pin(kind, 0)
    found: dict[str, list[list[int]]] = {which: [] for which in LINES}
    try:
        for _ in range(options.rounds + 1):
            for which, partner in partners.items():
                found[which].append(partner.round_trips(count, pause))
    finally:
        os.sched_setaffinity(0, cpus)
        for partner in partners.values():
            partner.end()
    result: dict[str, Any] = {}
    for which, all_rounds in found.items():
        counted = all_rounds[1:]  # the first one warms up
        result[which] = {
            "p50_us": round(statistics.median(percentile(times, 0.5) for times in counted), 2),
            "p99_us": round(statistics.median(percentile(times, 0.99) for times in counted), 2),
            "rounds_p50_us": [round(percentile(times, 0.5), 2) for times in counted],
        }
    result["ratio"] = round(result["ours"]["p50_us"] / result["bare"]["p50_us"], 2)
    return result


def run(options: Options) -> None:
    about = machine("uvloop")
    results: dict[str, Any] = {}
    print(f"{'round trip, median p50, µs':<26}{'bare':>12}{'ours':>10}{'ratio':>8}{'p99 bare':>11}{'ours':>8}")
    for kind in CASES:
        if not options.wants(kind):
            continue
        results[kind] = found = compare(kind, options)
        bare_found, our_found = found["bare"], found["ours"]
        print(
            f"{kind:<26}{bare_found['p50_us']:>12.1f}{our_found['p50_us']:>10.1f}{found['ratio']:>8.2f}"
            f"{bare_found['p99_us']:>11.1f}{our_found['p99_us']:>8.1f}",
            flush=True,
        )
    rows = [
        (
            kind,
            *(f"{found[which]['p50_us']:.1f} ({found[which]['p99_us']:.1f})" for which in ("bare", "ours")),
            f"**{found['ratio']:.2f}**",
        )
        for kind, found in results.items()
    ]
    text = f"""# Waking another process: there and back

{said(about)}
Median p50 (p99) of {options.rounds} rounds in turns, µs. The ratio is the result; `wake.py` says what the rows are.

{table(("round trip", "bare pipe or FIFO", "ours", "ratio"), rows)}
"""
    keep(options, "wake", {"machine": about, "rounds": options.rounds, "results": results}, text)


if __name__ == "__main__" and sys.argv[1:2] == ["answer"]:
    answer(*sys.argv[2:5])
