"""Full: a /dev/shm that is too small or taken, and every part of a segment. An error that says what to raise, nothing
left behind, everything else goes on, and what is freed is usable again."""

from __future__ import annotations

import contextlib
import functools
import itertools
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from hypern_realtime_shm import (
    ChannelManager,
    HeartbeatMonitor,
    RealtimeHub,
    Segment,
    SegmentFull,
    Subscriber,
    TopicMatcher,
    _engine,
)
from tests.procs import PRELUDE, Process

SMALL_SHM = 'mount --make-rprivate / && mount -t tmpfs -o "$1" tmpfs /dev/shm && shift && exec "$@"'


def on_a_shm_of(options: str, source: str) -> None:
    """Runs ``source`` where /dev/shm is a new tmpfs, in a mount namespace of its own. Must come to its end."""
    program = PRELUDE + textwrap.dedent(source)
    command = ["unshare", "--mount", "sh", "-c", SMALL_SHM, "sh", options, sys.executable, "-W", "error", "-c", program]
    run = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    if "unshare" in run.stderr or "mount:" in run.stderr:
        pytest.fail(f"this test mounts a small /dev/shm of its own, which needs root (CAP_SYS_ADMIN): {run.stderr}")
    assert run.returncode == 0, f"ended with {run.returncode} (-7: SIGBUS)\n{run.stdout}\n{run.stderr}"
    print(run.stdout)


def test_a_small_shm() -> None:
    on_a_shm_of(
        "size=1m",
        """
        def refused(use, needed):
            try:
                use()
            except rt.SegmentNoSpace as error:
                text = str(error)
                assert str(needed) in text and "--shm-size" in text and "/dev/shm" in text, text
                import errno
                assert error.errno == errno.ENOSPC, error.errno
                return text
            raise AssertionError("there was room")

        print(refused(lambda: rt.Segment.open("default"), 32 << 20))
        refused(lambda: rt.RealtimeHub(segment="default"), 32 << 20)
        assert os.listdir("/dev/shm") == []
        # Another file takes what would be enough.
        with open("/dev/shm/another", "wb") as file:
            file.write(bytes(700_000))
        refused(lambda: rt.Segment.open("half", size="512KiB"), 512 << 10)
        assert os.listdir("/dev/shm") == ["another"]
        os.unlink("/dev/shm/another")
        # All that is promised is there: every block is touched, on a tmpfs that others have filled since.
        segment = rt.Segment.open("half", size="512KiB")
        try:
            with open("/dev/shm/another", "wb", buffering=0) as file:
                while True:
                    file.write(bytes(4096))
        except OSError as error:
            print("filled:", error)
        hub = rt.RealtimeHub(segment=segment)
        hub.create_channel("c", 256)
        sub = hub.channels.subscribe("c", "u")
        for size in (10, 1000, 10_000, 100_000):
            for _ in range(300):
                hub.publish("c", "x" * size)
        got = len(sub.drain())
        assert got + sub.missed_count == 1200, (got, sub.missed_count)
        import asyncio
        async def main():
            asyncio.get_running_loop().call_soon(hub.publish, "c", "to a loop")
            return await sub.recv_async(timeout=20)
        assert asyncio.run(main()) == "to a loop"
        stats = segment.stats()
        print({key: stats[key] for key in stats if "block" in key or key == "evicted_messages"})
        try:
            for number in range(100_000):
                hub.presence.track("room", f"client {number}")
        except rt.SegmentFull as error:
            print(error)
        assert segment.check() == []
        # A private segment is no file there, and has room all the same.
        rt.RealtimeHub().create_channel("c")
        """,
    )


def test_a_shm_without_inodes() -> None:
    """The segment's file and the bells of loops are files, too: the kernel's error, and nothing half made."""
    on_a_shm_of(
        "size=4m,nr_inodes=3",
        """
        import asyncio, errno
        segment = rt.Segment.open("one", size="1MiB")
        open("/dev/shm/the last", "w").close()
        hub = rt.RealtimeHub(segment=segment)
        hub.create_channel("c")
        sub = hub.channels.subscribe("c", "u")
        try:
            asyncio.run(sub.recv_async(timeout=1))
        except OSError as error:
            assert error.errno == errno.ENOSPC and "/dev/shm/hypern-rt" in str(error), error
        else:
            raise AssertionError("there was an inode")
        try:
            rt.Segment.open("two", size="1MiB")
        except OSError as error:
            assert error.errno == errno.ENOSPC and "/dev/shm/hypern-rt" in str(error), error
        else:
            raise AssertionError("there was an inode")
        hub.publish("c", "everything else goes on")
        assert sub.recv(timeout=10) == "everything else goes on"
        assert segment.stats()["waiters"] <= 1, "of the thread alone"
        os.unlink("/dev/shm/the last")
        hub.publish("c", "again")
        assert asyncio.run(sub.recv_async(timeout=10)) == "again"
        assert segment.check() == []
        """,
    )


def test_a_limit_of_the_size_of_files(name: str) -> None:
    source = f"""
import os, resource
import hypern_realtime_shm as rt
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
for make in (lambda: rt.Segment.open({name!r}, size="2MiB"), lambda: rt.Segment.private(size="2MiB")):
    try:
        make()
    except OSError as error:
        print(error)
    else:
        raise AssertionError("it is larger than a file may be")
assert not [path for path in os.listdir("/dev/shm") if {name!r} in path], "left behind"
rt.Segment.open({name!r}, size="1MiB").unlink()
"""
    run = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, timeout=60, check=False)
    assert run.returncode == 0, run.stderr
    assert run.stdout.count("File too large") == 2
    assert name in run.stdout


@dataclass
class Part:
    """A part of a segment: how one is added and taken away, and what the error says when there is no room."""

    add: Callable[[RealtimeHub, int], Any]
    remove: Callable[[RealtimeHub, int], Any]
    setting: str
    what: str
    options: dict[str, int]


def matcher(hub: RealtimeHub) -> TopicMatcher:
    made: TopicMatcher = hub.channels.topic_matcher  # type: ignore[assignment]
    return made


PARTS = {
    "members": Part(
        lambda hub, i: hub.presence.track("room", f"member {i}"),
        lambda hub, i: hub.presence.untrack("room", f"member {i}"),
        "size",
        "blocks",
        {},
    ),
    "rooms": Part(
        lambda hub, i: hub.presence.track(f"room {i}", "alice"),
        lambda hub, i: hub.presence.untrack(f"room {i}", "alice"),
        "channels",
        "",
        {"channels": 20},
    ),
    "clients": Part(
        lambda hub, i: hub.heartbeat.register(f"client {i}"),
        lambda hub, i: hub.heartbeat.unregister(f"client {i}"),
        "size",
        "blocks",
        {},
    ),
    "topic patterns": Part(
        lambda hub, i: matcher(hub).subscribe(f"topic {i}:*", "alice"),
        lambda hub, i: matcher(hub).unsubscribe(f"topic {i}:*", "alice"),
        "size",
        "blocks",
        {},
    ),
    "channels": Part(
        lambda hub, i: hub.channels.create_channel(f"channel {i}", 16),
        lambda hub, i: hub.channels.remove_channel(f"channel {i}"),
        "channels",
        "",
        {"channels": 20},
    ),
    "ring slots": Part(
        lambda hub, i: hub.channels.create_channel(f"channel {i}", 64),
        lambda hub, i: hub.channels.remove_channel(f"channel {i}"),
        "ring_slots",
        "ring",
        {"ring_slots": 1024},
    ),
    "registrations": Part(
        lambda hub, i: hub.channels.subscribe("there before", f"client {i}").close(),
        lambda hub, i: hub.channels.unsubscribe("there before", f"client {i}"),
        "size",
        "blocks",
        {},
    ),
}


@pytest.mark.parametrize("part", PARTS)
def test_a_part_that_is_full_is_usable_again_for_ever(name: str, part: str) -> None:
    chosen = PARTS[part]
    with Segment.open(name, size="512KiB", max_processes=8, **chosen.options) as segment:
        hub = RealtimeHub(segment=segment)
        hub.create_channel("there before")
        sub = hub.join("there before", "bob", {"name": "Bob"})
        hub.publish("there before", "x")
        base = segment.stats()
        for turn in range(5):
            count = 0
            with pytest.raises(SegmentFull) as full:  # noqa: PT012
                while count < 100_000:
                    chosen.add(hub, count)
                    count += 1
            error = full.value
            if turn == 0:
                print(f"{count} {part}, then: {error}")
                first = count
            assert error.setting == chosen.setting
            assert 0 < error.used <= error.capacity
            for words in (str(error.used), str(error.capacity), f"raise {error.setting}", chosen.what):
                assert words in str(error)
            assert isinstance(error, MemoryError)
            # How they lie in pages differs a little.
            assert abs(count - first) <= max(2, first // 20), "as many as the first time"
            # Who is there is as he was, and everything that takes no more room goes on.
            assert hub.presence.get("there before", "bob").metadata == {"name": "Bob"}  # type: ignore[union-attr]
            assert hub.presence.touch("there before", "bob")
            assert hub.heartbeat.pong("bob")
            assert hub.channels.has_channel("there before")
            # What some leave others may have, again and again. Pages that many come to and leave are emptier than those
            # that were filled at once.
            spare = max(1, count // 3)
            for number in range(spare):
                assert chosen.remove(hub, number)
            for number in range(300):
                hub.publish("there before", "goes on")
                sub.try_recv()
                chosen.add(hub, count + number)
                assert chosen.remove(hub, spare + number)
            for number in range(spare + 300, count + 300):
                assert chosen.remove(hub, number)
            sub.drain()
        assert segment.check() == []
        for key in ("ring_slots", "processes"):
            assert segment.stats()[key] == base[key]
        hub.channels.remove_channel("there before")
        sub.close()
        hub.disconnect("bob")
        hub.presence.flush_diff("there before")
        left = segment.stats()
        # Groups of members that became empty are kept for the next join.
        groups = left["channels"]
        used = {key: left[key] for key in ("small_blocks", "medium_blocks", "large_blocks")}
        assert sum(used.values()) <= 3 * groups + 3, (groups, used)
        segment.unlink()


def listens(hub: RealtimeHub, number: int) -> None:
    """A channel that is removed while somebody receives from it."""
    name = f"channel {number}"
    hub.channels.create_channel(name, 16)
    hub.publish(name, "received")
    hub.publish(name, "kept")
    listener(hub).try_recv()
    hub.channels.remove_channel(name)


@functools.cache
def listener(hub: RealtimeHub) -> Subscriber:
    return hub.channels.subscribe_pattern("#", "listener")


HELD = {
    **{part: PARTS[part] for part in PARTS if part not in ("channels", "ring slots")},
    "channels that are received from": Part(listens, lambda *_: None, "channels", "", {"channels": 20}),
    "their ring slots": Part(listens, lambda *_: None, "ring_slots", "ring", {"ring_slots": 1024}),
}


@pytest.mark.parametrize("part", HELD)
def test_what_the_dead_held_makes_room_at_once(name: str, part: str) -> None:
    """Who finds a segment full settles whoever is dead, before a keeper comes, and before anything is given up."""
    chosen = HELD[part]
    source = f"""
        from tests.test_full import HELD
        hub = rt.RealtimeHub(segment=rt.Segment.open({name!r}))
        count = 0
        try:
            while True:
                HELD[{part!r}].add(hub, count)
                count += 1
        except rt.SegmentFull as error:
            say(count, error.setting)
        hear()
    """
    options = {"max_processes": 8, **chosen.options}
    with Segment.open(name, size="512KiB", **options) as segment:
        hub = RealtimeHub(segment=segment)
        hub.create_channel("there before")
        for _ in range(3):
            with Process(source) as other:
                count, setting = other.hear().split()
                assert int(count) > 10
                assert setting == chosen.setting
                other.kill()
                if chosen.add is listens:
                    # Without a handle of its own, which would have the keeper started.
                    assert hub.channels.create_channel("another", 16)
                    hub.channels.remove_channel("another")
                else:
                    # More than fit into what the other had taken for one more, found too little, and given back.
                    for number in range(-10, 0):
                        chosen.add(hub, number)
                    for number in range(-10, 0):
                        chosen.remove(hub, number)
                assert segment.stats()["processes"] == 1
        assert segment.check() == []
        segment.unlink()


def test_as_many_loops_as_there_are_bells(name: str) -> None:
    with Segment.open(name, size="1MiB", waiters=64) as segment:
        hub = RealtimeHub(segment=segment)
        hub.create_channel("c")
        sub = hub.channels.subscribe("c", "u")
        for _ in range(3):
            lists = [_engine.Waitlist(sub) for _ in range(64)]
            with pytest.raises(SegmentFull, match="64 of 64 in use; raise waiters") as full:
                _engine.Waitlist(sub)
            assert (full.value.setting, full.value.used, full.value.capacity) == ("waiters", 64, 64)
            hub.publish("c", "x")
            assert sub.recv(timeout=10) == "x", "a thread beyond them looks by itself"
            with pytest.raises(TimeoutError):
                sub.recv(timeout=0.05)
            lists.pop()
            lists.append(_engine.Waitlist(sub))
            lists.clear()
        assert segment.stats()["waiters"] <= 1, "this thread's own"
        segment.unlink()


def test_slots_that_are_full_are_usable_again(name: str) -> None:
    """A process too many is refused; one that is killed makes room at once, however often."""
    source = f"""
import os, sys, signal
import hypern_realtime_shm as rt
segment = rt.Segment.open({name!r}, size="1MiB", max_processes=4)
hub = rt.RealtimeHub(segment=segment)
hub.create_channel("c")
refused = 0
children = []
def fork():
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            hub.publish("c", "x")
            os.write(write, b"attached")
        except rt.SegmentFull as error:
            os.write(write, str(error).encode())
        signal.pause()
    os.close(write)
    said = os.read(read, 1000)
    os.close(read)
    return pid, said
for turn in range(30):
    while len(children) < 3:
        pid, said = fork()
        assert said == b"attached", said
        children.append(pid)
    pid, said = fork()
    assert said == b"the process slots are full: 4 of 4 in use; raise max_processes", said
    refused += 1
    for gone in (pid, children.pop(turn % 3)):
        os.kill(gone, signal.SIGKILL)
        os.waitpid(gone, 0)
for pid in children:
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
segment.reap()
stats = segment.stats()
print(refused, stats["processes"], stats["reaped_processes"], segment.check())
segment.unlink()
"""
    run = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, timeout=100, check=False)
    assert run.stdout.split(maxsplit=3)[:2] == ["30", "1"], run.stdout + run.stderr
    assert run.stdout.strip().endswith("[]"), run.stdout


@pytest.mark.parametrize("size", [50, 1000, 10_000, 60_000])
def test_under_pressure_history_shrinks_and_nothing_is_lost_unaccounted(name: str, size: int) -> None:
    with Segment.open(name, size="1MiB") as segment:
        hub = RealtimeHub(segment=segment)
        rooms = [f"room {number}" for number in range(8)]
        for room in rooms:
            hub.create_channel(room, 512)
        subs = [hub.channels.subscribe(room, "u") for room in rooms]
        count = 8 * 600
        for number in range(count):
            assert hub.publish(rooms[number % 8], "x" * size) == 1
        stats = segment.stats()
        received = [len(sub.drain()) for sub in subs]
        missed = [sub.missed_count for sub in subs]
        print(f"{size} bytes: {stats['evicted_messages']} given up, {sum(received)} received, {sum(missed)} missed")
        assert [got + lost for got, lost in zip(received, missed, strict=True)] == [600] * 8
        # Of the largest there is room for about ten in all.
        assert all(received) or size > 10_000, "every channel keeps something"
        assert any(received)
        dropped = [hub.channels.get_stats(room).dropped_messages for room in rooms]
        assert dropped == missed
        assert segment.check() == []
        segment.unlink()


def test_shm_size_is_what_docker_gives() -> None:
    """Its default of 64 MiB takes the default segment, and a second one is refused with an error."""
    on_a_shm_of(
        "size=64m",
        """
        first = rt.Segment.open("one")
        try:
            rt.Segment.open("two")
        except rt.SegmentNoSpace as error:
            print(error)
        else:
            rt.Segment.open("two").unlink()
            try:
                rt.Segment.open("three", size="33MiB")
            except rt.SegmentNoSpace as error:
                print(error)
            else:
                raise AssertionError("97 MiB in 64")
        rt.RealtimeHub(segment=first).create_channel("c")
        """,
    )


LISTENER = """
rooms = rt.ChannelManager(segment=sys.argv[1]).subscribe_pattern("room:#", "logger")
say("listening")
hear()
heard = [message.data for message in iter(rooms.try_recv_message, None)]
assert len(set(heard)) == len(heard), heard
say(f"{len(heard)} {rooms.missed_count}")
"""


def test_rooms_come_and_go_behind_a_stopped_listener(name: str) -> None:
    with Segment.open(name, size="1MiB", channels=32), Process(LISTENER, name) as listener:
        assert listener.hear() == "listening"
        listener.popen.send_signal(signal.SIGSTOP)
        manager, published = ChannelManager(segment=name), 0
        for number in range(500):
            assert manager.create_channel(f"room:{number}", buffer_size=4)
            assert manager.publish(f"room:{number}", str(number)) == 1
            assert manager.remove_channel(f"room:{number}")
            published += 1
        listener.popen.send_signal(signal.SIGCONT)
        listener.say("")
        received, missed = map(int, listener.hear().split())
        print(f"{published} published in rooms that came and went, {received} received, {missed} missed")
        assert received + missed == published
        assert received > 0 < missed
        assert manager.create_channel("room:500")
        listener.end()


def test_a_join_without_room_undoes_what_it_did_and_no_more() -> None:
    segment = Segment.private(size="1MiB")
    hub = RealtimeHub(segment=segment)
    hub.create_channel("c")
    member = hub.join("c", "member", {"is": "there"})
    there = {f"there {n}": hub.channels.subscribe("c", f"there {n}") for n in range(30)}
    for who in there:
        hub.heartbeat.register(who)
    filler = HeartbeatMonitor(segment=segment, namespace="filler")
    fillers = itertools.count()

    kept: list[str] = []

    def leave_room_for(members: int) -> None:
        with contextlib.suppress(SegmentFull):
            for n in fillers:
                filler.register(str(n))
                kept.append(str(n))
        for _ in range(members):
            filler.unregister(kept.pop())

    def join(who: str) -> bool:
        try:
            hub.join("c", who).close()
        except SegmentFull:
            return False
        return True

    refused = {"new": 0, "there": 0}
    for n in range(400):
        new, before = f"new {n}", f"there {n % len(there)}"
        # It ends at each of the steps.
        leave_room_for(n % 7)
        if join(new):
            hub.leave("c", new)
        else:
            refused["new"] += 1
            assert new not in hub.channels.get_subscribers("c")
            assert hub.presence.get("c", new) is None
            assert not hub.heartbeat.is_alive(new)
        hub.presence.flush_diff("c")
        leave_room_for(n % 3)
        if join(before):
            hub.presence.untrack("c", before)
        else:
            refused["there"] += 1
            assert hub.presence.get("c", before) is None
        assert before in hub.channels.get_subscribers("c")
        assert not there[before].ended
        assert hub.heartbeat.is_alive(before)
        hub.presence.flush_diff("c")
    print("joins refused", refused)
    assert min(refused.values()) > 0
    assert not member.ended
    assert [info.client_id for info in hub.get_presence("c")] == ["member"]
    assert hub.heartbeat.is_alive("member")
    segment.close()
