"""Resuming after an id: no gap and no double at the seam with live messages, on whatever worker."""

from __future__ import annotations

import random
from typing import Any

import pytest

from hypern_realtime_shm import ChannelManager, RealtimeHub, Segment, UnknownChannel
from tests.procs import Process


@pytest.fixture
def manager() -> ChannelManager:
    made = ChannelManager(default_buffer_size=8)
    made.create_channel("c")
    return made


def ids(manager: ChannelManager) -> list[str]:
    return [message.id for message in manager.replay("c")]


def test_replay_gives_what_is_there(manager: ChannelManager) -> None:
    assert manager.replay("c") == []
    for number in range(1, 6):
        manager.publish("c", str(number))
    assert [message.data for message in manager.replay("c")] == list("12345")
    known = ids(manager)
    assert [known_id.rpartition("-")[2] for known_id in known] == list("12345")
    assert [message.data for message in manager.replay("c", known[1])] == list("345")
    assert [message.data for message in manager.replay("c", known[1], limit=2)] == list("34"), "the first after it"
    assert [message.data for message in manager.replay("c", limit=2)] == list("45"), "the last"
    assert manager.replay("c", known[4]) == []
    assert manager.replay("c", limit=0) == []
    for number in range(6, 21):
        manager.publish("c", str(number))
    assert [message.data for message in manager.replay("c", known[0])] == [str(number) for number in range(13, 21)]
    assert manager.publish("c", "nobody subscribed") == 0
    with pytest.raises(UnknownChannel):
        manager.replay("no such")
    with pytest.raises(ValueError, match="limit is -1; it must be between 0 and"):
        manager.replay("c", limit=-1)


def test_subscribing_after_an_id(manager: ChannelManager) -> None:
    for number in range(1, 6):
        manager.publish("c", str(number))
    sub = manager.subscribe("c", "u", last_event_id=ids(manager)[2])
    assert sub.last_event_id == ids(manager)[2]
    manager.publish("c", "6")
    assert sub.drain() == ["4", "5", "6"]
    assert (sub.missed_count, sub.unknown_count) == (0, 0)
    at_head = manager.subscribe("c", "u", last_event_id=sub.last_event_id)
    assert at_head.try_recv() is None
    fresh = manager.subscribe("c", "u")
    assert fresh.last_event_id == sub.last_event_id, "the id of the head: to come back to before the first message"
    manager.publish("c", "7")
    again = manager.subscribe("c", "u", last_event_id=fresh.last_event_id)
    assert again.drain() == ["7"]


def test_an_id_that_was_overwritten_says_how_many_are_gone(manager: ChannelManager) -> None:
    manager.publish("c", "1")
    first = ids(manager)[0]
    for number in range(2, 31):
        manager.publish("c", str(number))
    sub = manager.subscribe("c", "u", last_event_id=first)
    assert sub.missed_count == 21
    assert sub.drain() == [str(number) for number in range(23, 31)]
    assert sub.received_count + sub.missed_count == 29
    assert sub.unknown_count == 0


def test_an_id_that_means_nothing_begins_at_the_oldest(manager: ChannelManager) -> None:
    manager.publish("c", "old")
    before = ids(manager)[0]
    manager.remove_channel("c")
    manager.create_channel("c")
    for number in range(3):
        manager.publish("c", str(number))
    epoch = ids(manager)[0].rpartition("-")[0]
    for garbage in (
        before, "", "-", "x", "0-0", "1", f"{epoch}-", f"{epoch}--1", f"{epoch}-4", f"{epoch}-99999999999999999999",
        f"{epoch}-01", f"{epoch.upper()}-1x", f" {epoch}-1", f"{epoch}-1\n", "\0", "a" * 10_000, "ä-1", f"+{epoch}-1",
        "\udcff-1",
    ):  # fmt: skip
        sub = manager.subscribe("c", "u", last_event_id=garbage)
        assert sub.drain() == ["0", "1", "2"], garbage
        assert (sub.unknown_count, sub.missed_count) == (1, 0), garbage
        assert [message.data for message in manager.replay("c", garbage)] == ["0", "1", "2"]


def test_other_segments_and_channels_have_other_epochs() -> None:
    epochs = set()
    for _ in range(3):
        manager = ChannelManager()
        for name in ("a", "b"):
            manager.create_channel(name)
            epochs.add(manager.subscribe(name, "u").last_event_id)
    assert len(epochs) == 6


def test_a_hub_joins_after_an_id() -> None:
    hub = RealtimeHub()
    hub.create_channel("c")
    sub = hub.join("c", "ada")
    hub.publish("c", "1")
    hub.publish("c", "2")
    first = sub.recv_message().id
    hub.leave("c", "ada")
    again = hub.join("c", "ada", {"name": "Ada"}, last_event_id=first)
    assert again.drain() == ["2"]
    assert hub.heartbeat.get_last_event_id("ada") == first
    assert hub.join("c", "bob", last_event_id="garbage").drain() == ["1", "2"]
    assert hub.heartbeat.get_last_event_id("bob") not in ("garbage", None)


FIRE = """
manager = rt.ChannelManager(segment=sys.argv[1])
say("ready")
hear()
number = 0
import select
while not select.select([sys.stdin], [], [], 0)[0]:
    manager.publish("c", f"{sys.argv[2]} {number}")
    number += 1
    if number % 64 == 0:
        time.sleep(0.0005)
say(number)
hear()
"""

RECONNECTS = """
import random
hub = rt.RealtimeHub(segment=sys.argv[1])
random.seed(sys.argv[2])
say("ready")
while (last := hear()) != "end":
    # One connection: what came after the id, then live messages, then gone in the middle of them.
    sub = hub.join("c", "ada", last_event_id=None if last == "none" else last)
    assert sub.unknown_count == 0
    got = []
    for _ in range(random.randrange(1, 40)):
        message = sub.recv_message(timeout=20)
        got.append(message.data)
    say(sub.missed_count, sub.last_event_id, ",".join(got))
    sub.close()
"""


def test_a_thousand_reconnects_across_workers_under_fire(segment: Segment) -> None:
    """Two publishers without pause, three workers; a client connects to any of them 1,000 times with the id it has
    seen last. Whole: its messages and the missed ones are all there are, each once and in order."""
    manager = ChannelManager(segment=segment)
    manager.create_channel("c", 1 << 13)
    workers = [Process(RECONNECTS, segment.name, str(random.random())) for _ in range(3)]
    publishers = [Process(FIRE, segment.name, who) for who in "xy"]
    last_seen: dict[str, int] = {}
    received = missed = 0
    try:
        for process in [*workers, *publishers]:
            assert process.hear() == "ready"
        first = last = manager.subscribe("c", "test").last_event_id
        for process in publishers:
            process.say("go")
        for _ in range(1000):
            worker = random.choice(workers)
            worker.say(str(last))
            lost, last, got = worker.hear().split(" ", 2)
            missed += int(lost)
            messages = got.split(",")
            received += len(messages)
            for message in messages:
                who, number = message.split()
                if not int(lost):
                    assert int(number) == last_seen.get(who, -1) + 1 or missed, f"a gap before {message}"
                assert int(number) > last_seen.get(who, -1), f"{message} twice, or out of order"
                last_seen[who] = int(number)
        sequence = int(last.rpartition("-")[2])
        print(f"1,000 reconnects: {received} received + {missed} missed = {sequence}")
        assert received + missed == sequence
        assert first is not None
        assert first.endswith("-0")
    finally:
        processes: list[Any] = [*workers, *publishers]
        for process in processes:
            process.__exit__()
