"""Handles on patterns: every matching channel, those created later from their first message on."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest

from hypern_realtime_shm import ChannelManager, Segment, SubscriberClosed
from tests.procs import Process, eventually


def data(messages: list[Any]) -> list[Any]:
    return [(message.channel, message.data) for message in messages]


def drain(sub: Any) -> list[Any]:
    got = []
    while (message := sub.try_recv_message()) is not None:
        got.append(message)
    return got


def test_a_pattern_receives_from_what_is_there_and_from_what_comes() -> None:
    manager = ChannelManager()
    manager.create_channel("chat:a")
    manager.create_channel("other")
    manager.publish("chat:a", "before")
    sub = manager.subscribe_pattern("chat:*", "p")
    assert (sub.channel_name, sub.client_id, sub.last_event_id) == ("chat:*", "p", None)
    assert manager.publish("chat:a", "1") == 1
    assert manager.publish("other", "x") == 0
    manager.create_channel("chat:b")
    assert manager.publish("chat:b", "2") == 1, "counted from the first message on"
    manager.create_channel("chat:a:deep")
    assert manager.publish("chat:a:deep", "x") == 0
    assert sorted(data(drain(sub))) == [("chat:a", "1"), ("chat:b", "2")]
    assert sub.received_count == 2
    assert manager.get_subscribers("chat:a") == [], "registered nowhere"
    assert manager.publish_to_topic("chat:#", "to all") == 2, "three channels, two of them heard"
    assert sorted(data(drain(sub))) == [("chat:a", "to all"), ("chat:b", "to all")]
    sub.close()
    assert manager.publish("chat:a", "3") == 0
    assert manager.publish("chat:b", "3") == 0
    manager.create_channel("chat:c")
    assert manager.publish("chat:c", "3") == 0
    with pytest.raises(SubscriberClosed):
        sub.try_recv()
    assert repr(sub) == 'Subscriber(channel="chat:*", client="p", received=4, missed=0)'


def test_channels_that_come_and_go_between_two_looks_are_received() -> None:
    """Nobody looked while they were there; their messages were kept for the pattern all the same."""
    manager = ChannelManager()
    sub = manager.subscribe_pattern("#", "p")
    for number in range(20):
        manager.create_channel("c")
        assert manager.publish("c", f"{number}") == 1
        manager.remove_channel("c")
    manager.create_channel("c")
    manager.publish("c", "20")
    assert data(drain(sub)) == [("c", str(number)) for number in range(21)]
    manager.remove_channel("c")
    assert sub.try_recv() is None
    assert not sub.ended, "another channel may come"


def test_what_a_closed_pattern_never_saw_is_given_back(segment: Segment) -> None:
    manager = ChannelManager(segment=segment)
    before = segment.stats()
    for _ in range(2):
        sub = manager.subscribe_pattern("#", "p")
        for number in range(50):
            manager.create_channel(f"c{number % 7}")
            manager.publish(f"c{number % 7}", "x" * 5000)
            manager.remove_channel(f"c{number % 7}")
        sub.close()
        after = segment.stats()
        for what in ("channels", "ring_slots", "medium_blocks", "large_blocks"):
            assert after[what] == before[what], what


def test_removed_channels_drain_and_new_ones_of_the_name_begin_anew() -> None:
    manager = ChannelManager()
    manager.create_channel("c")
    sub = manager.subscribe_pattern("c", "p")
    manager.publish("c", "old 1")
    assert sub.try_recv() == "old 1"
    manager.publish("c", "old 2")
    manager.remove_channel("c")
    manager.create_channel("c")
    manager.publish("c", "new")
    assert drain_payloads(sub) == ["old 2", "new"], "what is left of the old one first"


def test_drain_gives_all_there_is_of_channels_never_seen_before() -> None:
    manager = ChannelManager()
    sub = manager.subscribe_pattern("#", "u")
    for room in range(3):
        manager.create_channel(f"room {room}", 16)
        for number in range(5):
            manager.publish(f"room {room}", f"{room} {number}")
    # And of more that are gone than are received from at once.
    for room in range(3, 30):
        manager.create_channel(f"room {room}", 16)
        for number in range(5):
            manager.publish(f"room {room}", f"{room} {number}")
        manager.remove_channel(f"room {room}")
    got = sub.drain()
    assert sorted(got) == sorted(f"{room} {number}" for room in range(30) for number in range(5))
    for room in range(30):
        assert [text for text in got if text.split()[0] == str(room)] == [f"{room} {number}" for number in range(5)]
    assert sub.drain() == []


def drain_payloads(sub: Any) -> list[Any]:
    return [message.data for message in drain(sub)]


def test_no_channel_starves_behind_a_busy_one() -> None:
    manager = ChannelManager()
    for name in ("busy", "quiet"):
        manager.create_channel(name)
    sub = manager.subscribe_pattern("*", "p")
    for number in range(100):
        manager.publish("busy", str(number))
    manager.publish("quiet", "here")
    first = [sub.recv_message().channel for _ in range(4)]
    assert "quiet" in first


def test_waiting_on_a_pattern() -> None:
    manager = ChannelManager()

    async def main() -> None:
        async with manager.subscribe_pattern("room:*", "p") as sub:
            with pytest.raises(TimeoutError):
                await sub.recv_async(timeout=0.01)
            loop = asyncio.get_running_loop()
            loop.call_later(0.02, manager.create_channel, "room:1")
            loop.call_later(0.04, manager.publish, "room:1", "first")
            message = await sub.recv_message_async(timeout=10)
            assert (message.channel, message.data) == ("room:1", "first")
            loop.call_later(0.02, manager.publish, "room:1", "second")
            assert await sub.recv_async(timeout=10) == "second"
            loop.call_later(0.02, sub.close)
            assert [message async for message in sub] == []

    asyncio.run(main())


CREATES = """
import random
manager = rt.ChannelManager(segment=sys.argv[1], default_buffer_size=64)
random.seed(sys.argv[2] + sys.argv[3])
say("ready")
hear()
published = {}
for round in range(150):
    name = f"room:{random.randrange(40)}"
    manager.create_channel(name)
    try:
        for _ in range(random.randrange(4)):
            heard = manager.publish(name, f"{sys.argv[3]} {published.get(name, 0)}")
            published[name] = published.get(name, 0) + 1
    except KeyError:
        pass
say(sum(published.values()))
hear()
"""


def test_channels_that_many_processes_create_are_received_from_their_first_message_on(segment: Segment) -> None:
    """Every process creates and publishes at once, while a pattern receives: received + missed = published, and of
    each publisher every channel's messages in order."""
    manager = ChannelManager(segment=segment)
    seed = str(random.random())
    with (
        Process(CREATES, segment.name, seed, "a") as a,
        Process(CREATES, segment.name, seed, "b") as b,
        Process(CREATES, segment.name, seed, "c") as c,
    ):
        everybody = (a, b, c)
        for process in everybody:
            assert process.hear() == "ready"
        sub = manager.subscribe_pattern("room:#", "p")
        for process in everybody:
            process.say("go")
        published = sum(int(process.hear()) for process in everybody)
        last: dict[tuple[str, str], int] = {}
        received = 0
        while (message := sub.try_recv_message()) is not None:
            who, number = message.data.split()
            assert int(number) > last.get((message.channel, who), -1)
            last[message.channel, who] = int(number)
            received += 1
        print(f"{received} received + {sub.missed_count} missed of {published} published")
        assert received + sub.missed_count == published


def test_a_killed_process_takes_its_patterns_with_it(segment: Segment) -> None:
    manager = ChannelManager(segment=segment)
    manager.create_channel("c:1")
    source = """
    manager = rt.ChannelManager(segment=sys.argv[1])
    sub = manager.subscribe_pattern("c:*", "p")
    say("ready")
    hear()
    """
    with Process(source, segment.name) as listening:
        assert listening.hear() == "ready"
        manager.create_channel("c:2")
        assert manager.publish("c:1", "x") == 1
        assert manager.publish("c:2", "x") == 1
        listening.kill()
        segment.start_keeper()
        eventually(lambda: manager.publish("c:1", "x") == 0 and manager.publish("c:2", "x") == 0, 5)
        manager.create_channel("c:3")
        assert manager.publish("c:3", "x") == 0
    with Process(source, segment.name) as listening:
        assert listening.hear() == "ready"
        assert manager.publish("c:3", "x") == 1
        listening.say("end")
        listening.end()
        eventually(lambda: manager.publish("c:3", "x") == 0, 5)


def test_a_pattern_in_a_forked_child(segment: Segment) -> None:
    source = """
    manager = rt.ChannelManager(segment=sys.argv[1])
    manager.create_channel("c:1")
    sub = manager.subscribe_pattern("c:*", "p")
    pid = os.fork()
    if pid == 0:
        assert sub.try_recv() is None
        say("child")
        for message in sub.messages():
            say(message.channel, message.data)
            if message.data == "y":
                os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
    say("parent")
    hear()
    """
    manager = ChannelManager(segment=segment)
    with Process(source, segment.name) as family:
        assert family.hear() == "child"
        assert manager.publish("c:1", "x") == 2
        assert family.hear() == "c:1 x"
        manager.create_channel("c:2")
        assert manager.publish("c:2", "y") == 2
        assert family.hear() == "c:2 y"
        assert family.hear() == "parent"
        family.end()
