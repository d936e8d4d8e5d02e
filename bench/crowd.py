"""What needs other processes, or bytes: listeners, many publishers, a lapped receiver, memory, attaching."""

from __future__ import annotations

import multiprocessing
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.synchronize import Event
from typing import Any

import hypern_realtime_shm as ours

from .harness import Options, Samples, now, segment_name

MESSAGE = "x" * 64
PATIENCE = 60.0
processes = multiprocessing.get_context("fork")


def listen(name: str, channel: str, asleep: bool, ready: Any, over: Event) -> None:
    sub = ours.ChannelManager(segment=name).subscribe(channel, "listener")
    ready.release()
    if asleep:
        while True:
            sub.recv()
            sub.drain()
    over.wait()


@contextmanager
def listeners(name: str, channel: str, count: int, asleep: bool) -> Iterator[None]:
    """Processes with a subscriber each: asleep in `recv` whenever nothing is there, or never looking."""
    ready, over = processes.Semaphore(0), processes.Event()
    started = [
        processes.Process(target=listen, args=(name, channel, asleep, ready, over), daemon=True) for _ in range(count)
    ]
    try:
        for process in started:
            process.start()
        for _ in started:
            if not ready.acquire(timeout=PATIENCE):
                raise TimeoutError("a listener is not ready")
        yield
    finally:
        for process in started:
            process.kill()
            process.join()


def publish_until(name: str, channel: str, seconds: float, begin: Any, made: Any) -> None:
    """Publishes as fast as it can from the time that `begin` says, once it says one."""
    publish = ours.ChannelManager(segment=name).publish
    publish(channel, MESSAGE)
    made.put(0)
    while not begin.value or now() < begin.value:
        time.sleep(0.001)
    count, end = 0, begin.value + seconds * 1e9
    while now() < end:
        for _ in range(20):
            publish(channel, MESSAGE)
        count += 20
    made.put(count / seconds)


@contextmanager
def publishing(name: str, channels: list[str], seconds: float) -> Iterator[tuple[int, Any]]:
    """A process for each channel named, all within the same stretch of time; gives when it begins, and their rates."""
    begin, made = processes.Value("q", 0), processes.Queue()
    arguments = ((name, channel, seconds, begin, made) for channel in channels)
    started = [processes.Process(target=publish_until, args=each, daemon=True) for each in arguments]
    try:
        for process in started:
            process.start()
        for _ in started:
            made.get(timeout=PATIENCE)
        begin.value = now() + 20_000_000
        yield begin.value, lambda: sum(made.get(timeout=PATIENCE) for _ in started)
    finally:
        for process in started:
            process.kill()
            process.join()


def many_publishers(options: Options) -> dict[str, Samples]:
    """1 to 16 processes publish as fast as they can, to one channel and to one each."""
    seconds = 0.1 if options.quick else 0.4
    found: dict[str, Samples] = defaultdict(Samples)
    for _ in range(1 if options.quick else 5):
        for where in ("one channel", "a channel each"):
            for count in (1, 2, 4, 8, 16):
                channels = ["room"] * count if where == "one channel" else [f"room-{n}" for n in range(count)]
                with segment_name() as name:
                    manager = ours.ChannelManager(segment=name)
                    for channel in set(channels):
                        manager.create_channel(channel)
                    with publishing(name, channels, seconds) as (_, rates):
                        found[f"{count} publishers on {where}, messages a second"].rounds.append(rates())
    return found


def lapped(options: Options) -> dict[str, Samples]:
    """A receiver that looks all the time, and a publisher that never pauses: what it gets, and what it misses."""
    seconds = 0.2 if options.quick else 1.0
    found: dict[str, Samples] = defaultdict(Samples)
    for _ in range(1 if options.quick else 5):
        for retained in (16, 256):
            with segment_name() as name:
                manager = ours.ChannelManager(retained, segment=name)
                manager.create_channel("room")
                sub = manager.subscribe("room", "client")
                with publishing(name, ["room"], seconds) as (begin, rates):
                    while now() < begin + seconds * 1e9:
                        for _ in range(100):
                            sub.try_recv()
                    got = {"received": sub.received_count, "missed and counted": sub.missed_count}
                    for what, value in got.items():
                        found[f"{retained} messages retained: {what}, a second"].rounds.append(value / seconds)
                    found[f"{retained} messages retained: published, a second"].rounds.append(rates())
    return found


def memory(options: Options) -> dict[str, Samples]:
    """Bytes of the segment that each thing holds while it is there."""
    count = options.scaled(1_000)

    def used(where: ours.Segment) -> float:
        stats = where.stats()
        return float(sum(stats[what] * size for what, size in BYTES.items()))

    found = {}
    makers: dict[str, Callable[[ours.Segment], Callable[[int], Any]]] = {
        "an idle channel that retains 16 messages, bytes": idle_channels,
        "a message of 64 bytes, bytes": messages,
        "a member, bytes": members,
        "a heartbeat client, bytes": clients,
    }
    for title, make in makers.items():
        with segment_name() as name:
            where = ours.Segment.open(name)
            add = make(where)
            add(-1)
            before = used(where)
            for n in range(count):
                add(n)
            found[title] = Samples([(used(where) - before) / count])
            where.close()
    return found


# Bytes of each thing that `Segment.stats` counts (LAYOUT.md): a channel's cell and its row of bits, a descriptor and
# its share of a unit, blocks.
BYTES = {"channels": 192 + 64, "ring_slots": 8 + 1, "small_blocks": 256, "medium_blocks": 2048, "large_blocks": 16384}


def idle_channels(where: ours.Segment) -> Callable[[int], Any]:
    manager = ours.ChannelManager(16, segment=where)
    return lambda n: manager.create_channel(f"room-{n}")


def messages(where: ours.Segment) -> Callable[[int], Any]:
    manager = ours.ChannelManager(4096, segment=where)
    manager.create_channel("room")
    return lambda _n: manager.publish("room", MESSAGE)


def members(where: ours.Segment) -> Callable[[int], Any]:
    tracker = ours.PresenceTracker(segment=where)
    return lambda n: tracker.track("room", f"client-{n}", {"name": "Alice"})


def clients(where: ours.Segment) -> Callable[[int], Any]:
    monitor = ours.HeartbeatMonitor(segment=where)
    return lambda n: monitor.register(f"client-{n}")


def attach(name: str, made: Any) -> None:
    start = now()
    segment = ours.Segment.attach(name)
    made.put((now() - start) / 1e3)
    segment.close()


def attaching(options: Options) -> dict[str, Samples]:
    """Microseconds that a new process takes to attach, and the first to create."""
    found: dict[str, Samples] = defaultdict(Samples)
    # Not in turns: what a large segment leaves behind is given back while the next one is made.
    for size in ("4MiB", "32MiB", "256MiB"):
        for _ in range(3 if options.quick else 7):
            with segment_name() as name:
                start = now()
                segment = ours.Segment.open(name, size=size)
                found[f"create, {size}, µs"].rounds.append((now() - start) / 1e3)
                made = processes.Queue()
                process = processes.Process(target=attach, args=(name, made), daemon=True)
                process.start()
                found[f"attach, {size}, µs"].rounds.append(made.get(timeout=PATIENCE))
                process.join(PATIENCE)
                segment.close()
    return found


FIGURES: dict[str, Callable[[Options], dict[str, Samples]]] = {
    "Many publishers at once": many_publishers,
    "A lapped receiver": lapped,
    "Memory": memory,
    "Attaching": attaching,
}
