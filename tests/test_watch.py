"""Watching presence: the whole list first, then every change once, for each watcher by itself."""

from __future__ import annotations

import asyncio
import random
import threading
from typing import Any

import pytest

from hypern_realtime_shm import PresenceDiff, PresenceTracker, RealtimeHub, Segment, SubscriberClosed
from tests.procs import Process, eventually


class Room:
    """What a watcher was told, added up; every change must make sense where it comes."""

    def __init__(self) -> None:
        self.members: dict[str, dict[str, str]] = {}
        self.changes = 0

    def tell(self, diff: PresenceDiff) -> None:
        for left in diff.leaves:
            del self.members[left]
        for joined in diff.joins:
            assert joined.client_id not in self.members, "joined twice"
            self.members[joined.client_id] = joined.metadata
        for updated in diff.updates:
            assert updated.client_id in self.members
            self.members[updated.client_id] = updated.metadata
        self.changes += diff.change_count()


def ids(diff: PresenceDiff | None) -> tuple[list[str], list[str], list[str]]:
    assert diff is not None
    return [info.client_id for info in diff.joins], diff.leaves, [info.client_id for info in diff.updates]


def test_the_list_first_then_changes() -> None:
    tracker = PresenceTracker()
    tracker.track("room", "ada", {"name": "Ada"})
    watch = tracker.watch("room")
    assert ids(watch.next()) == (["ada"], [], [])
    assert watch.try_next() is None
    tracker.track("room", "bob")
    tracker.update("room", "ada", {"name": "Ada L."})
    diff = watch.next()
    assert ids(diff) == (["bob"], [], ["ada"])
    assert diff.updates[0].metadata == {"name": "Ada L."}
    assert diff.change_count() == 2
    tracker.touch("room", "ada")
    tracker.track("elsewhere", "eve")
    tracker.flush_diff("room")
    assert watch.try_next() is None, "seen, elsewhere and flushed are no changes"
    tracker.untrack("room", "ada")
    assert ids(watch.next()) == ([], ["ada"], [])
    tracker.track("room", "cyd")
    tracker.untrack("room", "cyd")
    assert watch.try_next() is None, "came and went between two looks"
    tracker.untrack("room", "bob")
    tracker.track("room", "bob")
    assert ids(watch.next()) == ([], [], ["bob"]), "left and is back: another join time"
    tracker.clear()
    assert ids(watch.next()) == ([], ["bob"], [])
    tracker.track("room", "dan")
    assert ids(watch.next()) == (["dan"], [], [])
    watch.close()
    watch.close()
    assert watch.closed
    with pytest.raises(SubscriberClosed):
        watch.try_next()
    assert repr(watch) == 'PresenceWatch(channel="room")'
    assert tracker.flush_diff("room").change_count() == 1, "watching takes nothing from flush_diff"


def test_an_empty_channel_and_time_outs() -> None:
    tracker = PresenceTracker()
    watch = tracker.watch("nobody yet")
    assert ids(watch.next()) == ([], [], [])
    with pytest.raises(TimeoutError):
        watch.next(timeout=0.05)
    threading.Timer(0.05, tracker.track, ("nobody yet", "ada")).start()
    assert ids(watch.next(timeout=10)) == (["ada"], [], [])


def test_iteration_in_threads_and_loops() -> None:
    tracker = PresenceTracker()
    rooms = [Room(), Room()]

    def follow(watch: Any, room: Room) -> None:
        for diff in watch:
            room.tell(diff)

    watch = tracker.watch("room")
    thread = threading.Thread(target=follow, args=(watch, rooms[0]))
    thread.start()

    async def main() -> None:
        async with tracker.watch("room") as other:

            async def follow_async() -> None:
                async for diff in other:
                    rooms[1].tell(diff)

            task = asyncio.create_task(follow_async())
            for number in range(50):
                tracker.track("room", f"c{number % 10}", {"n": str(number)})
                await asyncio.sleep(0.001)
                if number % 3 == 0:
                    tracker.untrack("room", f"c{number % 7}")
            expected = {info.client_id: info.metadata for info in tracker.list("room")}
            while rooms[0].members != expected or rooms[1].members != expected:
                await asyncio.sleep(0.005)
            other.close()
            await asyncio.wait_for(task, 10)
            with pytest.raises(SubscriberClosed):
                await other.next_async()
        empty = tracker.watch("elsewhere")
        assert not (await empty.next_async(timeout=0)).has_changes()
        with pytest.raises(TimeoutError):
            await empty.next_async(timeout=0.01)

    asyncio.run(main())
    watch.close()
    thread.join(10)
    assert not thread.is_alive()


CROWD = """
import random
tracker = rt.PresenceTracker(segment=sys.argv[1])
random.seed(sys.argv[2] + sys.argv[3])
say("ready")
while True:
    client = f"c{random.randrange(200)}"
    if random.random() < 0.5:
        tracker.track("room", client, {"by": sys.argv[3]})
    else:
        tracker.untrack("room", client)
"""


def test_watchers_agree_with_the_list_whoever_is_killed(segment: Segment) -> None:
    """Three processes let 200 clients come and go, and are killed in the middle of it; two watchers, one slow, add
    up what they are told. At the end all have the same room."""
    tracker = PresenceTracker(segment=segment)
    segment.start_keeper()
    rooms = [Room(), Room()]
    watches = [tracker.watch("room") for _ in rooms]
    seed = str(random.random())
    for generation in range(4):
        crowd = [Process(CROWD, segment.name, seed, f"{generation}{who}") for who in "abc"]
        try:
            for process in crowd:
                assert process.hear() == "ready"
            for number in range(300):
                rooms[0].tell(watches[0].next(timeout=20))
                if number % 25 == 0:
                    rooms[1].tell(watches[1].next(timeout=20))
        finally:
            for process in crowd:
                process.kill()
                process.__exit__()

    def agree() -> bool:
        for room, watch in zip(rooms, watches, strict=True):
            while (diff := watch.try_next()) is not None:
                room.tell(diff)
        listed = {info.client_id: info.metadata for info in tracker.list("room")}
        return listed == rooms[0].members == rooms[1].members

    eventually(lambda: segment.stats()["processes"] == 1, 10)
    eventually(agree, 10)
    print(f"{rooms[0].changes} and {rooms[1].changes} changes told; {len(rooms[0].members)} left")
    assert rooms[0].changes > rooms[1].changes > 0
    assert rooms[0].members == {}, "what the killed alone had has left"


def test_a_watcher_hears_of_what_another_process_does(segment: Segment) -> None:
    hub = RealtimeHub(segment=segment)
    hub.create_channel("room")
    source = """
    import asyncio
    tracker = rt.PresenceTracker(segment=sys.argv[1])
    async def main():
        async for diff in tracker.watch("room"):
            say("+".join(info.client_id for info in diff.joins), "-".join(diff.leaves), "seen")
    asyncio.run(main())
    """
    with Process(source, segment.name) as watching:
        assert watching.hear() == "seen"
        for number in range(200):
            hub.join("room", f"c{number}")
            assert watching.hear() == f"c{number}  seen"
            hub.disconnect(f"c{number}")
            assert watching.hear() == f"c{number} seen"
