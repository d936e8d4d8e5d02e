"""The edges of the Python face: nonsense as arguments, use after close, references, and the end of the interpreter."""

from __future__ import annotations

import gc
import os
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

LONE = "a \ud800 alone"
Use = Callable[[RealtimeHub], Any]

# Where text goes in: what takes it, and the argument's name.
TEXTS: list[tuple[str, Callable[[RealtimeHub, Any], Any]]] = [
    ("channel_name", lambda hub, text: hub.channels.publish(text, "x")),
    ("name", lambda hub, text: hub.channels.create_channel(text)),
    ("name", lambda hub, text: hub.channels.remove_channel(text)),
    ("name", lambda hub, text: hub.channels.subscribe(text, "u")),
    ("client_id", lambda hub, text: hub.channels.subscribe("c", text)),
    ("name", lambda hub, text: hub.channels.subscribe_pattern(text, "u")),
    ("channel_name", lambda hub, text: hub.channels.get_stats(text)),
    ("channel_name", lambda hub, text: hub.channels.get_subscribers(text)),
    ("client_id", lambda hub, text: hub.channels.unsubscribe("c", text)),
    ("topic", lambda hub, text: hub.channels.publish_to_topic(text, "x")),
    ("channel", lambda hub, text: hub.presence.track(text, "u")),
    ("client_id", lambda hub, text: hub.presence.track("c", text)),
    ("channel", lambda hub, text: hub.presence.list(text)),
    ("client_id", lambda hub, text: hub.presence.untrack("c", text)),
    ("client_id", lambda hub, text: hub.presence.untrack_all(text)),
    ("channel", lambda hub, text: hub.presence.watch(text)),
    ("name", lambda hub, text: hub.broadcast.create(text)),
    ("name", lambda hub, text: hub.broadcast.send(text, "x")),
    ("name", lambda hub, text: hub.broadcast.subscribe(text)),
    ("client_id", lambda hub, text: hub.heartbeat.register(text)),
    ("client_id", lambda hub, text: hub.heartbeat.pong(text)),
    ("event_id", lambda hub, text: hub.heartbeat.set_last_event_id("u", text)),
    ("pattern", lambda hub, text: hub.channels.topic_matcher.subscribe(text, "u")),
    ("topic", lambda hub, text: hub.channels.topic_matcher.match_topic(text)),
    ("namespace", lambda hub, text: rt.ChannelManager(segment=hub.channels_segment, namespace=text)),  # type: ignore[attr-defined]
]


def named(error: BaseException) -> str:
    """All that the error tells: its text, and the notes that a traceback shows (from Python 3.11 on)."""
    return "\n".join([str(error), *getattr(error, "__notes__", ())])


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


@pytest.mark.parametrize("number", range(len(TEXTS)))
def test_what_is_no_text(hub: RealtimeHub, number: int) -> None:
    argument, use = TEXTS[number]
    before = state(hub)
    for wrong in (None, 5, True, b"bytes", 1.5, ["c"], object()):
        with pytest.raises(TypeError, match="str") as error:
            use(hub, wrong)
        if sys.version_info >= (3, 11):
            assert argument in named(error.value)
    with pytest.raises(UnicodeEncodeError, match="surrogates not allowed") as surrogate:
        use(hub, LONE)
    assert isinstance(surrogate.value, ValueError)
    if sys.version_info >= (3, 11):
        assert argument in named(surrogate.value)
    assert state(hub) == before


NUMBERS: list[tuple[str, tuple[type[Exception], ...], Use]] = [
    ("buffer_size", (ValueError,), lambda hub: hub.channels.create_channel("n", 0)),
    ("buffer_size", (ValueError,), lambda hub: hub.channels.create_channel("n", -1)),
    ("buffer_size", (ValueError,), lambda hub: hub.channels.create_channel("n", 2**20 + 1)),
    ("buffer_size", (OverflowError,), lambda hub: hub.channels.create_channel("n", 10**30)),
    ("buffer_size", (TypeError,), lambda hub: hub.channels.create_channel("n", 1.5)),  # type: ignore[arg-type]
    ("buffer_size", (TypeError,), lambda hub: hub.channels.create_channel("n", "5")),  # type: ignore[arg-type]
    ("limit", (ValueError,), lambda hub: hub.channels.replay("c", limit=-1)),
    ("limit", (OverflowError,), lambda hub: hub.channels.replay("c", limit=10**30)),
    ("timeout", (ValueError,), lambda hub: hub.channels.subscribe("c", "u").recv(float("nan"))),
    ("timeout", (TypeError,), lambda hub: hub.channels.subscribe("c", "u").recv("1")),  # type: ignore[arg-type]
    ("timeout", (ValueError,), lambda hub: rest(hub).next(timeout=float("nan"))),
    ("timeout_secs", (ValueError,), lambda hub: hub.presence.evict_stale(float("nan"))),
    ("timeout_secs", (ValueError,), lambda hub: hub.presence.evict_stale(-1)),
    ("timeout_secs", (TypeError,), lambda hub: hub.presence.evict_stale("1")),  # type: ignore[arg-type]
    ("interval_secs", (ValueError,), lambda _: rt.HeartbeatConfig(interval_secs=-1)),
    ("interval_secs", (ValueError,), lambda _: rt.HeartbeatConfig(interval_secs=float("nan"))),
    ("max_retries", (OverflowError,), lambda _: rt.HeartbeatConfig(max_retries=-1)),
    ("sse_retry_ms", (OverflowError,), lambda _: rt.HeartbeatConfig(sse_retry_ms=-1)),
    ("send_keepalive", (TypeError,), lambda _: rt.HeartbeatConfig(send_keepalive=1)),  # type: ignore[arg-type]
    ("dedup_window", (OverflowError,), lambda _: rt.BroadcastConfig(dedup_window=-1)),
    ("policy", (TypeError,), lambda _: rt.BroadcastConfig(policy=1)),  # type: ignore[arg-type]
    ("max_processes", (OverflowError,), lambda _: Segment.open("edges", max_processes=-1)),
    ("max_processes", (ValueError,), lambda _: Segment.open("edges", max_processes=5000)),
    ("waiters", (OverflowError,), lambda _: Segment.open("edges", waiters=-5)),
    ("size", (TypeError,), lambda _: Segment.open("edges", size=1.5)),  # type: ignore[arg-type]
    ("size", (TypeError,), lambda _: Segment.open("edges", size=True)),
    ("size", (ValueError,), lambda _: Segment.open("edges", size=-1)),
    ("size", (ValueError,), lambda _: Segment.open("edges", size="nonsense")),
    ("name", (TypeError,), lambda _: Segment.open(None)),  # type: ignore[arg-type]
    ("name", (TypeError,), lambda _: Segment.attach(None)),  # type: ignore[arg-type]
    ("name", (TypeError,), lambda _: Segment.open(5)),  # type: ignore[arg-type]
    ("message", (TypeError,), lambda hub: hub.publish("c", None)),  # type: ignore[arg-type]
    ("message", (TypeError,), lambda hub: hub.publish("c", bytearray(b"x"))),  # type: ignore[arg-type]
    ("metadata", (TypeError,), lambda hub: hub.presence.track("c", "n", {1: "x"})),  # type: ignore[dict-item]
    ("metadata", (TypeError,), lambda hub: hub.presence.track("c", "n", {"x": None})),  # type: ignore[dict-item]
    ("metadata", (TypeError,), lambda hub: hub.presence.track("c", "n", ["x"])),  # type: ignore[arg-type]
    ("names", (TypeError,), lambda hub: hub.broadcast.send_many("b", "x")),  # type: ignore[arg-type]
    ("names", (TypeError,), lambda hub: hub.broadcast.send_many(["b", None], "x")),  # type: ignore[list-item]
    ("names", (UnicodeEncodeError,), lambda hub: hub.broadcast.send_many(["b", LONE], "x")),
    ("client_id", (ValueError,), lambda hub: hub.presence.track("c", "x" * 5000)),
    ("client_id", (ValueError,), lambda hub: hub.heartbeat.register("x" * 10**6)),
    ("pattern", (ValueError,), lambda hub: hub.channels.topic_matcher.subscribe("x" * 10**6, "u")),
    ("event_id", (ValueError,), lambda hub: hub.heartbeat.set_last_event_id("u", "x" * 10**6)),
    ("size", (rt.SegmentFull,), lambda hub: hub.presence.track("c", "n", {"x": "x" * 50_000_000})),
    ("size", (rt.SegmentFull,), lambda hub: hub.publish("c", "x" * 50_000_000)),
    ("surrogates", (UnicodeEncodeError,), lambda hub: hub.publish("c", LONE)),
    ("surrogates", (UnicodeEncodeError,), lambda hub: hub.presence.track("c", "n", {"k": LONE})),
    ("surrogates", (UnicodeEncodeError,), lambda hub: hub.presence.track("c", "n", {LONE: "v"})),
]


def rest(hub: RealtimeHub) -> rt.PresenceWatch:
    """A watch that has told what there is."""
    watch = hub.presence.watch("c")
    watch.try_next()
    return watch


@pytest.mark.parametrize("number", range(len(NUMBERS)))
def test_what_is_out_of_bounds(hub: RealtimeHub, number: int) -> None:
    argument, errors, use = NUMBERS[number]
    before = state(hub)
    with pytest.raises(errors) as error:
        use(hub)
    if sys.version_info >= (3, 11) or errors == (ValueError,):
        assert argument in named(error.value), named(error.value)
    assert len(str(error.value)) < 500, "what was given is told in short"
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
    uses: list[Callable[[], Any]] = [
        lambda: hub.create_channel("d"),
        lambda: hub.publish("c", "x"),
        lambda: hub.join("c", "w"),
        lambda: hub.leave("c", "u"),
        lambda: hub.disconnect("u"),
        lambda: hub.get_presence("c"),
        lambda: hub.get_presence_diff("c"),
        lambda: hub.channels.list_channels(),
        lambda: hub.channels.replay("c"),
        lambda: hub.channels.publish_to_topic("*", "x"),
        lambda: hub.channels.clear(),
        lambda: hub.presence.track("c", "w"),
        lambda: hub.presence.evict_stale(1),
        lambda: hub.presence.flush_diff("c"),
        lambda: hub.broadcast.send("b", "x"),
        lambda: hub.broadcast.send_many(["b"], "x"),
        lambda: hub.broadcast.global_stats(),
        lambda: hub.heartbeat.register("w"),
        lambda: hub.heartbeat.check_timeouts(),
        lambda: hub.heartbeat.stats(),
        lambda: matcher.subscribe("*", "w"),
        lambda: matcher.match_topic("x"),
        lambda: waits.park(sub),
        lambda: waits.take(),
        sub.try_recv,
        sub.drain,
        lambda: sub.recv(timeout=1),
        pattern.try_recv,
        rx.try_recv,
        watch.try_next,
        segment.stats,
        segment.reap,
        segment.check,
        segment.start_keeper,
        lambda: rt.ChannelManager(segment=segment),
    ]
    for number, use in enumerate(uses):
        with pytest.raises(rt.SegmentClosed, match="closed"):
            print(number, use())
    for handle in (sub, pattern, rx, watch):
        handle.close()
    for tell in (sub.channel_name, sub.client_id, sub.missed_count, repr(sub), repr(segment), segment.name):
        assert tell is not None, "what is known without the segment is still told"


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")


def test_no_call_leaks(hub: RealtimeHub) -> None:
    """Every call again and again: neither memory nor the count of any object that was passed or got grows."""
    times = int(os.environ.get("LEAKS", "10000"))
    sub, rx, watch = hub.channels.subscribe("c", "s"), hub.broadcast.subscribe("b"), hub.presence.watch("c")
    matcher = hub.channels.topic_matcher
    text, metadata = "a text of its own " * 3, {"a key of its own": "a value of its own"}

    def recv_nothing() -> None:
        with pytest.raises(TimeoutError):
            sub.recv(timeout=0)

    def refused() -> None:
        with pytest.raises(KeyError):
            hub.publish(text, text)
        with pytest.raises(TypeError):
            hub.publish("c", None)  # type: ignore[arg-type]
        with pytest.raises(UnicodeEncodeError):
            hub.publish("c", LONE)
        with pytest.raises(ValueError, match="buffer_size"):
            hub.channels.create_channel(text, 0)

    calls: dict[str, Callable[[], Any]] = {
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
    total = 0
    for what, call in calls.items():
        few = max(1, times // 20) if what in ("managers", "refused", "recv nothing") else times
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
    threading.Thread(target=run, daemon=True).start()
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
