"""Sharing across processes: spawned, forked, killed, stopped, ended in order."""

from __future__ import annotations

import multiprocessing
import multiprocessing.forkserver
import os
import signal
import threading
import time
from pathlib import Path

import pytest

from hypern_realtime_shm import RealtimeHub, Segment, SegmentNotFound
from tests.procs import Process, eventually

JOIN = """
hub = rt.RealtimeHub(segment=sys.argv[1])
hub.create_channel("room")
subs = [hub.join("room", client) for client in sys.argv[2:]]
say("joined")
hear()
"""


def test_every_message_reaches_every_process_once_and_in_order(segment: Segment) -> None:
    source = """
    manager = rt.ChannelManager(segment=sys.argv[1])
    sub = manager.subscribe("c", sys.argv[2])
    say("ready")
    hear()
    for i in range(2000):
        heard = manager.publish("c", f"{sys.argv[2]} {i}")
        assert heard == 3, heard
    say("published")
    got = []
    while len(got) + sub.missed_count < 6000:
        got += sub.drain()
    assert sub.missed_count == 0
    for who in "abc":
        assert [m for m in got if m[0] == who] == [f"{who} {i}" for i in range(2000)]
    say(hash(tuple(got)))
    hear()
    """
    RealtimeHub(segment=segment).channels.create_channel("c", 8192)
    env = {"PYTHONHASHSEED": "1"}
    with (
        Process(source, segment.name, "a", env=env) as a,
        Process(source, segment.name, "b", env=env) as b,
        Process(source, segment.name, "c", env=env) as c,
    ):
        for process in (a, b, c):
            assert process.hear() == "ready"
        for process in (a, b, c):
            process.say("go")
        for process in (a, b, c):
            assert process.hear() == "published"
        orders = {process.hear() for process in (a, b, c)}
        assert len(orders) == 1, "processes saw different orders"


def test_many_processes_create_one_segment_at_once(name: str) -> None:
    source = """
    hear()
    manager = rt.ChannelManager(segment=rt.Segment.open(sys.argv[1], size="4MiB"))
    assert manager.create_channel(sys.argv[2])
    say(manager.create_channel("same"))
    hear()
    """
    processes = [Process(source, name, f"c{i}") for i in range(6)]
    try:
        for process in processes:
            process.say("go")
        created = [process.hear() for process in processes]
        assert created.count("True") == 1
        with Segment.attach(name) as segment:
            assert len(RealtimeHub(segment=segment).channels.list_channels()) == 7
    finally:
        for process in processes:
            process.__exit__()


def test_a_killed_workers_members_leave_within_a_second_and_others_stay(segment: Segment) -> None:
    hub = RealtimeHub(segment=segment)
    with Process(JOIN, segment.name, "alice", "both") as dying, Process(JOIN, segment.name, "bob", "both") as living:
        assert dying.hear() == living.hear() == "joined"
        assert hub.presence.count("room") == 3
        assert len(hub.get_presence_diff("room")["joins"]) == 3
        assert hub.publish("room", "x") == 4
        dying.kill()
        killed = time.monotonic()
        eventually(lambda: hub.presence.count("room") == 2)
        print(f"left after {time.monotonic() - killed:.3f} s")
        assert sorted(info.client_id for info in hub.get_presence("room")) == ["bob", "both"]
        assert hub.get_presence_diff("room") == {"joins": [], "leaves": ["alice"]}
        assert sorted(hub.heartbeat.client_ids()) == ["bob", "both"]
        assert sorted(hub.channels.get_subscribers("room")) == ["bob", "both"]
        assert hub.publish("room", "x") == 2
        living.end()


def test_a_stopped_worker_keeps_its_members_and_blocks_nobody(segment: Segment) -> None:
    hub = RealtimeHub(segment=segment)
    with Process(JOIN, segment.name, "alice") as worker:
        assert worker.hear() == "joined"
        worker.popen.send_signal(signal.SIGSTOP)
        time.sleep(1.5)
        assert segment.reap() == 0
        assert hub.publish("room", "x") == 1
        assert hub.presence.count("room") == 1
        hub.presence.track("room", "bob")
        worker.popen.send_signal(signal.SIGCONT)
        worker.end()


def test_metadata_told_by_two_workers_are_those_of_the_last(segment: Segment) -> None:
    # As long as one owner more, and ending alike: what the second worker tells is another record all the same.
    first, second = {"": "", "a": "b"}, {"a": "b"}
    source = """
    presence = rt.PresenceTracker(segment=sys.argv[1])
    presence.track("room", "alice", {"": "", "a": "b"})
    say("tracked")
    hear()
    """
    hub = RealtimeHub(segment=segment)
    with Process(source, segment.name) as worker:
        assert worker.hear() == "tracked"
        assert hub.presence.get("room", "alice").metadata == first
        hub.presence.track("room", "alice", second)
        assert hub.presence.get("room", "alice").metadata == second
        worker.kill()
        segment.reap()
    # Ours, too, so there without the worker.
    assert hub.presence.get("room", "alice").metadata == second


def test_a_clean_exit_leaves_what_the_application_left(segment: Segment) -> None:
    hub = RealtimeHub(segment=segment)
    with Process(JOIN, segment.name, "alice") as worker:
        assert worker.hear() == "joined"
        worker.end()
    assert segment.reap() == 0
    assert hub.presence.count("room") == 1
    assert hub.heartbeat.client_ids() == ["alice"]
    assert hub.channels.get_subscribers("room") == []
    assert hub.publish("room", "x") == 0
    # Ownerless now: whoever asks first adopts it; an explicit leave removes it whole.
    hub.leave("room", "alice")
    assert hub.presence.count("room") == hub.heartbeat.client_count() == 0


def child_of_multiprocessing(name: str) -> None:
    hub = RealtimeHub(segment=name)
    hub.create_channel("room")
    hub.join("room", "alice")


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded")
def test_a_multiprocessing_child_ends_in_order(segment: Segment, method: str) -> None:
    hub = RealtimeHub(segment=segment)
    process = multiprocessing.get_context(method).Process(target=child_of_multiprocessing, args=(segment.name,))
    process.start()
    process.join(60)
    if method == "forkserver":
        # It would serve as long as this process lives, and be left behind in the eyes of the leak check.
        multiprocessing.forkserver._forkserver._stop()  # type: ignore[attr-defined]
    assert process.exitcode == 0
    assert segment.reap() == 0, "the child looked crashed"
    assert hub.presence.count("room") == 1
    assert hub.channels.get_subscribers("room") == []


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded")
@pytest.mark.parametrize("private", [False, True])
def test_handles_made_before_a_fork_work_in_the_child(segment: Segment, private: bool) -> None:
    hub = RealtimeHub(segment=None if private else segment)
    hub.create_channel("room")
    sub = hub.join("room", "parent")
    hub.publish("room", "before")
    pid = os.fork()
    if pid == 0:
        ok = sub.drain() == ["before"]
        joined = hub.join("room", "child")
        ok = ok and hub.publish("room", "from the child") == 3
        ok = ok and joined.drain() == ["from the child"]
        ok = ok and sub.drain() == ["from the child"]
        os._exit(0 if ok else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert sub.drain() == ["before", "from the child"]
    # os._exit is no clean exit: what the child alone owned leaves.
    eventually(lambda: hub.presence.count("room") == 1)
    assert [info.client_id for info in hub.get_presence("room")] == ["parent"]
    assert hub.publish("room", "x") == 1


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded")
def test_threads_of_a_forked_child_take_one_slot(segment: Segment) -> None:
    hub = RealtimeHub(segment=segment)
    hub.create_channel("room")
    for _ in range(10):
        pid = os.fork()
        if pid == 0:
            barrier = threading.Barrier(8)

            def use(barrier: threading.Barrier = barrier) -> None:
                barrier.wait()
                hub.publish("room", "x")

            threads = [threading.Thread(target=use) for _ in range(8)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            os._exit(segment.stats()["processes"])
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 2, "the parent's slot and the child's"
        segment.reap()


def test_an_idle_forked_helper_does_not_keep_a_killed_worker_alive(segment: Segment) -> None:
    source = """
    hub = rt.RealtimeHub(segment=sys.argv[1])
    hub.create_channel("room")
    hub.presence.track("room", "alice")
    import warnings; warnings.simplefilter("ignore")
    helper = os.fork()
    if helper == 0:
        time.sleep(60)
        os._exit(0)
    say(helper)
    hear()
    """
    hub = RealtimeHub(segment=segment)
    hub.presence.track("room", "bob")
    with Process(source, segment.name) as worker:
        helper = int(worker.hear())
        try:
            assert hub.presence.count("room") == 2
            worker.kill()
            os.kill(helper, 0)
            eventually(lambda: hub.presence.count("room") == 1)
        finally:
            os.kill(helper, signal.SIGKILL)


def test_the_name_goes_with_the_last_process(name: str) -> None:
    source = """
    segment = rt.Segment.open(sys.argv[1], size="1MiB", unlink_when_unused=True)
    rt.RealtimeHub(segment=segment).create_channel("room")
    say("attached")
    hear()
    """

    def exists() -> bool:
        return any(name in path.name for path in Path("/dev/shm").iterdir())

    with Process(source, name) as first, Process(source, name) as second:
        assert first.hear() == second.hear() == "attached"
        first.end()
        assert exists()
        second.end()
    assert not exists()
    with pytest.raises(SegmentNotFound):
        Segment.attach(name)


def test_a_segment_that_everybody_left_keeps_channels_but_no_connections(segment: Segment) -> None:
    assert segment.name is not None
    with Process(JOIN, segment.name, "alice") as worker:
        assert worker.hear() == "joined"
        RealtimeHub(segment=segment).publish("room", "kept")
        segment.close()
        worker.kill()
    with Segment.attach(segment.name) as again:
        hub = RealtimeHub(segment=again)
        assert hub.channels.get_stats("room").total_messages == 1
        assert hub.presence.count("room") == hub.heartbeat.client_count() == hub.presence.total_clients() == 0
        assert hub.channels.get_subscribers("room") == []


def test_a_timeout_is_reported_by_one_worker_only(segment: Segment) -> None:
    source = """
    config = rt.HeartbeatConfig(interval_secs=60, timeout_secs=0.05, max_retries=1)
    monitor = rt.HeartbeatMonitor(config, segment=sys.argv[1])
    hear()
    say(len(monitor.check_timeouts()), len(monitor.evict_dead()))
    hear()
    """
    hub = RealtimeHub(segment=segment)
    with Process(source, segment.name) as a, Process(source, segment.name) as b, Process(source, segment.name) as c:
        for i in range(300):
            hub.heartbeat.register(f"client {i}")
        time.sleep(0.1)
        for process in (a, b, c):
            process.say("go")
        counts = [[int(word) for word in process.hear().split()] for process in (a, b, c)]
    assert sum(reported for reported, _ in counts) <= 300
    assert sum(evicted for _, evicted in counts) == 300


def test_a_flushed_diff_goes_to_one_worker(segment: Segment) -> None:
    source = """
    tracker = rt.PresenceTracker(segment=sys.argv[1])
    hear()
    taken = 0
    while True:
        taken += len(tracker.flush_diff("room").joins)
        if tracker.count("end"):
            say(taken + len(tracker.flush_diff("room").joins))
            break
    hear()
    """
    hub = RealtimeHub(segment=segment)
    with Process(source, segment.name) as a, Process(source, segment.name) as b:
        a.say("go")
        b.say("go")
        for i in range(2000):
            hub.presence.track("room", f"client {i}")
        hub.presence.track("end", "end")
        assert int(a.hear()) + int(b.hear()) == 2000
