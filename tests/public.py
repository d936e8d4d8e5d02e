"""Everything public that can be called, found by introspection, with right and wrong arguments: for tests that go over
all of it. What nobody has described here is a failure."""

from __future__ import annotations

import asyncio
import inspect
import itertools
from collections.abc import Callable, Iterator
from functools import partial
from types import ModuleType
from typing import Any, NamedTuple

import pytest
from typing_extensions import is_typeddict

import hypern_realtime_shm as rt
from hypern_realtime_shm import RealtimeHub, Segment, heartbeat, metrics, testing
from hypern_realtime_shm import inspect as looking

LONE = "a \ud800 alone"
CIRCLE: list[Any] = []
CIRCLE.append(CIRCLE)
NAN, INF = float("nan"), float("inf")
NO_TEXT = (5, True, b"bytes", 1.5, ["c"], object())
NO_NUMBER = ("5", b"5", [5], object(), 1j)
HUGE = (2**200, 10**5000)


class Kind(NamedTuple):
    """What an argument may be, by what it may not be, and something that it may be."""

    right: Callable[[World], Any]
    wrong_type: tuple[Any, ...] = ()
    out_of_bounds: tuple[Any, ...] = ()
    no_unicode: tuple[Any, ...] = ()


class World(NamedTuple):
    """One object of each class, in a segment of the test's own."""

    segment: Segment
    hub: RealtimeHub
    sub: rt.Subscriber
    rx: rt.BroadcastSubscriber
    watch: rt.PresenceWatch
    looking: looking.Inspector
    collector: metrics.Collector


def fixed(value: Any, *wrong: tuple[Any, ...]) -> Kind:
    return Kind(lambda _: value, *wrong)


def text(value: str, *out_of_bounds: str) -> Kind:
    return fixed(value, NO_TEXT, out_of_bounds, (LONE,))


def whole(value: int, low: int, high: int) -> Kind:
    return fixed(value, (*NO_NUMBER, 1.5, NAN, INF), (low - 1, -(2**63) - 1, high + 1, *HUGE, -(10**5000)))


def among(value: Any, *wrong: Any) -> Kind:
    """An instance of a class."""
    return fixed(value, (*NO_TEXT, *wrong))


LONG = "x" * 5000
NAME = text("c")
BUFFER = whole(16, 1, 2**20)
COUNT = whole(4, 0, 2**32 - 1)
ANY_COUNT = whole(4, 0, 2**64 - 1)
YES_OR_NO = fixed(False, (1, 0, "yes", object()))
SECONDS = fixed(5.0, NO_NUMBER, (-1, -0.5, NAN, -INF, 10**400))
TIMEOUT = fixed(0.0, NO_NUMBER, (NAN, 10**400))
TEXTS = fixed({"k": "v"}, (5, "x", ["x"], {1: "x"}, {"x": None}), (), ({"k": LONE}, {LONE: "v"}))
LINE = text("x", "a\nb", "a\rb", "a\0b")
SEGMENT = Kind(lambda world: world.segment, (5, b"x", object()), ("", "a/b", "x" * 300), (LONE,))
MESSAGE = fixed("x", (5, True, bytearray(b"x"), ["x"], object()), (), (LONE,))
CALLBACK = fixed(print, (5, "print", object()))
PLAIN = fixed(print, (5, "print", object(), asyncio.sleep))
ANYTHING = fixed(None)  # kept for compatibility, only told apart by its truth, or only put into a text

KINDS: dict[str, Kind] = {
    "broadcast_config": among(rt.BroadcastConfig()),
    "buffer_size": BUFFER,
    "callback": CALLBACK,
    "channel": NAME,
    "channel_buffer_size": BUFFER,
    "channel_name": NAME,
    "channels": COUNT,
    "client_id": text("u"),
    "clients": COUNT,
    "config": among(rt.BroadcastConfig()),
    "create": YES_OR_NO,
    "data": fixed({}, (object(), {1, 2}, [b"x"]), (CIRCLE,)),
    "dedup_enabled": YES_OR_NO,
    "dedup_window": COUNT,
    "default_buffer_size": BUFFER,
    "event": LINE,
    "event_id": text("1-1", LONG),
    "heartbeat_config": among(rt.HeartbeatConfig(), rt.BroadcastConfig()),
    "hub": Kind(lambda world: world.hub),  # anything with the parts of a hub
    "id": LINE,
    "interval": TIMEOUT,
    "interval_secs": SECONDS,
    "kind": text("channel", "nonsense"),
    "last": ANY_COUNT,
    "last_event_id": fixed("1-1", NO_TEXT),  # what came from a client and is no id only means nothing
    "limit": ANY_COUNT,
    "max_processes": whole(4, 1, 4095),
    "max_retries": COUNT,
    "members": COUNT,
    "message": MESSAGE,
    "message_id": text("m"),
    "metadata": TEXTS,
    "missing_ok": ANYTHING,
    "monitor": Kind(lambda world: world.hub.heartbeat),  # anything with a monitor's methods
    "name": NAME,
    "names": fixed(["b"], ("b", 5, {"b"}, ["b", None]), (), (["b", LONE],)),
    "namespace": text("n", LONG),
    "on_dead": CALLBACK,
    "on_ping": CALLBACK,
    "on_timeout": CALLBACK,
    "pattern": text("c:*"),
    "policy": among(rt.BackpressurePolicy.Error),
    "poll_interval": ANYTHING,
    "prefix": ANYTHING,
    "retry": ANY_COUNT,
    "ring_slots": COUNT,
    "segment": SEGMENT,
    "send_keepalive": YES_OR_NO,
    "size": fixed(2**20, (1.5, b"1", [1], NAN), (0, -1, 2**63, 2**64, *HUGE, "nonsense", "", LONE, "9" * 400, "-1")),
    "sse_retry_ms": ANY_COUNT,
    "timeout": TIMEOUT,
    "timeout_secs": SECONDS,
    "top_channels": ANY_COUNT,
    "topic": text("c"),
    "tracker": Kind(lambda world: world.hub.presence, (5, "x", object())),
    "unlink_when_unused": YES_OR_NO,
    "waiters": COUNT,
    "after": text("1-1"),
}
# What goes by the same name and is something else, or has a bound in this place: by callable and parameter.
BOUNDED = text("u", LONG)
SPECIAL: dict[tuple[str, str], Kind] = {
    **{
        (f"Inspector.{method}", "namespace"): text("")
        for method in ("channel", "channels", "clients", "follow", "members", "names", "tail", "topics")
    },
    ("Segment", "size"): fixed(2**20, (*NO_NUMBER, NAN), (0, -1, 2**63, 2**64, *HUGE)),
    ("Segment", "create"): YES_OR_NO._replace(right=lambda _: True),
    ("Message", "data"): MESSAGE._replace(no_unicode=()),
    ("Message", "id"): NAME,
    ("SSEEvent", "data"): NAME,
    ("HeartbeatMonitor", "config"): among(rt.HeartbeatConfig(), rt.BroadcastConfig()),
    ("HeartbeatMonitor.make_sse_event", "data"): NAME,
    ("HeartbeatMonitor.register", "last_event_id"): text("1-1", LONG),
    ("HeartbeatMonitor.start_heartbeat_thread", "on_ping"): PLAIN,
    ("HeartbeatMonitor.start_heartbeat_thread", "on_timeout"): PLAIN,
    ("HeartbeatMonitor.start_heartbeat_thread", "on_dead"): PLAIN,
    ("PresenceTracker.track_json", "metadata"): fixed({"k": 5}, (5, "x", ["x"])),
    ("Collector", "segment"): SEGMENT._replace(out_of_bounds=("",), no_unicode=()),  # looked for at each scrape
    ("asgi_app", "segment"): SEGMENT._replace(out_of_bounds=("",), no_unicode=()),
    ("wsgi_app", "segment"): SEGMENT._replace(out_of_bounds=("",), no_unicode=()),
    ("registry", "segment"): SEGMENT._replace(out_of_bounds=("",), no_unicode=()),
    **{
        (callable_, "client_id"): BOUNDED
        for callable_ in (
            "ChannelManager.subscribe", "ChannelManager.subscribe_async", "ChannelManager.subscribe_pattern",
            "PresenceTracker.track", "PresenceTracker.track_json", "HeartbeatMonitor.register",
            "RealtimeHub.join", "RealtimeHub.sse_stream", "RealtimeHub.sse_stream_sync", "SSEStream", "SSEStreamSync",
            "TopicMatcher.subscribe",
        )
    },
    **{
        (callable_, "name"): text("c", LONG)
        for callable_ in ("ChannelManager.create_channel", "RealtimeBroadcast.create", "RealtimeHub.create_channel")
    },
    **{
        (callable_, "name"): text("c", "", "a/b", LONG)._replace(right=lambda world: world.segment.name)
        for callable_ in ("Segment", "Segment.open", "Segment.attach", "Inspector", "unlink_segment")
    },
    ("PresenceTracker.track", "channel"): text("c", LONG),
    ("PresenceTracker.track_json", "channel"): text("c", LONG),
    ("ChannelManager.subscribe_pattern", "pattern"): text("c:*", LONG),
    ("TopicMatcher.subscribe", "pattern"): text("c:*", LONG),
}  # fmt: skip
# None is right, though it is not the default.
NONE_IS_RIGHT = {
    ("Segment", "name"),
    *itertools.product(("SSEStream", "SSEStreamSync"), ("metadata", "last_event_id")),
    *itertools.product(("HeartbeatThread",), ("on_ping", "on_timeout", "on_dead")),
    ("PresenceTracker.track_json", "metadata"),
    *itertools.product(
        ("ChannelManager.publish_json", "RealtimeBroadcast.send_json", "RealtimeHub.publish_json"), ("data",)
    ),
}
for name in ("on_ping", "on_timeout", "on_dead"):
    SPECIAL["HeartbeatThread", name] = PLAIN

# The object whose methods are called; None: the class has none with parameters.
OBJECTS: dict[type, Callable[[World], Any] | None] = {
    RealtimeHub: lambda world: world.hub,
    rt.ChannelManager: lambda world: world.hub.channels,
    rt.PresenceTracker: lambda world: world.hub.presence,
    rt.RealtimeBroadcast: lambda world: world.hub.broadcast,
    rt.HeartbeatMonitor: lambda world: world.hub.heartbeat,
    rt.TopicMatcher: lambda world: world.hub.channels.topic_matcher,
    rt.Subscriber: lambda world: world.sub,
    rt.BroadcastSubscriber: lambda world: world.rx,
    rt.PresenceWatch: lambda world: world.watch,
    Segment: lambda world: world.segment,
    looking.Inspector: lambda world: world.looking,
    heartbeat.HeartbeatThread: lambda world: heartbeat.HeartbeatThread(world.hub.heartbeat, None, None, None),
    metrics.Collector: lambda world: world.collector,
    **dict.fromkeys(
        (
            rt.BackpressurePolicy, rt.BroadcastConfig, rt.BroadcastStats, rt.ChannelStats, rt.HeartbeatConfig,
            rt.HeartbeatStats, rt.Message, rt.PresenceDiff, rt.PresenceInfo, rt.SSEEvent, rt.SSEStream,
            rt.SSEStreamSync,
        )
    ),
}  # fmt: skip
# Made by the engine alone.
UNMADE = {
    rt.BackpressurePolicy, rt.BroadcastStats, rt.BroadcastSubscriber, rt.ChannelStats, rt.HeartbeatStats, rt.Subscriber,
}  # fmt: skip
MODULES: tuple[ModuleType, ...] = (rt, looking, metrics, testing, heartbeat)


class Public(NamedTuple):
    """Something public that can be called."""

    name: str
    get: Callable[[World], Callable[..., Any]]
    signature: inspect.Signature

    @property
    def is_method(self) -> bool:
        return "." in self.name

    def kind(self, parameter: str) -> Kind:
        special = SPECIAL.get((self.name, parameter))
        return KINDS[parameter] if special is None else special

    def wrong(self, parameter: str) -> Iterator[tuple[type[Exception], Any]]:
        """What an argument must not be, and what it is refused with."""
        kind, default = self.kind(parameter), self.signature.parameters[parameter].default
        if default is not None and kind.wrong_type and (self.name, parameter) not in NONE_IS_RIGHT:
            yield TypeError, None
        for error, values in zip((TypeError, ValueError, UnicodeEncodeError), kind[1:], strict=True):
            yield from ((error, value) for value in values)

    def right(self, world: World) -> dict[str, Any]:
        """Right arguments where there must be one."""
        return {
            parameter.name: self.kind(parameter.name).right(world)
            for parameter in self.signature.parameters.values()
            if parameter.default is parameter.empty
        }

    def use(self, world: World, **arguments: Any) -> Any:
        """Calls it, and waits for what is to be waited for."""
        result = self.get(world)(**{**self.right(world), **arguments})
        if inspect.iscoroutine(result):
            return asyncio.run(result)
        if inspect.isgenerator(result):
            return next(result)
        return result


def _public(name: str, get: Callable[[World], Callable[..., Any]], found: Callable[..., Any]) -> Public:
    signature = inspect.signature(found)
    parameters = [
        parameter
        for parameter in signature.parameters.values()
        if parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD) and parameter.name != "self"
    ]
    return Public(name, get, signature.replace(parameters=parameters))


def _all_public() -> Iterator[Public]:
    seen: set[Any] = set()
    for module in MODULES:
        for name in module.__all__:
            found: Any = getattr(module, name)
            ours = str(getattr(found, "__module__", "")).startswith("hypern_realtime_shm")
            if not callable(found) or found in seen or is_typeddict(found) or not ours:
                continue
            seen.add(found)
            if not isinstance(found, type):
                if found is not testing.realtime_segment:
                    yield _public(name, lambda _, found=found: found, found)
                continue
            if issubclass(found, Exception):
                continue
            if found not in UNMADE:
                yield _public(name, lambda _, found=found: found, found)
            if (made := OBJECTS[found]) is None:
                continue
            for method in dir(found):
                if not method.startswith("_") and callable(getattr(found, method)):
                    get = partial(_method, made, method)
                    yield _public(f"{name}.{method}", get, getattr(found, method))


def _method(made: Callable[[World], Any], method: str, world: World) -> Callable[..., Any]:
    found: Callable[..., Any] = getattr(made(world), method)
    return found


PUBLIC = list(_all_public())


@pytest.fixture
def world(segment: Segment) -> World:
    hub = RealtimeHub(segment=segment)
    hub.create_channel("c")
    hub.broadcast.create("b")
    hub.broadcast.create("c")
    hub.channels.topic_matcher.subscribe("c:*", "u")
    sub = hub.join("c", "u", {"k": "v"})
    assert segment.name is not None
    return World(
        segment,
        hub,
        sub,
        hub.broadcast.subscribe("b"),
        hub.presence.watch("c"),
        looking.Inspector(segment.name),
        metrics.Collector(segment),
    )
