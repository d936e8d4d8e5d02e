"""Publishing again and again by the very object that names the channel: it is remembered, and never wrongly."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from typing import Any

import pytest

import hypern_realtime_shm as rt
from hypern_realtime_shm import ChannelManager, RealtimeHub, Segment

OFTEN = 20  # more than it takes until a name is remembered
NAME = "a room that everybody publishes to"

Publish = Callable[[Any, str, str], int]
WAYS: dict[str, tuple[Callable[..., Any], Publish]] = {
    "publish": (ChannelManager, lambda manager, name, text: manager.publish(name, text)),
    "publish_json": (ChannelManager, lambda manager, name, text: manager.publish_json(name, text)),
    "hub.publish": (RealtimeHub, lambda hub, name, text: hub.publish(name, text)),
    "hub.publish_json": (RealtimeHub, lambda hub, name, text: hub.publish_json(name, text)),
}


def remembered(manager: ChannelManager, name: str = NAME) -> None:
    """Publishes until the name is remembered."""
    for number in range(OFTEN):
        manager.publish(name, f"before {number}")


@pytest.fixture
def manager(segment: Segment) -> ChannelManager:
    made = ChannelManager(64, segment=segment)
    made.create_channel(NAME)
    return made


@pytest.mark.parametrize("way", WAYS)
def test_each_way_delivers_all(segment: Segment, way: str) -> None:
    make, publish = WAYS[way]
    it = make(64, segment=segment)
    it.create_channel(NAME)
    sub = ChannelManager(64, segment=segment).subscribe(NAME, "client")
    # What is long takes another way, and comes in between.
    sent = [f"{number} " + "x" * (5000 * (number % 3 == 2)) for number in range(2 * OFTEN)]
    assert [publish(it, NAME, text) for text in sent] == [1] * len(sent)
    assert sub.drain() == ([f'"{text}"' for text in sent] if way.endswith("json") else sent)


def test_a_channel_made_anew_is_found(manager: ChannelManager) -> None:
    remembered(manager)
    for _ in range(3):
        manager.remove_channel(NAME)
        with pytest.raises(KeyError, match="a room that everybody publishes to"):
            manager.publish(NAME, "nobody")
        manager.create_channel(NAME)
        sub = manager.subscribe(NAME, "client")
        assert manager.publish(NAME, "somebody") == 1
        assert sub.drain() == ["somebody"]
        remembered(manager)


def test_who_hears_it_is_counted_anew(manager: ChannelManager) -> None:
    remembered(manager)
    subs = []
    for count in range(1, 6):
        subs.append(manager.subscribe(NAME, f"client {count}"))
        assert [manager.publish(NAME, "x") for _ in range(3)] == [count] * 3
    while subs:
        del subs[-1]
        assert manager.publish(NAME, "x") == len(subs)


def test_one_name_in_two_worlds(segment: Segment) -> None:
    managers = [ChannelManager(256, segment=segment, namespace=namespace) for namespace in ("one", "two")]
    for manager in managers:
        manager.create_channel(NAME)
    subs = [manager.subscribe(NAME, "client") for manager in managers]
    turns = [0] * OFTEN + [1] * OFTEN + [0, 1] * OFTEN
    for number, turn in enumerate(turns):
        assert managers[turn].publish(NAME, str(number)) == 1
    for turn, sub in enumerate(subs):
        assert sub.drain() == [str(number) for number, which in enumerate(turns) if which == turn]


def test_equal_names_are_one_channel(manager: ChannelManager) -> None:
    sub = manager.subscribe(NAME, "client")
    names = [NAME, "".join(list(NAME)), NAME.encode().decode()]
    assert len({id(name) for name in names}) == 3
    for number in range(3 * OFTEN):
        manager.publish(names[number // OFTEN], str(number))
    assert sub.drain() == [str(number) for number in range(3 * OFTEN)]


def test_names_made_for_one_call(manager: ChannelManager) -> None:
    rooms = [f"room {number}" for number in range(4)]
    for room in rooms:
        manager.create_channel(room)
    subs = [manager.subscribe(room, "client") for room in rooms]
    for number in range(8 * OFTEN):
        assert manager.publish(f"room {number % 4 if number % 3 else 0}", str(number)) == 1
    for which, sub in enumerate(subs):
        here = [number for number in range(8 * OFTEN) if (number % 4 if number % 3 else 0) == which]
        assert sub.drain() == [str(number) for number in here][-64:]


def test_a_remembered_name_is_held_once_and_let_go(manager: ChannelManager) -> None:
    one, other = "".join(["one", " name"]), "".join(["other", " name"])
    for name in (one, other):
        manager.create_channel(name)
    before = sys.getrefcount(one)
    remembered(manager, one)
    assert sys.getrefcount(one) == before + 1
    remembered(manager, other)
    assert sys.getrefcount(one) == before


def test_the_name_of_no_channel_is_let_go(manager: ChannelManager) -> None:
    name = "".join(["one", " name"])
    manager.create_channel(name)
    before = sys.getrefcount(name)
    remembered(manager, name)
    manager.remove_channel(name)
    with pytest.raises(KeyError):
        manager.publish(name, "nobody")
    assert sys.getrefcount(name) == before


def test_a_name_of_another_class_is_not_kept(manager: ChannelManager) -> None:
    sub = manager.subscribe(NAME, "client")

    class Parting(str):
        def __del__(self) -> None:
            manager.publish(NAME, "farewell")

    name = Parting(NAME)
    remembered(manager, name)
    del name
    assert sub.drain() == [*(f"before {number}" for number in range(OFTEN)), "farewell"]


def test_threads_remember_each_for_itself(manager: ChannelManager) -> None:
    remembered(manager)
    sub = manager.subscribe(NAME, "client")
    threads = [threading.Thread(target=remembered, args=(manager,)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert sorted(sub.drain()) == sorted(f"before {number}" for number in range(OFTEN) for _ in threads)


def in_a_child(use: Callable[[], bool]) -> None:
    child = os.fork()
    if child == 0:
        code = 2
        try:
            code = 0 if use() else 1
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_a_forked_child_publishes_by_what_it_inherited(manager: ChannelManager) -> None:
    remembered(manager)
    sub = manager.subscribe(NAME, "client")
    in_a_child(lambda: manager.publish(NAME, "from the child") == 1)
    manager.publish(NAME, "from the parent")
    assert sub.drain() == ["from the child", "from the parent"]


def test_a_channel_that_a_child_made_anew_is_found(manager: ChannelManager) -> None:
    remembered(manager)
    in_a_child(lambda: manager.remove_channel(NAME) and manager.create_channel(NAME))
    sub = manager.subscribe(NAME, "client")
    assert manager.publish(NAME, "to the new one") == 1
    assert sub.drain() == ["to the new one"]


def test_segments_of_one_name_one_after_the_other(name: str) -> None:
    for turn in range(3):
        with Segment.open(name, size="2MiB") as segment:
            manager = ChannelManager(64, segment=segment)
            manager.create_channel(NAME)
            sub = manager.subscribe(NAME, "client")
            remembered(manager)
            assert manager.publish(NAME, str(turn)) == 1
            assert sub.drain()[-1] == str(turn)
            segment.unlink()


def test_a_closed_segment_is_not_published_to(manager: ChannelManager, segment: Segment) -> None:
    remembered(manager)
    segment.close()
    with pytest.raises(rt.SegmentClosed):
        manager.publish(NAME, "late")


@pytest.mark.parametrize("wrong", [1, None, b"bytes", ["list"]])
def test_what_is_no_name_is_refused(manager: ChannelManager, wrong: Any) -> None:
    remembered(manager)
    with pytest.raises(TypeError, match="channel_name must be a str"):
        manager.publish(wrong, "text")
    assert manager.get_stats(NAME).total_messages == OFTEN
