"""Mixed traffic of many processes at full speed: ``python -m tests.load --seconds 300``.

Each process publishes to random channels, receives from some and from a pattern of them, and lets members, heartbeats
and topic patterns come and go. At the end everything is counted: for each subscriber what it received and what it
missed is what all processes published; the members are those that the processes say they left; no slot, block or
ring slot is in use that was not in use before. Prints its seed; ``--seed`` replays the choices.
"""

from __future__ import annotations

import argparse
import collections
import multiprocessing
import random
import time
import traceback
import warnings
from multiprocessing.connection import Connection
from typing import Any

from hypern_realtime_shm import RealtimeHub, Segment
from hypern_realtime_shm.testing import unique_name

SUBSCRIPTIONS = 12
GROUPS = 100  # the second part of a channel's name, for patterns
PATIENCE = 300.0  # seconds in which a process comes to the next thing to do


def channel(number: int) -> str:
    return f"room:{number % GROUPS}:{number}"


class Worker:
    """One process's part."""

    def __init__(self, hub: RealtimeHub, number: int, channels: int, members: int, seed: int) -> None:
        self.hub, self.number, self.channels = hub, number, channels
        self.random = random.Random(seed)
        self.published: collections.Counter[str] = collections.Counter()
        self.serial = self.joined = self.operations = 0
        names = self.random.sample(range(channels), min(SUBSCRIPTIONS, channels))
        self.subs = [hub.channels.subscribe(channel(name), f"worker {number}") for name in names]
        self.pattern = hub.channels.subscribe_pattern(f"room:{number % GROUPS}:*", f"worker {number}")
        self.last: dict[tuple[int, str, str], int] = {}
        self.members: collections.deque[tuple[str, str]] = collections.deque()
        for _ in range(members):
            self.join()

    def room(self) -> str:
        # A few rooms are busy, as everywhere: they overtake whoever listens to them.
        few = self.random.random() < 0.2
        return channel(self.random.randrange(10 if few else self.channels))

    def join(self) -> None:
        room, client = self.room(), f"{self.number}/{self.joined}"
        self.joined += 1
        self.hub.presence.track(room, client)
        self.members.append((room, client))

    def receive(self, most: int) -> int:
        """Takes messages, and checks each one's place in its publisher's order."""
        got = 0
        for sub in (*self.subs, self.pattern):
            for _ in range(most):
                message = sub.try_recv_message()
                if message is None:
                    break
                name, publisher, serial = message.data.split("|")[:3]
                assert name == message.channel, "delivered to a wrong channel"
                key = (id(sub), name, publisher)
                assert int(serial) > self.last.get(key, -1), "doubled or reordered"
                self.last[key] = int(serial)
                got += 1
        return got

    def step(self) -> None:
        hub = self.hub
        for _ in range(8):
            room = self.room()
            hub.publish(room, f"{room}|{self.number}|{self.serial}|{'x' * self.random.choice((10, 60, 300))}")
            self.published[room] += 1
            self.serial += 1
        self.receive(4)
        room, client = self.members.popleft()
        assert hub.presence.untrack(room, client), "a member that nobody else removes is gone"
        self.join()
        assert hub.presence.touch(*self.members[0])
        self.operations += 12
        if self.random.random() < 0.1:
            client = f"{self.number}/{self.random.randrange(50)}"
            hub.heartbeat.register(client)
            hub.heartbeat.pong(client)
            hub.heartbeat.check_timeouts()
            hub.channels.topic_matcher.subscribe(f"room:*:{self.random.randrange(20)}", client)
            hub.channels.topic_matcher.match_topic("room:x:1")
            hub.channels.topic_matcher.unsubscribe_all(client)
            hub.heartbeat.unregister(client)
            room = self.room()
            hub.presence.flush_diff(room)
            assert hub.presence.count(room) >= 0
            self.operations += 8

    def result(self) -> dict[str, Any]:
        while self.receive(1000):
            pass
        return {
            "published": self.published,
            "subs": [(sub.channel_name, sub.received_count, sub.missed_count) for sub in self.subs],
            "pattern": (self.pattern.channel_name, self.pattern.received_count, self.pattern.missed_count),
            "members": list(self.members),
            "operations": self.operations,
        }


def work(line: Connection, hub: RealtimeHub, number: int, channels: int, members: int, seed: int) -> None:
    try:
        worker = Worker(hub, number, channels, members, seed)
        line.send("ready")
        line.recv()
        while not line.poll():
            worker.step()
        line.recv()
        line.send("stopped")
        # All have stopped publishing.
        line.recv()
        line.send(worker.result())
        line.recv()
    except BaseException:
        traceback.print_exc()
        line.send("failed")
        raise


def hear(line: Connection) -> Any:
    assert line.poll(PATIENCE), "a process came to no end"
    said = line.recv()
    assert said != "failed", "a process failed: see above"
    return said


def load(seconds: float, processes: int, channels: int, members: int, size: str, seed: int) -> dict[str, Any]:
    """Runs the traffic and the counting; what it says is what was true."""
    warnings.simplefilter("ignore", DeprecationWarning)  # of forks: this process has no thread when it forks
    name = unique_name("load")
    segment = Segment.open(name, size=size, max_processes=processes + 8)
    try:
        hub = RealtimeHub(segment=segment)
        hub.presence.count("room")
        base = segment.stats()
        for number in range(channels):
            hub.create_channel(channel(number))
        context = multiprocessing.get_context("fork")
        lines, started = [], []
        for number in range(processes):
            ours, theirs = context.Pipe()
            arguments = (theirs, hub, number, channels, members // processes, seed * 1000 + number)
            process = context.Process(target=work, args=arguments, daemon=True)
            process.start()
            theirs.close()
            lines.append(ours)
            started.append(process)
        for line in lines:
            assert hear(line) == "ready"
        assert segment.stats()["processes"] == processes + 1
        begin = time.monotonic()
        for line in lines:
            line.send("go")
        time.sleep(seconds)
        for line in lines:
            line.send("stop")
        for line in lines:
            assert hear(line) == "stopped"
        took = time.monotonic() - begin
        for line in lines:
            line.send("count")
        results = [hear(line) for line in lines]

        published: collections.Counter[str] = collections.Counter()
        for result in results:
            published.update(result["published"])
        for room, count in published.items():
            assert hub.channels.get_stats(room).total_messages == count, room
        received = missed = 0
        for result in results:
            for room, got, lost in result["subs"]:
                assert got + lost == published[room], (
                    f"{room}: {got} received, {lost} missed, {published[room]} published"
                )
                received, missed = received + got, missed + lost
            pattern, got, lost = result["pattern"]
            beginning = pattern[:-1]
            matching = sum(count for room, count in published.items() if room.startswith(beginning))
            assert got + lost == matching, f"{pattern}: {got} received, {lost} missed, {matching} published"
            received, missed = received + got, missed + lost
        present = collections.Counter(room for result in results for room, _ in result["members"])
        clients = {client for result in results for _, client in result["members"]}
        assert sum(present.values()) == len(clients) == members // processes * processes
        for number in range(channels):
            assert hub.presence.count(channel(number)) == present[channel(number)], channel(number)
        assert hub.presence.total_clients() == len(clients)
        for room in random.Random(seed).sample(sorted(present), min(100, len(present))):
            theirs_there = {client for result in results for where, client in result["members"] if where == room}
            assert {info.client_id for info in hub.presence.list(room)} == theirs_there
        assert hub.heartbeat.client_count() == 0
        for line in lines:
            line.send("end")
        for process in started:
            process.join(PATIENCE)
            assert process.exitcode == 0, f"a process ended with {process.exitcode}"
        assert segment.reap() == 0, "all have left in order"
        after = segment.stats()
        assert after["processes"] == 1, "a slot leaked"
        unsound = segment.check()
        assert unsound == [], "\n".join(unsound)
        hub.presence.clear()
        hub.channels.clear()
        left = segment.stats()
        groups = left["channels"] - base["channels"]
        for key in ("ring_slots", "medium_blocks", "large_blocks", "processes"):
            assert left[key] == base[key], f"{key}: {base[key]} at the start, {left[key]} at the end"
        # Empty groups of members are kept for the next join: a directory entry each.
        assert left["small_blocks"] <= base["small_blocks"] + 2 * groups + 3, (base, left)
        return {
            "seed": seed,
            "processes": processes,
            "channels": channels,
            "members": len(clients),
            "seconds": round(took, 1),
            "operations": sum(result["operations"] for result in results),
            "published": sum(published.values()),
            "received": received,
            "missed": missed,
            "given up under pressure": after["evicted_messages"],
        }
    finally:
        segment.close()
        segment.unlink()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=300.0)
    parser.add_argument("--processes", type=int, default=64)
    parser.add_argument("--channels", type=int, default=10_000)
    parser.add_argument("--members", type=int, default=100_000)
    parser.add_argument("--size", default="512MiB")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 30))
    arguments = vars(parser.parse_args())
    print(f"seed {arguments['seed']}", flush=True)
    print(load(**arguments))


if __name__ == "__main__":
    main()
