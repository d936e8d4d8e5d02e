"""Heartbeats across workers: each pings its own, orphans have one adopter, every report is made once."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections import Counter

import pytest

from hypern_realtime_shm import HeartbeatConfig, HeartbeatMonitor, RealtimeHub, Segment
from tests.procs import Process, eventually

FAST = HeartbeatConfig(interval_secs=0.05, timeout_secs=0.3, max_retries=2)


def test_a_thread_pings_reports_and_evicts() -> None:
    monitor = HeartbeatMonitor(FAST)
    monitor.register("ada")
    told: list[tuple[str, str]] = []
    with monitor.start_heartbeat_thread(
        on_ping=lambda client: told.append(("ping", client)),
        on_timeout=lambda client: told.append(("timeout", client)),
        on_dead=lambda client: told.append(("dead", client)),
    ) as thread:
        assert thread.running
        eventually(lambda: ("dead", "ada") in told, 10)
    assert not thread.running
    thread.stop()
    counts = Counter(what for what, _ in told)
    assert counts["ping"] >= 2
    assert counts["dead"] == 1
    assert 1 <= counts["timeout"] <= 2
    assert monitor.client_count() == 0


def test_a_thread_takes_plain_functions_only() -> None:
    async def told(client: str) -> None: ...

    with pytest.raises(TypeError, match="on_dead must be a plain function, not a coroutine function"):
        HeartbeatMonitor(FAST).start_heartbeat_thread(on_dead=told)


def test_a_thread_may_wait_for_ever() -> None:
    monitor = HeartbeatMonitor(HeartbeatConfig(interval_secs=math.inf, timeout_secs=0, max_retries=0))
    monitor.register("ada")
    dead: list[str] = []
    with monitor.start_heartbeat_thread(on_dead=dead.append) as thread:
        eventually(lambda: dead == ["ada"], 10)
        thread._thread.join(0.05)
        assert thread.running
    assert not thread.running


@pytest.mark.parametrize("how", ["thread", "loop"])
def test_a_callback_that_raises_is_logged_and_the_loop_goes_on(how: str, caplog: pytest.LogCaptureFixture) -> None:
    monitor = HeartbeatMonitor(FAST)
    for client in ("ada", "bob"):
        monitor.register(client)
    pinged: list[str] = []

    def ping(client: str) -> None:
        pinged.append(client)
        raise LookupError(client)

    with caplog.at_level(logging.ERROR, "hypern_realtime_shm"):
        if how == "thread":
            with monitor.start_heartbeat_thread(on_ping=ping):
                eventually(lambda: len(pinged) >= 4, 10)
        else:

            async def main() -> None:
                task = asyncio.create_task(monitor.run_heartbeat_loop(on_ping=ping))
                while len(pinged) < 4:
                    await asyncio.sleep(0.01)
                task.cancel()

            asyncio.run(asyncio.wait_for(main(), 10))
    assert {"ada", "bob"} <= set(pinged)
    assert "a heartbeat callback failed for client 'ada'" in caplog.text
    assert "LookupError" in caplog.text


RUNNER = """
import asyncio
config = rt.HeartbeatConfig(interval_secs=0.05, timeout_secs=0.6, max_retries=1)
hub = rt.RealtimeHub(segment=sys.argv[1], heartbeat_config=config)
kind, mine = sys.argv[2], sys.argv[3].split(",")
subs = [hub.join("c", client) for client in mine]
say("ready")
def tell(what):
    return lambda client: say(what, client)
if kind == "thread":
    with hub.heartbeat.start_heartbeat_thread(tell("ping"), tell("timeout"), tell("dead")):
        hear()
else:
    async def main():
        await asyncio.wait_for(hub.heartbeat.run_heartbeat_loop(tell("ping"), tell("timeout"), tell("dead")), 3)
    try:
        asyncio.run(main())
    except asyncio.TimeoutError:
        pass
say("end .")
hear()
"""


def test_workers_ping_their_own_and_report_once(segment: Segment) -> None:
    RealtimeHub(segment=segment).create_channel("c")
    # Its clients stay behind without an owner: it ends in order.
    with Process("hub = rt.RealtimeHub(segment=sys.argv[1]); subs = [hub.join('c', f'orphan{i}') for i in range(4)]\n"
                 "say('ready'); hear()", segment.name) as mother:  # fmt: skip
        assert mother.hear() == "ready"
        mother.end()
    with Process(RUNNER, segment.name, "thread", "a1,a2") as a, Process(RUNNER, segment.name, "loop", "b1,b2") as b:
        assert a.hear() == b.hear() == "ready"
        told: dict[str, list[tuple[str, str]]] = {"a": [], "b": []}
        time.sleep(1.5)
        a.say("stop")
        for who, process in (("a", a), ("b", b)):
            while (line := process.hear()) != "end .":
                what, client = line.split()
                told[who].append((what, client))
        pinged = {who: {client for what, client in lines if what == "ping"} for who, lines in told.items()}
        assert {"a1", "a2"} <= pinged["a"]
        assert {"b1", "b2"} <= pinged["b"]
        assert not {"b1", "b2"} & pinged["a"]
        assert not {"a1", "a2"} & pinged["b"]
        orphans = {f"orphan{number}" for number in range(4)}
        assert (pinged["a"] | pinged["b"]) & orphans == orphans
        assert not pinged["a"] & pinged["b"], "an orphan has one adopter"
        reports = Counter(told["a"] + told["b"])
        clients = {"a1", "a2", "b1", "b2", *orphans}
        for client in clients:
            assert reports["timeout", client] == 1, (client, reports)
            assert reports["dead", client] == 1, (client, reports)
