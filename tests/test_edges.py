"""The edges of the Python face: what there is no room for, use after close, references, and
the end of the interpreter."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import gc
import os
import pickle
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import hypern_realtime_shm as rt
from hypern_realtime_shm import RealtimeHub, Segment, _engine
from hypern_realtime_shm import inspect as looking
from tests.public import PUBLIC, World

LONE = "a \ud800 alone"
Use = Callable[[RealtimeHub], Any]


def state(hub: RealtimeHub) -> object:
    """All that an argument that was refused must not have changed."""
    channels = sorted(hub.channels.list_channels())
    return (
        channels,
        [hub.channels.get_stats(name).total_messages for name in channels],
        [sorted(hub.channels.get_subscribers(name)) for name in channels],
        sorted(hub.presence.active_channels()),
        sorted(info.client_id for info in hub.presence.list("c")),
        sorted(hub.heartbeat.client_ids()),
        sorted(hub.broadcast.list_channels()),
        hub.broadcast.stats("b").total_sent,
        sorted(hub.channels.topic_matcher.patterns()),
    )


@pytest.fixture
def hub(segment: Segment) -> RealtimeHub:
    made = RealtimeHub(segment=segment)
    made.channels_segment = segment  # type: ignore[attr-defined]
    made.create_channel("c")
    made.broadcast.create("b")
    made.join("c", "u", {"k": "v"}).close()
    return made


@pytest.mark.parametrize(
    "use",
    [
        lambda hub: hub.presence.track("c", "n", {"x": "x" * 50_000_000}),
        lambda hub: hub.join("c", "n", {"x": "x" * 50_000_000}),
        lambda hub: hub.publish("c", "x" * 50_000_000),
        lambda hub: hub.channels.create_channel("n", metadata={"x": "x" * 50_000_000}),
        lambda hub: hub.create_channel("n", 2**10, rt.BroadcastConfig(buffer_size=2**20)),
    ],
)
def test_what_there_is_no_room_for(hub: RealtimeHub, use: Use) -> None:
    before = state(hub)
    with pytest.raises(rt.SegmentFull, match="raise") as error:
        use(hub)
    assert error.value.setting in ("size", "ring_slots")
    assert state(hub) == before, "half done"


def test_use_after_close(name: str) -> None:
    segment = Segment.open(name, size="1MiB")
    hub = RealtimeHub(segment=segment)
    hub.create_channel("c")
    hub.broadcast.create("b")
    sub, pattern, watch = hub.join("c", "u"), hub.channels.subscribe_pattern("*", "u"), hub.presence.watch("c")
    rx, matcher = hub.broadcast.subscribe("b"), hub.channels.topic_matcher
    waits = _engine.Waitlist(sub)
    closed = [hub.channels.subscribe("c", "v"), hub.broadcast.subscribe("b"), hub.channels.subscribe_pattern("*", "v")]
    for handle in closed:
        handle.close()
        handle.close()
        assert handle.closed
        for use in (handle.try_recv, handle.drain, handle.try_recv_message, partial(handle.recv, timeout=1)):
            with pytest.raises(rt.SubscriberClosed):
                use()
        assert list(handle) == []
    gone = hub.presence.watch("c")
    gone.close()
    with pytest.raises(rt.SubscriberClosed):
        gone.try_next()
    segment.close()
    segment.close()
    for use in (partial(waits.park, sub), waits.take, partial(matcher.match_topic, "c"), pattern.try_recv):
        with pytest.raises(rt.SegmentClosed):
            use()
    for handle in (sub, pattern, rx, watch):
        handle.close()
    for tell in (sub.channel_name, sub.client_id, sub.missed_count, repr(sub), repr(segment), segment.name):
        assert tell is not None, "what is known without the segment is still told"


# What needs no segment, or opens one.
STILL_GOOD = {
    *("BroadcastConfig", "HeartbeatConfig", "Message", "PresenceDiff", "PresenceInfo", "SSEEvent"),
    *("Segment", "Segment.attach", "Segment.open", "Segment.private", "Segment.unlink", "unlink_segment"),
    *("Segment.close", "Subscriber.close", "BroadcastSubscriber.close", "PresenceWatch.close"),
    *("Subscriber.messages", "BroadcastSubscriber.messages", "end_streams", "unique_name", "segments"),
    *(f"HeartbeatMonitor.sse_{field}" for field in ("heartbeat_event", "keepalive_comment", "retry_field")),
    *("HeartbeatMonitor.make_sse_event", "TopicMatcher.pattern_matches"),
    # A thread that finds its segment closed ends.
    *("HeartbeatMonitor.start_heartbeat_thread", "HeartbeatThread", "HeartbeatThread.stop"),
    *("Collector", "Collector.collect", "asgi_app", "wsgi_app", "registry"),
}


def test_everything_after_its_segment_was_closed(world: World) -> None:
    inspectors = {public.name for public in PUBLIC if public.name.startswith("Inspector")}
    world.segment.close()
    good = set()
    for public in sorted(PUBLIC, key=lambda public: public.name.endswith(("close", "unlink", "unlink_segment"))):
        arguments = {"segment": world.segment} if "segment" in public.signature.parameters else {}
        try:
            public.use(world, **arguments)
        except rt.SegmentClosed:
            continue
        good.add(public.name)
    assert good == STILL_GOOD | inspectors


@pytest.mark.parametrize("name_of_class", ["Subscriber", "BroadcastSubscriber", "PresenceWatch"])
def test_everything_of_a_handle_that_was_closed(world: World, name_of_class: str) -> None:
    methods = [public for public in PUBLIC if public.name.startswith(f"{name_of_class}.")]
    (close,) = (public for public in methods if public.name.endswith(".close"))
    close.use(world)
    good = set()
    for public in methods:
        try:
            public.use(world)
        except rt.SubscriberClosed:
            continue
        good.add(public.name.partition(".")[2])
    assert good == ({"close"} if name_of_class == "PresenceWatch" else {"close", "messages"})


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")


def test_no_call_leaks(hub: RealtimeHub, name: str) -> None:
    """Every call again and again: neither memory nor the count of any object that was passed or got grows."""
    times = int(os.environ.get("LEAKS", "10000"))
    sub, rx, watch = hub.channels.subscribe("c", "s"), hub.broadcast.subscribe("b"), hub.presence.watch("c")
    matcher = hub.channels.topic_matcher
    text, metadata = "a text of its own " * 3, {"a key of its own": "a value of its own"}

    def recv_nothing() -> None:
        sub.drain()
        with pytest.raises(TimeoutError):
            sub.recv(timeout=0)

    def refused() -> None:
        with pytest.raises(KeyError):
            hub.publish(text, text)
        with pytest.raises(TypeError):
            hub.publish("c", None)  # type: ignore[arg-type]
        with pytest.raises(UnicodeEncodeError):
            hub.publish("c", LONE)
        with pytest.raises(TypeError, match="client_id"):
            hub.presence.touch("c", metadata)  # type: ignore[arg-type]
        with pytest.raises(UnicodeEncodeError, match="client_id"):
            hub.heartbeat.ping(LONE)
        with pytest.raises(TypeError, match="metadata"):
            hub.presence.track("c", text, {text: None})  # type: ignore[dict-item]
        with pytest.raises(ValueError, match="timeout"):
            sub.recv(timeout=float("nan"))
        with pytest.raises(ValueError, match="buffer_size"):
            hub.channels.create_channel(text, 0)

    loop = asyncio.new_event_loop()

    async def receive() -> None:
        task = asyncio.ensure_future(sub.recv_async())
        async with hub.channels.subscribe_pattern("#", "s") as every:
            cancelled = asyncio.ensure_future(every.recv_async())
            await asyncio.sleep(0)
            cancelled.cancel()
            hub.publish("c", text)
            assert await task == text
        with pytest.raises(TimeoutError):
            await sub.recv_message_async(timeout=0)

    def stream() -> None:
        with contextlib.closing(hub.sse_stream_sync("c", text, metadata)) as chunks:
            next(chunks)
            hub.publish("c", text)
            next(chunks)

    def watch_and_look() -> None:
        with hub.presence.watch("c") as opened:
            opened.next(timeout=1)
        looker = looking.Inspector(name)
        looker.overview()
        looker.tail("c", last=2)

    def descriptor() -> None:
        with hub.channels.subscribe("c", text) as opened:
            opened.fileno()
        hub.channels.unsubscribe("c", text)

    calls: dict[str, Callable[[], Any]] = {
        "asyncio": lambda: loop.run_until_complete(receive()),
        "a stream": stream,
        "watch and inspect": watch_and_look,
        "fileno": descriptor,
        "json and dicts": lambda: (
            hub.presence.track_json("c", text, {"n": 1}),
            hub.presence.list_as_dicts("c"),
            hub.presence.diff_as_dict("c"),
            hub.presence.untrack("c", text),
            hub.broadcast.send_json("b", {"n": [1, text]}),
        ),
        "objects": lambda: (
            rt.Message("c", text, "1-1"),
            rt.PresenceInfo(text, "c", metadata).metadata,
            rt.HeartbeatConfig(max_retries=3),
            rt.BroadcastConfig(),
            repr(hub),
        ),
        "publish, try_recv": lambda: (hub.publish("c", text), sub.try_recv()),
        "bytes, try_recv_message": lambda: (hub.publish("c", b"bytes"), sub.try_recv_message()),
        "publish_json, drain, replay": lambda: (
            hub.publish_json("c", metadata),
            sub.drain(),
            hub.channels.replay("c", limit=2),
        ),
        "publish_to_topic, recv": lambda: (hub.channels.publish_to_topic("*", text), sub.recv(timeout=1)),
        "recv nothing": recv_nothing,
        "create, remove": lambda: (hub.channels.create_channel(text, 16, metadata), hub.channels.remove_channel(text)),
        "subscribe, close": lambda: (hub.channels.subscribe("c", text).close(), hub.channels.unsubscribe("c", text)),
        "subscribe_pattern": lambda: hub.channels.subscribe_pattern("c:*", text).close(),
        "stats": lambda: (hub.channels.get_stats("c"), hub.channels.get_subscribers("c"), hub.channels.list_channels()),
        "track, untrack": lambda: (hub.presence.track("c", text, metadata), hub.presence.untrack("c", text)),
        "update, touch, get": lambda: (
            hub.presence.update("c", "u", metadata),
            hub.presence.touch("c", "u"),
            hub.presence.get("c", "u"),
        ),
        "list, flush_diff, watch": lambda: (hub.presence.list("c"), hub.presence.flush_diff("c"), watch.try_next()),
        "join, leave": lambda: (hub.join("c", text, metadata).close(), hub.leave("c", text)),
        "disconnect": lambda: (hub.join("c", text).close(), hub.disconnect(text)),
        "send, rx": lambda: (hub.broadcast.send("b", text, None), rx.try_recv(), hub.broadcast.stats("b")),
        "send_many": lambda: (hub.broadcast.send_many(["b", "none"], text), rx.drain(), hub.broadcast.global_stats()),
        "heartbeat": lambda: (
            hub.heartbeat.register(text, "1-1"),
            hub.heartbeat.ping(text),
            hub.heartbeat.pong(text),
            hub.heartbeat.client_info(),
            hub.heartbeat.check_timeouts(),
            hub.heartbeat.unregister(text),
        ),
        "topics": lambda: (
            matcher.subscribe("t:*", text),
            matcher.match_topic("t:x"),
            matcher.patterns(),
            matcher.unsubscribe_all(text),
        ),
        "sse": lambda: hub.heartbeat.make_sse_event(text, event="e", id="1-1").to_bytes(),
        "matcher": lambda: hub.channels.topic_matcher,
        "managers": lambda: rt.ChannelManager(segment=hub.channels_segment),  # type: ignore[attr-defined]
        "refused": refused,
    }
    passed = [text, metadata, *metadata, *metadata.values(), None, KeyError]
    slow = ("managers", "refused", "recv nothing", "asyncio", "a stream", "watch and inspect", "fileno")
    total = 0
    for what, call in calls.items():
        few = max(1, times // 20) if what in slow else times
        for _ in range(few // 4 + 1):
            call()
        gc.collect()
        counts, objects, memory = [sys.getrefcount(each) for each in passed], len(gc.get_objects()), resident()
        for _ in range(few):
            call()
        gc.collect()
        more = [sys.getrefcount(each) - before for each, before in zip(passed, counts, strict=True)]
        total += few
        assert max(more) < max(100, few // 50), f"{what}: {more} more references after {few} calls"
        assert len(gc.get_objects()) - objects < 100, what
        grown = resident() - memory
        assert grown < 4 << 20, f"{what}: {grown} bytes more after {few} calls"
        print(f"{what}: {few} times, {max(more)} references and {grown >> 10} KiB more", flush=True)
    loop.close()
    print(f"{len(calls)} groups of calls, {total} times in all, resident {resident() >> 20} MiB")


ENDS = {
    "a thread in recv": "in_a_thread(sub.recv)",
    "a thread in a pattern's": "p = hub.channels.subscribe_pattern('*', 'u'); in_a_thread(p.recv)",
    "a thread in a watch": "w = hub.presence.watch('c'); w.try_next(); in_a_thread(w.next)",
    "threads in recv with a timeout": "for _ in range(8): in_a_thread(lambda: sub.recv(60))",
    "an iterating thread": "in_a_thread(lambda: list(sub))",
    "a loop in a thread": "in_a_thread(lambda: asyncio.run(until_closed(sub)))",
    "a pending task": """
loop = asyncio.new_event_loop()
task = loop.create_task(until_closed(sub))
loop.run_until_complete(asyncio.sleep(0.05))
task.cancel()
try:
    loop.run_until_complete(task)
except asyncio.CancelledError:
    pass
loop.close()
""",
    "asyncio.run with a task left": """
async def main():
    global task
    task = asyncio.create_task(sub.recv_async())
    await asyncio.sleep(0.05)
asyncio.run(main())
""",
    "a stream in a thread": "in_a_thread(lambda: list(hub.sse_stream_sync('c', 'v')))",
    "a stream in a loop": """
async def serve():
    async for _ in hub.sse_stream('c', 'v'):
        pass
in_a_thread(lambda: asyncio.run(serve()))
""",
    "finalizers that call": """
class Last:
    def __init__(self, call, *arguments):
        self.call, self.arguments, self.me = call, arguments, self
    def __del__(self):
        try:
            self.call(*self.arguments)
        except (rt.SegmentClosed, rt.SubscriberClosed):
            pass
last = [Last(hub.publish, 'c', 'x'), Last(sub.try_recv), Last(sub.recv, 60), Last(sub.close), Last(segment.close),
        Last(hub.join, 'c', 'w'), Last(segment.stats), Last(hub.sse_stream_sync, 'c', 'w')]
""",
    "a recv when all is over": """
def over():
    try:
        sub.recv()
    except rt.SegmentClosed:
        pass
import atexit
from hypern_realtime_shm import _engine
atexit.register(over)
atexit.register(_engine.detach_all)
""",
    "a heartbeat thread": "hub.heartbeat.start_heartbeat_thread()",
    "a segment closed under a thread": "in_a_thread(lambda: until_error(sub)); time.sleep(0.05); segment.close()",
    "everything left open": "subs = [hub.channels.subscribe('c', str(i)) for i in range(100)]; subs[0].fileno()",
}


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("how", ["the end", "sys.exit", "an exception"])
def test_the_interpreter_ends_cleanly(name: str, end: str, how: str) -> None:
    last = {"the end": "", "sys.exit": "sys.exit(0)", "an exception": "raise RuntimeError('expected')"}[how]
    source = f"""
import asyncio, sys, threading, time
import hypern_realtime_shm as rt
def in_a_thread(run):
    before = segment.stats()["waiters"]
    threading.Thread(target=run, daemon=True).start()
    while segment.stats()["waiters"] == before:
        time.sleep(0.001)
async def until_closed(sub):
    try:
        await sub.recv_async()
    except rt.SegmentClosed:
        pass
def until_error(sub):
    try:
        sub.recv()
    except rt.SegmentClosed:
        pass
segment = rt.Segment.open({name!r}, size="1MiB")
hub = rt.RealtimeHub(segment=segment)
hub.create_channel("c")
sub = hub.join("c", "u")
{ENDS[end]}
time.sleep(0.1)
print("ending", flush=True)
{last}
"""
    start = time.monotonic()
    run = subprocess.run(
        [sys.executable, "-X", "dev", "-W", "error", "-c", source],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    took = time.monotonic() - start
    assert run.stdout == "ending\n"
    expected = 1 if how == "an exception" else 0
    assert run.returncode == expected, (run.returncode, run.stderr)
    if how != "an exception":
        assert run.stderr == "", run.stderr
    else:
        assert run.stderr.count("Traceback") == 1, run.stderr
        assert run.stderr.strip().endswith("RuntimeError: expected"), run.stderr
    with Segment.attach(name) as again:
        assert again.reap() == 0, "it has left in order"
        assert RealtimeHub(segment=again).channels.has_channel("c")
    print(f"{end}, {how}: {took:.2f} s")


def test_another_interpreter_of_the_process_is_refused() -> None:
    """Before it could use what is the first one's; and the first one goes on."""
    source = """
import sys
try:
    import _interpreters as interpreters
except ImportError:
    import _xxsubinterpreters as interpreters
import hypern_realtime_shm as rt
hub = rt.RealtimeHub()
hub.create_channel("c")
sub = hub.join("c", "u")
refused = '''
try:
    import hypern_realtime_shm
except ImportError:
    print("refused", flush=True)
else:
    print("taken", flush=True)
'''
kinds = [{}]
if sys.version_info[:2] == (3, 12):
    kinds.append({"isolated": False})
for kind in kinds:
    other = interpreters.create(**kind)
    interpreters.run_string(other, refused)
    interpreters.destroy(other)
if sys.version_info >= (3, 13):
    other = interpreters.create("legacy")
    interpreters.run_string(other, refused)
    interpreters.destroy(other)
hub.publish("c", "goes on")
print(sub.recv(timeout=1))
"""
    run = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, timeout=60, check=False)
    lines = run.stdout.splitlines()
    assert (run.returncode, lines[-1:], {*lines[:-1]}) == (0, ["goes on"], {"refused"}), run


def test_handles_are_neither_copied_nor_pickled(world: World) -> None:
    """A copy would be a second owner of one stay or cursor."""
    hub = world.hub
    handles = [world.segment, hub.channels, hub.presence, hub.broadcast, hub.heartbeat, hub.channels.topic_matcher]
    handles += [world.sub, world.rx, world.watch, hub.sse_stream("c", "s"), hub.sse_stream_sync("c", "s")]
    for handle in handles:
        for use in (pickle.dumps, copy.copy, copy.deepcopy):
            with pytest.raises(TypeError, match=f"cannot pickle.*{type(handle).__name__}"):
                use(handle)
    del handles, handle
    gc.collect()
    assert hub.presence.get("c", "s") is None
    assert hub.publish("c", "x") == 1


@pytest.mark.parametrize("make", [lambda: rt.SSEStream(), lambda: rt.SSEStream.__new__(rt.SSEStream)])
def test_a_stream_that_was_never_made_says_nothing(make: Callable[[], Any], capsys: pytest.CaptureFixture[str]) -> None:
    with contextlib.suppress(TypeError):
        make()
    gc.collect()
    assert capsys.readouterr().err == ""
