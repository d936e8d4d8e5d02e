"""What an operator is told, under one logger's name: attach, death, keeper, full, lag."""

from __future__ import annotations

import json
import logging
import textwrap
import threading
import time
from typing import Any

import pytest

from hypern_realtime_shm import ChannelManager, RealtimeHub, Segment

from .procs import Process, eventually

# Prints each record of ours as a line of JSON.
LOGGER = """
import json, logging
class Lines(logging.Handler):
    def emit(self, record):
        told = {key: getattr(record, key) for key in ("event", "segment", "setting") if hasattr(record, key)}
        say(json.dumps({"level": record.levelname, "logger": record.name, "text": record.getMessage(), **told}))
logging.getLogger("hypern_realtime_shm").addHandler(Lines())
logging.getLogger("hypern_realtime_shm").setLevel(logging.INFO)
"""


def logged(source: str) -> str:
    """The source, with its log on the output."""
    return LOGGER + textwrap.dedent(source)


def told(process: Process, event: str) -> dict[str, Any]:
    """The next record of this event."""
    while True:
        line = process.hear()
        if line.startswith("{"):
            record: dict[str, Any] = json.loads(line)
            assert record["logger"] == "hypern_realtime_shm"
            if record["event"] == event:
                return record


def test_who_attaches_dies_and_leaves_is_told(name: str) -> None:
    watcher = logged("""
    segment = rt.Segment.open(sys.argv[1], size="1MiB")
    segment.start_keeper()
    hear()
    segment.close()
    """)
    victim = """
    hub = rt.RealtimeHub(segment=sys.argv[1])
    hub.create_channel("c")
    subs = [hub.join("c", client) for client in "abc"]
    say("joined")
    hear()
    """
    with Process(watcher, name) as process:
        record = told(process, "attached")
        assert (record["level"], record["segment"]) == ("INFO", name)
        assert str(process.popen.pid) in record["text"]
        assert str(process.popen.pid) in told(process, "keeper")["text"]
        with Process(victim, name) as other:
            assert other.hear() == "joined"
            other.kill()
            record = told(process, "reaped")
        assert record["level"] == "WARNING"
        assert str(other.popen.pid) in record["text"]
        assert "3 handles, 3 subscriptions, 3 members, 3 heartbeat clients" in record["text"]
        process.say("")
        assert told(process, "detached")["level"] == "INFO"
        process.end()


def test_a_death_is_told_once_whoever_settles_it(name: str) -> None:
    worker = logged("""
    hub = rt.RealtimeHub(segment=sys.argv[1])
    hub.create_channel("c")
    sub = hub.join("c", str(os.getpid()))
    say("joined")
    hear()
    """)
    with Process(worker, name) as a, Process(worker, name) as b, Process(worker, name) as victim:
        for process in (a, b, victim):
            while process.hear() != "joined":
                pass
        victim.kill()
        segment = Segment.attach(name)
        eventually(lambda: segment.stats()["reaped_processes"] == 1)
        segment.close()
        lines = []
        for process in (a, b):
            process.say("")
            assert process.popen.stdout is not None
            lines += [line for line in process.popen.stdout.read().splitlines() if '"reaped"' in line]
            process.end()
        # Attaching from here may have settled it, too; nobody else tells it then.
        assert len(lines) <= 1, lines


def test_what_is_full_is_told_now_and_then(name: str) -> None:
    # In a process of its own: it is told every ten seconds at most, whichever segment it is about.
    filler = logged("""
    with rt.Segment.open(sys.argv[1], size="1MiB", channels=1) as segment:
        manager = rt.ChannelManager(segment=segment)
        start, refused = time.monotonic(), 0
        while refused < 100:
            try:
                manager.create_channel(f"c{refused}-{time.monotonic_ns()}")
            except rt.SegmentFull:
                refused += 1
        took = time.monotonic() - start
    say("took", took)
    """)
    with Process(filler, name) as process:
        assert process.popen.stdout is not None
        lines = process.popen.stdout.read().splitlines()
        (took,) = (float(line.split()[1]) for line in lines if line.startswith("took"))
        records = [json.loads(line) for line in lines if line.startswith("{")]
        full = [record for record in records if record["event"] == "full"]
        assert 1 <= len(full) <= 1 + took // 10, "now and then, not a hundred times"
        assert {(record["level"], record["setting"]) for record in full} == {("WARNING", "channels")}
        assert "raise channels" in full[0]["text"]
        process.end()


def test_history_given_up_and_handles_that_lag_are_told(name: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "hypern_realtime_shm"), Segment.open(name, size="1MiB") as segment:
        hub = RealtimeHub(segment=segment)
        hub.create_channel("c", buffer_size=64)
        slow = hub.join("c", "slowpoke")
        quick = hub.join("c", "quick")

        def events() -> list[logging.LogRecord]:
            return [record for record in list(caplog.records) if hasattr(record, "event")]

        def of(event: str) -> list[logging.LogRecord]:
            return [record for record in events() if record.__dict__["event"] == event]

        eventually(lambda: of("keeper"))
        for number in range(40):
            hub.publish("c", str(number))
            quick.drain()
        (record,) = eventually(lambda: of("lagging"))
        assert (record.levelname, record.__dict__["channel"], record.__dict__["client"]) == ("WARNING", "c", "slowpoke")
        assert (record.__dict__["lag"], record.__dict__["handles"]) == (40, 1)
        slow.drain()
        eventually(lambda: of("caught_up"))
        assert len(of("lagging")) == 1, "told when it begins, not over and over"
        # More than the segment holds: its history shrinks.
        hub.create_channel("large", buffer_size=1024)
        for _ in range(400):
            hub.publish("large", "x" * 10_000)
        (record,) = eventually(lambda: of("given_up"))
        assert record.levelname == "WARNING"
        assert record.__dict__["messages"] > 0


def test_a_handler_that_uses_the_library_does_no_harm(name: str) -> None:
    """Logs are published over a channel of the very segment they are about, and that takes the interpreter its time."""

    class Publishes(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            time.sleep(0.05)
            manager.publish("log", record.getMessage())

    logger = logging.getLogger("hypern_realtime_shm")
    handler = Publishes()
    with Segment.open(name, size="1MiB", channels=1) as segment:
        manager = ChannelManager(segment=segment)
        manager.create_channel("log", 16)
        sub = manager.subscribe("log", "reader")
        logger.addHandler(handler)
        logger.setLevel(logging.DEBUG)
        try:
            threads = [threading.Thread(target=segment.reap) for _ in range(4)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(20)
                assert not thread.is_alive()
            assert sub.recv(timeout=20)
        finally:
            logger.removeHandler(handler)
            logger.setLevel(logging.NOTSET)


def test_an_end_while_the_keeper_logs_is_clean(name: str) -> None:
    """The interpreter ends while another thread is just about to log, again and again."""
    source = logged("""
    segment = rt.Segment.open(sys.argv[1], size="1MiB")
    segment.start_keeper()
    """)
    for _ in range(8):
        with Process(source, name) as process:
            process.end()


def test_a_death_that_was_settled_for_want_of_room_is_told(name: str, caplog: pytest.LogCaptureFixture) -> None:
    """Whoever finds the segment full settles it and tells of it soon, also where another process keeps the segment."""
    keeper = logged("""
    segment = rt.Segment.attach(sys.argv[1])
    segment.start_keeper()
    hear()
    """)
    filler = """
    hub = rt.RealtimeHub(segment=sys.argv[1])
    try:
        for number in range(100_000):
            hub.presence.track("room", f"client {number}")
    except rt.SegmentFull:
        say("full")
    hear()
    """
    with caplog.at_level(logging.INFO, "hypern_realtime_shm"), Segment.open(name, size="512KiB") as segment:
        hub = RealtimeHub(segment=segment)
        with Process(keeper, name) as other:
            told(other, "keeper")
            segment.start_keeper()
            with Process(filler, name) as victim:
                assert victim.hear() == "full"
                victim.kill()
                hub.presence.track("room", "there is room again")
            # The other's keeper may have come in between.
            there: list[str] = []
            reader = threading.Thread(target=lambda: there.extend(other.popen.stdout or ()), daemon=True)
            reader.start()

            def reaped() -> int:
                here = [getattr(record, "event", "") for record in list(caplog.records)]
                return here.count("reaped") + "".join(there).count('"reaped"')

            eventually(reaped)
            assert reaped() == 1
            other.say("")
            reader.join(10)
