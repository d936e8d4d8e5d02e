"""Kills and stops at random while processes do the whole API: ``python -m tests.soak --seconds 60``.

Checked as it runs: no message torn, reordered or of another channel, in any process. Checked every twenty
seconds, with everybody dead: everything the dead owned has left, and with everything removed no block, cell or
ring slot is in use that was not in use at the start. Prints its seed; ``--seed`` replays the choices. Fails where
the machine is too slow for forty kills and twenty stops a second, unless told ``--at-any-rate``.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import signal
import sys
import time
import traceback
import warnings
from pathlib import Path
from typing import Any

from hypern_realtime_shm import (
    BroadcastConfig,
    ChannelClosed,
    Message,
    PresenceWatch,
    RealtimeHub,
    Segment,
    SSEStreamSync,
    Subscriber,
)
from hypern_realtime_shm.testing import unique_name

WORKERS = 6
# SIGKILLs and SIGSTOPs aimed at in a second, and how many there must be.
KILLS, STOPS = 55, 28
KILLS_AT_LEAST, STOPS_AT_LEAST = 40, 20
# Seconds after which everybody is killed and everything looked at.
ROUND = 20.0
# Memory of the process that starts them all: what an allocator may keep, not what grows with time.
GROWTH = 16 << 20
ROOMS = 5
CLIENTS = 40


class Worker:
    """One process's endless random use of everything."""

    def __init__(self, hub: RealtimeHub, seed: int) -> None:
        self.hub = hub
        self.random = random.Random(seed)
        self.subs: list[Subscriber] = []
        self.last: dict[tuple[int, str, str], tuple[int, str]] = {}
        self.watches: list[tuple[PresenceWatch, set[str]]] = []
        self.streams: list[SSEStreamSync] = []

    def run(self) -> None:
        actions = [getattr(self, name) for name in dir(self) if name.startswith("do_")]
        while True:
            room = f"room {self.random.randrange(ROOMS)}"
            client = f"client {self.random.randrange(CLIENTS)}"
            try:
                self.random.choice(actions)(room, client)
                self.check_messages()
            except KeyError:
                # Somebody has just removed the channel.
                continue

    def check_messages(self) -> None:
        for sub in self.subs:
            while (message := sub.try_recv_message()) is not None:
                self.check(sub, message)

    def check(self, sub: Subscriber, message: Message) -> None:
        room, publisher, serial, rest = message.data.split("|")
        assert room == message.channel, f"{message.data[:80]} on {sub}"
        assert message.channel == sub.channel_name or sub.channel_name == "*"
        assert rest == "x" * len(rest), "torn"
        key = (id(sub), publisher, room)
        last = self.last.get(key, (-1, ""))
        assert int(serial) > last[0], f"reordered or doubled: {message.data[:60]} {message.id} after {last} on {sub}"
        self.last[key] = int(serial), message.id

    def keep(self, sub: Subscriber) -> None:
        if len(self.subs) > 20:
            gone = self.subs.pop(self.random.randrange(len(self.subs)))
            self.last = {key: value for key, value in self.last.items() if key[0] != id(gone)}
            gone.close()
        self.subs.append(sub)

    def do_create(self, room: str, _: str) -> None:
        self.hub.channels.create_channel(room, self.random.choice([4, 16, 64]))

    def do_remove(self, room: str, _: str) -> None:
        if self.random.random() < 0.2:
            self.hub.channels.remove_channel(room)

    def do_subscribe(self, room: str, client: str) -> None:
        self.keep(self.hub.channels.subscribe(room, client))

    def do_subscribe_pattern(self, _: str, client: str) -> None:
        self.keep(self.hub.channels.subscribe_pattern("*", client))

    def do_resume(self, room: str, client: str) -> None:
        messages = self.hub.channels.replay(room)
        ids = [message.id.rpartition("-") for message in messages]
        sequences = [int(sequence) for _, _, sequence in ids]
        assert sequences == sorted(set(sequences))
        if messages:
            self.keep(self.hub.channels.subscribe(room, client, last_event_id=self.random.choice(messages).id))

    def do_wait(self, _room: str, _client: str) -> None:
        for sub in self.subs[-3:]:
            try:
                self.check(sub, sub.recv_message(timeout=0.001))
            except (TimeoutError, ChannelClosed):
                continue

    def do_wait_in_a_loop(self, _room: str, _client: str) -> None:
        async def main() -> None:
            waits = [sub.recv_message_async(timeout=0.001) for sub in self.subs[-5:]]
            for sub, message in zip(self.subs[-5:], await asyncio.gather(*waits, return_exceptions=True), strict=True):
                if isinstance(message, Message):
                    self.check(sub, message)
                else:
                    assert isinstance(message, (TimeoutError, ChannelClosed)), repr(message)

        asyncio.run(main())

    def do_watch(self, room: str, _: str) -> None:
        if len(self.watches) < 4:
            self.watches.append((self.hub.presence.watch(room), set()))
        else:
            self.watches.pop(0)[0].close()
        for watch, present in self.watches:
            if (diff := watch.try_next()) is not None:
                joined = {info.client_id for info in diff.joins}
                assert not joined & present, "joined twice"
                assert present.issuperset(diff.leaves), "left twice"
                assert present.issuperset(info.client_id for info in diff.updates)
                present |= joined
                present -= set(diff.leaves)

    def do_stream(self, room: str, client: str) -> None:
        if len(self.streams) > 4:
            self.streams.pop(self.random.randrange(len(self.streams))).close()
        stream = self.hub.sse_stream_sync(room, client, {"by": str(os.getpid())})
        assert next(stream).startswith(b"retry: ")
        self.streams.append(stream)

    def do_unsubscribe(self, room: str, client: str) -> None:
        self.hub.channels.unsubscribe(room, client)

    def do_publish(self, room: str, _: str) -> None:
        rest = "x" * self.random.choice([0, 10, 300, 3000, 20000])
        self.hub.publish(room, f"{room}|{os.getpid()}|{time.monotonic_ns()}|{rest}")

    do_publish_more = do_publish_again = do_publish

    def do_track(self, room: str, client: str) -> None:
        self.hub.presence.track(room, client, {"about": "x" * self.random.randrange(300)})

    def do_untrack(self, room: str, client: str) -> None:
        self.hub.presence.untrack(room, client)

    def do_heartbeat(self, _: str, client: str) -> None:
        self.hub.heartbeat.register(client)
        self.hub.heartbeat.pong(client)
        self.hub.heartbeat.check_timeouts()

    def do_unregister(self, _: str, client: str) -> None:
        self.hub.heartbeat.unregister(client)

    def do_flush(self, room: str, client: str) -> None:
        self.hub.presence.flush_diff(room)
        self.hub.presence.untrack_all(client)

    def do_topics(self, room: str, client: str) -> None:
        matcher = self.hub.channels.topic_matcher
        matcher.subscribe(f"{room}:*", client)
        matcher.match_topic(f"{room}:x")
        if self.random.random() < 0.5:
            matcher.unsubscribe_all(client)

    def do_broadcast(self, room: str, _: str) -> None:
        self.hub.broadcast.create(room, BroadcastConfig(buffer_size=16, dedup_enabled=True, dedup_window=20))
        self.hub.broadcast.send(room, "m", f"id {self.random.randrange(50)}")

    def do_look(self, room: str, client: str) -> None:
        names = [info.client_id for info in self.hub.presence.list(room)]
        assert len(names) == len(set(names)), "listed twice"
        self.hub.presence.total_clients()
        self.hub.presence.client_channels(client)
        self.hub.channels.get_stats(room)


class Crowd:
    """The workers: started, stopped, continued and killed as a seed says."""

    def __init__(self, hub: RealtimeHub, seed: int) -> None:
        self.hub = hub
        self.seed = seed
        self.random = random.Random(seed)
        self.children: set[int] = set()
        self.stopped: list[int] = []
        self.serial = 0
        self.kills = self.stops = 0
        self.seconds = 0.0

    def spawn(self) -> None:
        self.serial += 1
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            pid = os.fork()
        if pid == 0:
            try:
                Worker(self.hub, self.seed * 100_000 + self.serial).run()
            except BaseException:
                traceback.print_exc()
                sys.stderr.flush()
                os._exit(3)
        self.children.add(pid)

    def kill(self, pid: int) -> None:
        self.children.discard(pid)
        os.kill(pid, signal.SIGKILL)
        status = os.waitpid(pid, 0)[1]
        assert os.WIFSIGNALED(status), f"a worker failed by itself: {status}"

    def stop(self, pid: int) -> None:
        os.kill(pid, signal.SIGSTOP)
        self.stopped.append(pid)
        if len(self.stopped) > 2 and (first := self.stopped.pop(0)) in self.children:
            os.kill(first, signal.SIGCONT)

    def churn(self, seconds: float) -> None:
        """Kills and stops for so long, then kills everybody."""
        start = due = time.monotonic()
        try:
            for _ in range(WORKERS):
                self.spawn()
            while (now := time.monotonic()) < start + seconds:
                # Behind time: no pause, so that the rate holds whatever a fork takes.
                if now < due:
                    time.sleep(due - now)
                due += 1 / (KILLS + STOPS)
                pid = self.random.choice(sorted(self.children))
                if self.random.random() < STOPS / (KILLS + STOPS):
                    self.stop(pid)
                    self.stops += 1
                else:
                    self.kill(pid)
                    self.kills += 1
                    self.spawn()
        finally:
            self.seconds += time.monotonic() - start
            for pid in sorted(self.children):
                self.kill(pid)
            self.stopped.clear()


def look(segment: Segment, hub: RealtimeHub, base: dict[str, int]) -> None:
    """With everybody dead: nothing is left and, with everything removed, nothing in use that was not at first."""
    segment.reap()
    assert segment.reap() == 0
    unsound = segment.check()
    assert unsound == [], "\n".join(unsound)
    left = hub.presence.total_clients(), hub.heartbeat.client_count(), hub.channels.topic_matcher.patterns()
    assert left == (0, 0, []), f"left behind by the dead: {left}"
    for room in hub.channels.list_channels():
        assert hub.channels.get_subscribers(room) == []
        assert hub.publish(room, "x") == 0
    hub.channels.clear()
    hub.broadcast.clear()
    hub.presence.clear()
    after = segment.stats()
    # Empty groups of members are kept for the next join: a cell and a directory entry each.
    groups = after["channels"] - base["channels"]
    assert groups <= ROOMS
    bells = [path.name for path in Path("/dev/shm").iterdir() if f"{segment.name}@" in path.name]
    assert bells == [], "bells of the dead"
    for key in ("ring_slots", "medium_blocks", "large_blocks", "processes", "waiters"):
        assert after[key] == base[key], f"{key}: {base[key]} at the start, {after[key]} at the end"
    assert after["small_blocks"] <= base["small_blocks"] + groups + 3, (base, after)


def resident() -> int:
    """Bytes of memory that this process holds."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")


def soak(seconds: float, seed: int) -> dict[str, Any]:
    """Runs it; gives the figures. Raises AssertionError at the first violation."""
    name = unique_name("soak")
    segment = Segment.open(name, size="16MiB", max_processes=64)
    try:
        hub = RealtimeHub(segment=segment)
        base = segment.stats()
        crowd = Crowd(hub, seed)
        looks, first = 0, 0
        while (left := seconds - crowd.seconds) > 0:
            crowd.churn(min(left, ROUND))
            look(segment, hub, base)
            looks += 1
            first = first or resident()
        grown = resident() - first
        assert grown < GROWTH, f"{grown} bytes of memory more than after the first round"
        return {
            "seed": seed,
            "workers": WORKERS,
            "kills": crowd.kills,
            "kills_per_second": round(crowd.kills / crowd.seconds, 1),
            "stops": crowd.stops,
            "stops_per_second": round(crowd.stops / crowd.seconds, 1),
            "looks": looks,
            "reaped": segment.stats()["reaped_processes"],
            "bytes_grown": grown,
        }
    finally:
        segment.close()
        segment.unlink()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 30))
    parser.add_argument("--at-any-rate", action="store_true", help="on a machine that does other things, too")
    arguments = parser.parse_args()
    print(f"seed {arguments.seed}", flush=True)
    figures = soak(arguments.seconds, arguments.seed)
    print(figures)
    if not arguments.at_any_rate:
        assert figures["kills_per_second"] >= KILLS_AT_LEAST, figures
        assert figures["stops_per_second"] >= STOPS_AT_LEAST, figures


if __name__ == "__main__":
    main()
