"""Event streams: what they say, who stays as long as which stream, and what becomes of streams nobody asks for."""

from __future__ import annotations

import asyncio
import gc
import os
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from hypern_realtime_shm import HeartbeatConfig, RealtimeHub, Segment, end_streams, streams
from tests.procs import Process, eventually


def hub_of(segment: Segment | None = None, **config: Any) -> RealtimeHub:
    made = RealtimeHub(heartbeat_config=HeartbeatConfig(**config), segment=segment)
    made.create_channel("c")
    return made


class Async:
    """An asynchronous stream driven from a test without a loop of its own."""

    def __init__(self, stream: AsyncIterator[bytes], loop: asyncio.AbstractEventLoop) -> None:
        self.stream, self.loop = stream, loop

    def next(self) -> bytes:
        return self.loop.run_until_complete(anext(self.stream))

    def close(self) -> None:
        self.loop.run_until_complete(self.stream.aclose())  # type: ignore[attr-defined]


class Sync:
    def __init__(self, stream: Any) -> None:
        self.stream = stream

    def next(self) -> bytes:
        chunk: bytes = next(self.stream)
        return chunk

    def close(self) -> None:
        self.stream.close()


@pytest.fixture(params=["async", "sync"])
def open_stream(request: pytest.FixtureRequest) -> Iterator[Any]:
    loop = asyncio.new_event_loop()

    def open_stream(hub: RealtimeHub, *arguments: Any, **options: Any) -> Async | Sync:
        if request.param == "async":
            return Async(hub.sse_stream(*arguments, **options), loop)
        return Sync(hub.sse_stream_sync(*arguments, **options))

    yield open_stream
    loop.run_until_complete(loop.shutdown_asyncgens())
    loop.close()


def events(chunk: bytes) -> list[tuple[str | None, str]]:
    """(id, data) of each event of a chunk."""
    found = []
    for event in chunk.decode().split("\n\n"):
        lines = [line.partition(": ") for line in event.split("\n") if line]
        ids = [value for field, _, value in lines if field == "id"]
        data = [value for field, _, value in lines if field == "data"]
        if data:
            found.append((ids[-1] if ids else None, "\n".join(data)))
    return found


def test_what_a_stream_says(open_stream: Any) -> None:
    hub = hub_of(interval_secs=0.05, timeout_secs=30, sse_retry_ms=1234)
    hub.publish("c", "before")
    stream = open_stream(hub, "c", "ada", {"name": "Ada"})
    assert [(info.client_id, info.metadata) for info in hub.get_presence("c")] == [("ada", {"name": "Ada"})]
    assert hub.heartbeat.is_alive("ada")
    assert hub.channels.get_subscribers("c") == ["ada"]
    head = hub.channels.replay("c")[-1].id
    assert stream.next() == f"retry: 1234\nid: {head}\n\n".encode(), "retry first, and where to come back to"
    hub.publish("c", "one")
    hub.publish("c", "two\nlines")
    hub.publish("c", b"b\xc3\xa4tes")
    told = events(stream.next())
    assert [data for _, data in told] == ["one", "two\nlines", "bätes"]
    assert [event_id for event_id, _ in told] == [message.id for message in hub.channels.replay("c", head)]
    assert stream.next() == b": keepalive\n\n", "without an id"
    hub.publish_json("c", {"a": 1})
    assert events(stream.next())[0][1] == '{"a":1}'
    hub.channels.remove_channel("c")
    with pytest.raises((StopIteration, StopAsyncIteration, RuntimeError)):
        stream.next()
    assert hub.presence.count("c") == 0
    assert hub.heartbeat.client_count() == 0


def test_an_unknown_channel_is_known_at_once(open_stream: Any) -> None:
    hub = hub_of()
    with pytest.raises(KeyError):
        open_stream(hub, "no such", "ada")
    assert hub.heartbeat.client_count() == 0


def test_reconnecting_with_the_last_id_has_no_gap(open_stream: Any) -> None:
    hub = hub_of()
    stream = open_stream(hub, "c", "ada")
    opening = stream.next().decode()
    first = opening.split("id: ")[1].strip()
    stream.close()
    hub.publish("c", "while away 1")
    hub.publish("c", "while away 2")
    stream = open_stream(hub, "c", "ada", last_event_id=first)
    assert f"id: {first}\n\n" in stream.next().decode()
    hub.publish("c", "live")
    told = events(stream.next())
    assert [data for _, data in told] == ["while away 1", "while away 2", "live"]
    stream.close()
    stream = open_stream(hub, "c", "ada", last_event_id="nonsense\0")
    stream.next()
    assert [data for _, data in events(stream.next())] == ["while away 1", "while away 2", "live"]
    stream.close()


def test_two_streams_of_one_client_count(open_stream: Any) -> None:
    hub = hub_of()
    one = open_stream(hub, "c", "ada")
    two = open_stream(hub, "c", "ada")
    assert hub.presence.count("c") == 1
    one.close()
    one.close()
    assert hub.presence.count("c") == 1
    assert hub.heartbeat.is_alive("ada")
    hub.publish("c", "still here")
    two.next()
    assert events(two.next())[0][1] == "still here"
    two.close()
    assert hub.presence.count("c") == 0
    assert hub.heartbeat.client_count() == 0
    assert hub.channels.get_subscribers("c") == []
    assert hub.publish("c", "nobody") == 0


def test_a_stream_beside_a_plain_join_in_another_channel(open_stream: Any) -> None:
    hub = hub_of()
    hub.create_channel("d")
    hub.join("d", "ada")
    stream = open_stream(hub, "c", "ada")
    stream.close()
    assert hub.presence.client_channels("ada") == ["d"]
    assert hub.heartbeat.is_alive("ada"), "still in another channel"


def test_leaving_by_hand_ends_the_stream(open_stream: Any) -> None:
    hub = hub_of()
    stream = open_stream(hub, "c", "ada")
    stream.next()
    hub.disconnect("ada")
    with pytest.raises((StopIteration, StopAsyncIteration, RuntimeError)):
        stream.next()
    assert hub.presence.count("c") == 0


@pytest.mark.parametrize("rounds", [0, 3])
def test_a_dropped_stream_leaves(open_stream: Any, rounds: int) -> None:
    hub = hub_of()
    stream = open_stream(hub, "c", "ada")
    stream.next()
    for _ in range(rounds):  # of looking after: that must keep no stream
        streams._Housekeeper._look_after_all()
    eventually(lambda: any(thread.name == "hypern-shm-streams" for thread in threading.enumerate()))
    time.sleep(1.2 if rounds else 0)  # the thread has had its round, too
    del stream
    gc.collect()
    # At once, or at the end of a look at all streams that is just under way.
    eventually(lambda: hub.presence.count("c") == 0)
    assert hub.publish("c", "nobody") == 0


def test_streams_come_and_go_in_threads_while_they_are_looked_after() -> None:
    hub = hub_of(interval_secs=0.01, timeout_secs=0.02)
    stop = time.monotonic() + 1.5
    fast, before = 1e-6, sys.getswitchinterval()
    failed: list[BaseException] = []

    def come_and_go(who: str) -> None:
        try:
            while time.monotonic() < stop:
                for stream in [hub.sse_stream_sync("c", f"{who}-{number}") for number in range(20)]:
                    stream.close()
        except BaseException as error:
            failed.append(error)

    def look_after() -> None:
        try:
            while time.monotonic() < stop:
                streams._Housekeeper._look_after_all()
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=come_and_go, args=(who,)) for who in "ab"]
    threads.append(threading.Thread(target=look_after))
    sys.setswitchinterval(fast)
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(before)
    assert not failed
    assert [thread.name for thread in threading.enumerate()].count("hypern-shm-streams") == 1
    assert hub.presence.count("c") == 0
    assert hub.heartbeat.client_count() == 0


def test_an_open_stream_is_seen(open_stream: Any) -> None:
    hub = hub_of(interval_secs=0.05)
    stream = open_stream(hub, "c", "ada")
    joined = hub.get_presence("c")[0].last_seen
    for _ in range(3):
        stream.next()
    # Seen as of the kernel's last tick.
    assert hub.get_presence("c")[0].last_seen > joined + 0.05 - 0.02
    assert hub.presence.evict_stale(timeout_secs=60) == []
    stream.close()


@pytest.mark.parametrize("send_keepalive", [True, False])
def test_an_interval_of_nothing_leaves_others_a_turn(send_keepalive: bool) -> None:
    hub = hub_of(interval_secs=0, timeout_secs=0, send_keepalive=send_keepalive)

    async def main() -> None:
        stream = hub.sse_stream("c", "ada")
        await anext(stream)
        asking = asyncio.create_task(anext(stream))  # type: ignore[arg-type]
        await asyncio.sleep(0.1)
        hub.publish("c", "news")
        chunk = await asyncio.wait_for(asking, 5)
        assert chunk == b": keepalive\n\n" if send_keepalive else events(chunk)[0][1] == "news"
        await stream.aclose()

    asyncio.run(main())


@pytest.mark.parametrize("send_keepalive", [True, False])
def test_a_client_whose_chunks_nobody_asks_for_is_gone(open_stream: Any, send_keepalive: bool) -> None:
    hub = hub_of(interval_secs=0.1, timeout_secs=0.4, send_keepalive=send_keepalive)
    stream = open_stream(hub, "c", "ada", {"name": "Ada"})
    stream.next()
    assert hub.presence.count("c") == 1
    eventually(lambda: hub.presence.count("c") == 0, 5)
    # Should the server ask again, the client is back, and has missed nothing.
    hub.publish("c", "meanwhile")
    assert events(stream.next())[0][1] == "meanwhile"
    assert [info.metadata for info in hub.get_presence("c")] == [{"name": "Ada"}]
    assert hub.heartbeat.is_alive("ada")
    stream.close()
    assert hub.presence.count("c") == 0


def test_a_stream_that_is_asked_stays_however_quiet_the_channel() -> None:
    hub = hub_of(interval_secs=0.1, timeout_secs=0.3, send_keepalive=False)

    async def main() -> None:
        stream = hub.sse_stream("c", "ada")
        await anext(stream)
        pongs = hub.heartbeat.stats().total_pongs
        asking = asyncio.create_task(anext(stream))  # type: ignore[arg-type]
        while hub.heartbeat.stats().total_pongs == pongs:
            await asyncio.sleep(0)
        # It is asked. Twice its time-out, by its own signs of life: it may be late itself on a busy machine.
        while hub.heartbeat.stats().total_pongs <= pongs + 6:
            assert hub.presence.count("c") == 1
            assert hub.heartbeat.client_ids() == ["ada"]
            await asyncio.sleep(0.01)
        hub.publish("c", "at last")
        assert events(await asking)[0][1] == "at last"
        await stream.aclose()

    asyncio.run(main())


def test_cancelling_leaves() -> None:
    hub = hub_of()

    async def serve(stream: AsyncIterator[bytes]) -> None:
        async for _ in stream:
            pass

    async def main() -> None:
        task = asyncio.create_task(serve(hub.sse_stream("c", "ada")))
        await asyncio.sleep(0.02)
        assert hub.presence.count("c") == 1
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert hub.presence.count("c") == 0

    asyncio.run(main())


def test_a_stream_that_is_open_at_exit_says_nothing() -> None:
    code = """
        from hypern_realtime_shm import RealtimeHub
        hub = RealtimeHub()
        hub.create_channel("c")
        stream = hub.sse_stream_sync("c", "ada")
        next(stream)
        cycle = [hub.sse_stream("c", "bob")]
        cycle.append(cycle)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_streams_end_when_the_worker_stops() -> None:
    hub = hub_of()
    got: list[bytes] = []
    thread = threading.Thread(target=lambda: got.extend(hub.sse_stream_sync("c", "ada")))
    thread.start()
    eventually(lambda: hub.presence.count("c") == 1)
    assert end_streams() >= 1
    thread.join(10)
    assert not thread.is_alive()
    assert hub.presence.count("c") == 0
    assert len(got) == 1


TAB = """
hub = rt.RealtimeHub(segment=sys.argv[1])
stream = hub.sse_stream_sync("c", "ada")
next(stream)
say(os.getpid())
while (word := hear()) == "next":
    say(next(stream).decode().strip().replace("\\n", "|"))
if word == "close":
    stream.close()
say("closed")
hear()
"""


def test_two_tabs_on_two_workers(segment: Segment) -> None:
    hub = hub_of(segment)
    segment.start_keeper()
    with Process(TAB, segment.name) as one, Process(TAB, segment.name) as two, Process(TAB, segment.name) as three:
        for tab in (one, two, three):
            tab.hear()
        assert hub.presence.count("c") == 1
        assert hub.publish("c", "to all tabs") == 3
        for tab in (one, two, three):
            tab.say("next")
            assert tab.hear().endswith("data: to all tabs")
        one.say("close")
        assert one.hear() == "closed"
        assert hub.presence.count("c") == 1
        assert hub.heartbeat.is_alive("ada")
        two.kill()
        eventually(lambda: segment.stats()["processes"] == 3, 5)
        assert hub.presence.count("c") == 1, "the third tab is still there"
        assert hub.channels.get_subscribers("c") == ["ada"]
        three.say("close")
        assert three.hear() == "closed"
        assert hub.presence.count("c") == 0
        assert hub.heartbeat.client_count() == 0
        assert hub.channels.get_subscribers("c") == []


FOLLOWER = """
import asyncio, uvloop
hub = rt.RealtimeHub(segment=sys.argv[1])
async def main():
    async for chunk in hub.sse_stream("c", "ada"):
        say(chunk.decode().strip().replace("\\n", "|"))
if sys.argv[2] == "sync":
    for chunk in hub.sse_stream_sync("c", "ada"):
        say(chunk.decode().strip().replace("\\n", "|"))
else:
    {"asyncio": asyncio, "uvloop": uvloop}[sys.argv[2]].run(main())
say("ended")
hear()
"""


def test_disconnecting_on_one_worker_ends_the_streams_of_all(segment: Segment) -> None:
    hub = hub_of(segment)
    with (
        Process(FOLLOWER, segment.name, "sync") as one,
        Process(FOLLOWER, segment.name, "asyncio") as two,
        Process(FOLLOWER, segment.name, "uvloop") as three,
    ):
        for follower in (one, two, three):
            assert follower.hear().startswith("retry:")
        hub.publish("c", "last words")
        assert hub.disconnect("ada") == ["c"]
        for follower in (one, two, three):
            assert follower.hear().endswith("data: last words"), "what came before is still told"
            assert follower.hear() == "ended"
        assert (hub.presence.count("c"), hub.heartbeat.client_count(), hub.publish("c", "nobody")) == (0, 0, 0)


def test_streams_in_a_forked_child_are_its_own(segment: Segment) -> None:
    """What the parent's streams hold is not let go of by a child that ends."""
    hub = hub_of(segment)
    stream = hub.sse_stream_sync("c", "ada")
    next(stream)
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            own = hub.sse_stream_sync("c", "ada")
            next(own)
            own.close()
            stream.close()
            code = 0
        finally:
            os._exit(code)
    assert os.waitpid(pid, 0)[1] == 0
    assert hub.presence.count("c") == 1
    assert hub.channels.get_subscribers("c") == ["ada"]
    stream.close()
    assert hub.presence.count("c") == 0
