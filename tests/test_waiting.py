"""Waiting inside one process: threads, event loops of both kinds, greenlets, foreign loops; ends, time-outs,
cancellation."""

from __future__ import annotations

import asyncio
import gc
import os
import select
import selectors
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
import uvloop

from hypern_realtime_shm import (
    BroadcastConfig,
    ChannelClosed,
    ChannelManager,
    Message,
    RealtimeBroadcast,
    Segment,
    SegmentClosed,
    SubscriberClosed,
)

LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "asyncio": asyncio.SelectorEventLoop,
    "uvloop": uvloop.new_event_loop,
}


@pytest.fixture(params=sorted(LOOPS))
def run(request: pytest.FixtureRequest) -> Callable[[Coroutine[Any, Any, Any]], Any]:
    """Runs a coroutine in a new event loop, as ``asyncio.run`` does."""

    def run(main: Coroutine[Any, Any, Any]) -> Any:
        loop = LOOPS[request.param]()
        try:
            return loop.run_until_complete(main)
        finally:
            loop.run_until_complete(loop.shutdown_asyncgens())
            loop.close()

    return run


@pytest.fixture
def manager() -> ChannelManager:
    made = ChannelManager()
    made.create_channel("c")
    return made


def descriptors() -> set[str]:
    """The open descriptors of this process."""
    return {path.name for path in Path("/proc/self/fd").iterdir()}


def later(seconds: float, call: Callable[..., Any], *arguments: Any) -> threading.Timer:
    timer = threading.Timer(seconds, call, arguments)
    timer.start()
    return timer


# ---- threads


def test_recv_waits_and_times_out(manager: ChannelManager) -> None:
    sub = manager.subscribe("c", "u")
    with pytest.raises(TimeoutError):
        sub.recv(timeout=0)
    with pytest.raises(TimeoutError):
        sub.recv(0.05)
    with pytest.raises(ValueError, match="timeout is nan"):
        sub.recv(float("nan"))
    manager.publish("c", "there")
    assert sub.recv(timeout=0) == "there"
    later(0.05, manager.publish, "c", b"bytes")
    assert sub.recv(timeout=10) == b"bytes"
    later(0.05, manager.publish, "c", "for ever")
    assert sub.recv(float("inf")) == "for ever"


def test_recv_holds_nobody_else_up(manager: ChannelManager) -> None:
    """While one thread waits, others run: the interpreter is released."""
    sub = manager.subscribe("c", "u")
    counted = 0
    waiting = threading.Thread(target=sub.recv)
    waiting.start()
    end = time.monotonic() + 0.2
    while time.monotonic() < end:
        counted += 1
    manager.publish("c", "x")
    waiting.join(10)
    assert not waiting.is_alive()
    assert counted > 1000


def test_many_threads_wait_on_many_subscribers(manager: ChannelManager) -> None:
    count = 40
    subs = [manager.subscribe("c", f"u{number}") for number in range(count)]
    got: list[Any] = []
    threads = [threading.Thread(target=lambda sub=sub: got.append(sub.recv(timeout=20))) for sub in subs]
    for thread in threads:
        thread.start()
    time.sleep(0.05)
    assert manager.publish("c", "all") == count
    for thread in threads:
        thread.join(20)
    assert got == ["all"] * count


def test_several_threads_share_a_subscriber(manager: ChannelManager) -> None:
    sub = manager.subscribe("c", "u")
    got: list[Any] = []

    def take() -> None:
        for message in sub:
            got.append(message)

    threads = [threading.Thread(target=take) for _ in range(4)]
    for thread in threads:
        thread.start()
    for number in range(200):
        manager.publish("c", str(number))
    manager.remove_channel("c")
    for thread in threads:
        thread.join(20)
    assert sorted(got, key=int) == [str(number) for number in range(200)]


def test_more_threads_than_bells_still_hear(name: str) -> None:
    with Segment.open(name, size="4MiB", waiters=64) as segment:
        manager = ChannelManager(segment=segment)
        manager.create_channel("c")
        subs = [manager.subscribe("c", str(number)) for number in range(80)]
        got: list[Any] = []
        threads = [threading.Thread(target=lambda sub=sub: got.append(sub.recv(timeout=20))) for sub in subs]
        for thread in threads:
            thread.start()
        time.sleep(0.1)
        manager.publish("c", "all")
        for thread in threads:
            thread.join(20)
        assert len(got) == 80


def test_iteration_ends_with_the_channel(manager: ChannelManager) -> None:
    with manager.subscribe("c", "u") as sub:
        manager.publish("c", "1")
        manager.publish("c", "2")
        later(0.05, manager.remove_channel, "c")
        assert list(sub) == ["1", "2"]
        assert sub.ended
        with pytest.raises(ChannelClosed, match="'c'"):
            sub.recv()
        with pytest.raises(ChannelClosed):
            sub.recv_message(timeout=1)
    assert sub.closed


def test_messages_carry_channel_and_id(manager: ChannelManager) -> None:
    sub = manager.subscribe("c", "u")
    assert sub.try_recv_message() is None
    manager.publish("c", "1")
    manager.publish("c", b"2")
    first = sub.recv_message()
    assert (first.channel, first.data) == ("c", "1")
    epoch, _, sequence = first.id.rpartition("-")
    assert sequence == "1"
    assert sub.last_event_id == first.id
    second = sub.try_recv_message()
    assert second == Message("c", b"2", f"{epoch}-2")
    assert hash(second) == hash(Message("c", b"2", f"{epoch}-2"))
    assert repr(second) == f'Message(channel="c", data=b\'2\', id="{epoch}-2")'
    with pytest.raises(AttributeError):
        second.data = "other"  # type: ignore[union-attr,misc]
    manager.publish("c", "3")
    later(0.05, manager.remove_channel, "c")
    assert [message.data for message in sub.messages()] == ["3"]


@pytest.mark.parametrize("how", ["sync", "async"])
def test_closing_the_handle_ends_iteration_over_its_messages(manager: ChannelManager, how: str) -> None:
    sub = manager.subscribe("c", "u")
    manager.publish("c", "x")
    got: list[Any] = []

    async def collect() -> None:
        got.extend([message.data async for message in sub.messages()])
        got.append("end")

    def run() -> None:
        if how == "async":
            asyncio.run(collect())
        else:
            got.extend(message.data for message in sub.messages())
            got.append("end")

    thread = threading.Thread(target=run)
    thread.start()
    while sub.received_count == 0:
        time.sleep(0.01)
    sub.close()
    thread.join(10)
    assert got == ["x", "end"]


def test_unsubscribing_and_closing_end_a_wait(manager: ChannelManager) -> None:
    sub = manager.subscribe("c", "u")
    later(0.05, manager.unsubscribe, "c", "u")
    with pytest.raises(ChannelClosed):
        sub.recv(timeout=20)
    other = manager.subscribe("c", "v")
    later(0.05, other.close)
    with pytest.raises(SubscriberClosed):
        other.recv(timeout=20)
    third = manager.subscribe("c", "w")
    later(0.05, third.close)
    assert list(third) == []


def test_closing_the_segment_ends_waits(name: str) -> None:
    segment = Segment.open(name, size="4MiB")
    manager = ChannelManager(segment=segment)
    manager.create_channel("c")
    sub = manager.subscribe("c", "u")
    later(0.05, segment.close)
    with pytest.raises(SegmentClosed):
        sub.recv(timeout=20)
    segment = Segment.open(name, size="4MiB")
    manager = ChannelManager(segment=segment)
    sub = manager.subscribe("c", "u")

    async def main() -> None:
        later(0.05, segment.close)
        with pytest.raises(SegmentClosed):
            await sub.recv_async(timeout=20)

    asyncio.run(main())


@pytest.mark.parametrize(
    "kill",
    [
        "os.kill(os.getpid(), signal.SIGINT)",
        # Taken by another thread, as it may be by this one just before it sleeps: no system call is interrupted.
        "signal.pthread_kill(threading.get_ident(), signal.SIGINT)",
    ],
)
@pytest.mark.parametrize(
    "wait",
    [
        "sub.recv()",
        "sub.recv(timeout=20)",
        "sub.recv_message()",
        "next(sub)",
        "list(sub.messages())",
        "manager.subscribe_pattern('#', 'u').recv()",
        "hub.broadcast.subscribe('b').recv()",
        "[watch.next(timeout=20) for _ in range(2)]",
        "list(watch)",
        "list(hub.sse_stream_sync('c', 'v'))",
    ],
)
def test_control_c_ends_a_wait(kill: str, wait: str) -> None:
    source = """
    import os, signal, threading
    from hypern_realtime_shm import RealtimeHub
    signal.signal(signal.SIGINT, signal.default_int_handler)  # in the background of a shell it is ignored
    hub = RealtimeHub()
    manager = hub.channels
    manager.create_channel("c")
    hub.broadcast.create("b")
    sub, watch = manager.subscribe("c", "u"), hub.presence.watch("c")
    threading.Timer(0.1, lambda: KILL).start()
    try:
        WAIT
    except KeyboardInterrupt:
        print("interrupted")
    """
    run = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(source).replace("KILL", kill).replace("WAIT", wait)],
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    assert run.stdout == "interrupted\n"


def test_broadcasts_wait_too() -> None:
    broadcast = RealtimeBroadcast()
    broadcast.create("b", BroadcastConfig(dedup_enabled=True))
    rx = broadcast.subscribe("b")
    later(0.05, broadcast.send, "b", "once", "id")
    assert rx.recv(timeout=10) == "once"
    broadcast.send("b", "again", "id")
    with pytest.raises(TimeoutError):
        rx.recv(timeout=0.01)
    broadcast.send("b", "more")
    later(0.05, broadcast.remove, "b")
    assert [message.data for message in rx.messages()] == ["more"]
    with pytest.raises(ChannelClosed):
        rx.recv()

    async def main() -> None:
        broadcast.create("b")
        got: list[str] = []
        task = asyncio.create_task(broadcast.subscribe_async("b", got.append, poll_interval=60))
        await asyncio.sleep(0.02)
        broadcast.send("b", "async")
        await asyncio.sleep(0.05)
        broadcast.remove("b")
        await asyncio.wait_for(task, 10)
        assert got == ["async"]

    asyncio.run(main())


# ---- event loops


def test_recv_async_waits_and_times_out(
    manager: ChannelManager, run: Callable[[Coroutine[Any, Any, Any]], Any]
) -> None:
    async def main() -> None:
        sub = manager.subscribe("c", "u")
        with pytest.raises(TimeoutError):
            await sub.recv_async(timeout=0)
        with pytest.raises(TimeoutError):
            await sub.recv_async(timeout=0.05)
        with pytest.raises(ValueError, match="timeout is nan"):
            await sub.recv_async(timeout=float("nan"))
        later(0.05, manager.publish, "c", "from a thread")
        assert await sub.recv_async(timeout=10) == "from a thread"
        asyncio.get_running_loop().call_later(0.01, manager.publish, "c", b"from the loop")
        message = await sub.recv_message_async()
        assert (message.channel, message.data) == ("c", b"from the loop")

    run(main())


def test_async_iteration_ends_with_the_channel(
    manager: ChannelManager, run: Callable[[Coroutine[Any, Any, Any]], Any]
) -> None:
    async def main() -> None:
        async with manager.subscribe("c", "u") as sub:
            manager.publish("c", "1")
            later(0.02, manager.publish, "c", "2")
            later(0.05, manager.remove_channel, "c")
            assert [message async for message in sub] == ["1", "2"]
            with pytest.raises(ChannelClosed):
                await sub.recv_async()
        assert sub.closed
        manager.create_channel("c")
        sub = manager.subscribe("c", "u")
        manager.publish("c", "3")
        later(0.02, sub.close)
        assert [message.data async for message in _until_closed(sub)] == ["3"]
        assert [message async for message in sub] == []

    run(main())


async def _until_closed(sub: Any) -> Any:
    try:
        async for message in sub.messages():
            yield message
    except SubscriberClosed:
        return


def test_a_cancelled_task_loses_no_message(
    manager: ChannelManager, run: Callable[[Coroutine[Any, Any, Any]], Any]
) -> None:
    """Tasks are cancelled at every moment, also in the very turn of the loop in which they were rung."""

    async def main() -> None:
        sub = manager.subscribe("c", "u")
        got: list[Any] = []
        for number in range(300):
            task = asyncio.create_task(sub.recv_async())
            await asyncio.sleep(0)
            manager.publish("c", str(number))
            for _ in range(number % 4):
                await asyncio.sleep(0)
            task.cancel()
            try:
                got.append(await task)
            except asyncio.CancelledError:
                got += sub.drain()
        assert got == [str(number) for number in range(300)]

    run(main())


def test_ten_thousand_subscribers_wake_by_who_has_news(
    run: Callable[[Coroutine[Any, Any, Any]], Any], name: str
) -> None:
    """10,000 tasks wait; news for one wakes one: only its future is resolved, and only it is looked at."""
    count = 10_000
    with Segment.open(name, size="64MiB", channels=count, ring_slots=count * 16) as segment:
        manager = ChannelManager(segment=segment, default_buffer_size=16)
        for number in range(count):
            manager.create_channel(f"c{number}")
        woken: list[int] = []

        async def wait(number: int, sub: Any) -> None:
            await sub.recv_async()
            woken.append(number)

        async def main() -> None:
            subs = [manager.subscribe(f"c{number}", "u") for number in range(count)]
            tasks = [asyncio.create_task(wait(number, sub)) for number, sub in enumerate(subs)]
            await asyncio.sleep(0)
            for number in (17, 4711, 9999):
                manager.publish(f"c{number}", "x")
                while number not in woken:
                    await asyncio.sleep(0.001)
            assert woken == [17, 4711, 9999]
            for number in range(count):
                manager.publish(f"c{number}", "x")
            await asyncio.gather(*tasks)
            assert sorted(woken) == list(range(count))

        run(main())


def test_timeouts_create_no_timer_per_call(manager: ChannelManager) -> None:
    class Counting(asyncio.SelectorEventLoop):
        timers = 0

        def call_at(self, *arguments: Any, **options: Any) -> asyncio.TimerHandle:
            self.timers += 1
            return super().call_at(*arguments, **options)

    loop = Counting()

    async def main() -> None:
        sub = manager.subscribe("c", "u")
        for number in range(1000):
            loop.call_soon(manager.publish, "c", str(number))
            assert await sub.recv_async(timeout=30) == str(number)
        assert loop.timers <= 2, loop.timers
        # An earlier deadline is kept all the same, and a later one after it.
        waits = [asyncio.create_task(sub.recv_async(timeout=seconds)) for seconds in (0.3, 0.05, 0.1)]
        start = loop.time()
        done, _ = await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        assert done == {waits[1]}
        assert loop.time() - start < 0.3
        results = await asyncio.gather(*waits, return_exceptions=True)
        assert [type(result) for result in results] == [TimeoutError] * 3

    try:
        loop.run_until_complete(main())
        print(f"{loop.timers} timers for 1,000 waits with a time-out")
    finally:
        loop.close()


def test_time_outs_of_every_length(manager: ChannelManager, run: Callable[[Coroutine[Any, Any, Any]], Any]) -> None:
    """Also those that are over before the loop has a timer for them."""

    async def main() -> None:
        sub = manager.subscribe("c", "u")
        waits = [sub.recv_async(timeout=10.0**-exponent) for exponent in range(1, 12) for _ in range(5)]
        assert {type(result) for result in await asyncio.gather(*waits, return_exceptions=True)} == {TimeoutError}

    run(main())


def test_several_loops_in_several_threads(manager: ChannelManager) -> None:
    got: list[Any] = []

    def worker(number: int) -> None:
        async def main() -> None:
            sub = manager.subscribe("c", f"u{number}")
            ready.release()
            got.extend([await sub.recv_async(timeout=20) for _ in range(50)])

        asyncio.run(main())

    ready = threading.Semaphore(0)
    threads = [threading.Thread(target=worker, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for _ in threads:
        ready.acquire()
    for number in range(50):
        assert manager.publish("c", str(number)) == 6
        time.sleep(0.001)
    for thread in threads:
        thread.join(20)
    assert sorted(got) == sorted(str(number) for number in range(50) for _ in threads)


def test_a_loop_that_ends_leaves_nothing_behind(name: str, run: Callable[[Coroutine[Any, Any, Any]], Any]) -> None:
    with Segment.open(name, size="4MiB") as segment:
        manager = ChannelManager(segment=segment)
        manager.create_channel("c")

        async def main() -> None:
            sub = manager.subscribe("c", "u")
            waiting = asyncio.create_task(sub.recv_async())
            with pytest.raises(TimeoutError):
                await sub.recv_async(timeout=0.001)
            waiting.cancel()

        run(main())
        gc.collect()
        before = descriptors()
        for _ in range(20):
            run(main())
        gc.collect()
        assert descriptors() <= before
        assert not list(Path("/dev/shm").glob(f"*{name}@*"))


def test_a_loop_that_is_closed_without_a_word_leaves_nothing_for_long(manager: ChannelManager) -> None:
    async def main() -> None:
        with pytest.raises(TimeoutError):
            await manager.subscribe("c", "u").recv_async(timeout=0.001)

    def abandon() -> None:
        loop = asyncio.new_event_loop()
        loop.run_until_complete(main())
        loop.close()

    abandon()
    gc.collect()
    before = len(descriptors())
    for _ in range(20):
        abandon()
    gc.collect()
    assert len(descriptors()) <= before + 1


def test_subscribe_async_wakes_at_once_and_ends_cleanly(manager: ChannelManager) -> None:
    async def main() -> None:
        got: list[Any] = []
        task = asyncio.create_task(manager.subscribe_async("c", "u", got.append, poll_interval=60))
        await asyncio.sleep(0.01)
        assert manager.get_subscribers("c") == ["u"]
        manager.publish("c", "1")
        await asyncio.sleep(0.05)
        assert got == ["1"]
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert manager.get_subscribers("c") == []
        assert manager.publish("c", "nobody") == 0
        task = asyncio.create_task(manager.subscribe_async("c", "u", got.append))
        await asyncio.sleep(0.01)
        manager.publish("c", "2")
        manager.remove_channel("c")
        await asyncio.wait_for(task, 10)
        assert got == ["1", "2"]

    asyncio.run(main())


def test_a_wait_in_a_forked_child_is_its_own(name: str) -> None:
    """The parent's loop, thread and bells are inherited, and of no use in the child."""
    with Segment.open(name, size="4MiB") as segment:
        manager = ChannelManager(segment=segment)
        manager.create_channel("c")
        manager.create_channel("ready")
        sub = manager.subscribe("c", "u")
        ready = manager.subscribe("ready", "parent")

        async def wait(seconds: float) -> Any:
            return await sub.recv_async(timeout=seconds)

        for wait_once in (lambda: asyncio.run(wait(0.001)), lambda: sub.recv(0.001)):
            with pytest.raises(TimeoutError):
                wait_once()
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                sub.drain()
                manager.publish("ready", "child")
                code = 0 if asyncio.run(wait(20)) == "1" and sub.recv(timeout=20) == "2" else 2
            finally:
                os._exit(code)
        assert ready.recv(timeout=20) == "child"
        for message in "12":
            assert manager.publish("c", message) == 2
            assert sub.recv(timeout=20) == message
            time.sleep(0.05)
        assert os.waitpid(pid, 0)[1] == 0


# ---- foreign loops


def test_fileno_is_readable_while_there_may_be_news(manager: ChannelManager) -> None:
    manager.create_channel("d")
    one, two = manager.subscribe("c", "u"), manager.subscribe("d", "u")

    def readable(seconds: float = 0) -> bool:
        return bool(select.select([one.fileno()], [], [], seconds)[0])

    assert one.fileno() == two.fileno(), "one bell for each thread"
    assert not readable()
    later(0.05, manager.publish, "c", "1")
    assert readable(10)
    assert one.try_recv() == "1"
    assert two.try_recv() is None
    assert readable(), "one was not found empty yet"
    assert one.try_recv() is None
    assert not readable()
    manager.publish("c", "2")
    manager.publish("d", "3")
    assert readable()
    assert one.drain() == ["2"]
    assert readable(), "the other one has news"
    assert two.drain() == ["3"]
    assert not readable()
    manager.publish("c", "4")
    one.close()
    assert two.try_recv() is None
    assert not select.select([two.fileno()], [], [], 0)[0]
    manager.remove_channel("d")
    assert select.select([two.fileno()], [], [], 10)[0], "the end is news"
    assert two.ended


def test_a_selector_serves_several_segments(name: str) -> None:
    selector = selectors.DefaultSelector()
    with Segment.open(name, size="4MiB") as segment:
        managers = [ChannelManager(segment=segment), ChannelManager()]
        subs = []
        for manager in managers:
            manager.create_channel("c")
            sub = manager.subscribe("c", "u")
            selector.register(sub.fileno(), selectors.EVENT_READ, sub)
            subs.append(sub)
        got = []
        for number in range(50):
            managers[number % 2].publish("c", str(number))
            for key, _ in selector.select(10):
                got += key.data.drain()
        assert got == [str(number) for number in range(50)]
        for sub in subs:
            selector.unregister(sub.fileno())
            sub.close()


# ---- greenlets


def test_greenlets_wait_without_blocking_each_other() -> None:
    source = """
    from gevent import monkey
    monkey.patch_all()
    import gevent, time
    from hypern_realtime_shm import ChannelManager, PresenceTracker
    manager = ChannelManager()
    for number in range(50):
        manager.create_channel(f"c{number}")
    subs = [manager.subscribe(f"c{number}", "u") for number in range(50)]
    got = []
    ticks = 0
    def tick():
        global ticks
        while True:
            gevent.sleep(0.001)
            ticks += 1
    def wait(number):
        for message in subs[number]:
            got.append((number, message))
    ticking = gevent.spawn(tick)
    waiting = [gevent.spawn(wait, number) for number in range(50)]
    gevent.sleep(0.05)
    for number in range(50):
        manager.publish(f"c{number}", "x")
    while len(got) < 50:
        gevent.sleep(0.001)
    assert sorted(got) == [(number, "x") for number in range(50)], got
    try:
        subs[0].recv(timeout=0.05)
        raise AssertionError
    except TimeoutError:
        pass
    before = ticks
    while ticks < before + 50:  # while all others wait
        gevent.sleep(0.001)
    for number in range(50):
        manager.remove_channel(f"c{number}")
    gevent.joinall(waiting, timeout=10)
    assert all(greenlet.ready() for greenlet in waiting)
    tracked = PresenceTracker()
    watch = tracked.watch("room")
    assert not watch.next(timeout=1).joins
    gevent.spawn_later(0.05, tracked.track, "room", "ada")
    assert [info.client_id for info in watch.next(timeout=10).joins] == ["ada"]
    print("done", flush=True)
    """
    run = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(source)], capture_output=True, text=True, timeout=60, check=False
    )
    assert run.stdout == "done\n", run.stderr
