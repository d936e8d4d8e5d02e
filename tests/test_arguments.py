"""Nonsense as arguments: every parameter of every public callable, found by introspection.

What is refused is a built-in exception (``TypeError`` for a wrong type, ``ValueError`` for what is out of its bounds)
whose text names the argument, and nothing is done. A parameter that no row here describes is a failure.
"""

from __future__ import annotations

import asyncio
import inspect
import itertools
import re
from collections.abc import Callable, Iterator
from pathlib import Path
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
    "broadcast": Kind(lambda world: world.hub.broadcast, (5, "x", object())),
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
    "manager": Kind(lambda world: world.hub.channels, (5, "x", object())),
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
            "Subscriber", "PresenceTracker.track", "PresenceTracker.track_json", "HeartbeatMonitor.register",
            "RealtimeHub.join", "RealtimeHub.sse_stream", "RealtimeHub.sse_stream_sync", "SSEStream", "SSEStreamSync",
            "TopicMatcher.subscribe",
        )
    },
    **{
        (callable_, "name"): text("c", LONG)
        for callable_ in ("ChannelManager.create_channel", "RealtimeBroadcast.create", "RealtimeHub.create_channel")
    },
    **{
        (callable_, "name"): text("c", "", "a/b", LONG)
        for callable_ in ("Segment", "Segment.open", "Segment.attach", "Inspector", "unlink_segment")
    },
    ("PresenceTracker.track", "channel"): text("c", LONG),
    ("PresenceTracker.track_json", "channel"): text("c", LONG),
    ("ChannelManager.subscribe_pattern", "pattern"): text("c:*", LONG),
    ("Subscriber", "pattern"): text("c:*"),
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
UNMADE = {rt.BackpressurePolicy, rt.BroadcastStats, rt.ChannelStats, rt.HeartbeatStats}
MODULES: tuple[ModuleType, ...] = (rt, looking, metrics, testing, heartbeat)


class Place(NamedTuple):
    """One parameter of one callable."""

    callable: str
    call: Callable[[World], Callable[..., Any]]
    parameter: str
    signature: inspect.Signature

    @property
    def kind(self) -> Kind:
        special = SPECIAL.get((self.callable, self.parameter))
        return KINDS[self.parameter] if special is None else special

    def wrong(self) -> Iterator[tuple[type[Exception], Any]]:
        kind, default = self.kind, self.signature.parameters[self.parameter].default
        if default is not None and kind.wrong_type and (self.callable, self.parameter) not in NONE_IS_RIGHT:
            yield TypeError, None
        for error, values in zip((TypeError, ValueError, UnicodeEncodeError), kind[1:], strict=True):
            yield from ((error, value) for value in values)

    def arguments(self, world: World, value: Any) -> dict[str, Any]:
        """Right ones where there must be one, and the value."""
        right = {
            parameter.name: place_of(self, parameter.name).kind.right(world)
            for parameter in self.signature.parameters.values()
            if parameter.default is parameter.empty
        }
        return {**right, self.parameter: value}


def place_of(place: Place, parameter: str) -> Place:
    return place._replace(parameter=parameter)


def callables() -> Iterator[tuple[str, Callable[[World], Callable[..., Any]], Callable[..., Any]]]:
    """Name, how to get at it, and itself, of all that is public and can be called."""
    seen: set[Any] = set()
    for module in MODULES:
        for name in module.__all__:
            public: Any = getattr(module, name)
            ours = str(getattr(public, "__module__", "")).startswith("hypern_realtime_shm")
            if not callable(public) or public in seen or is_typeddict(public) or not ours:
                continue
            seen.add(public)
            if not isinstance(public, type):
                if not hasattr(public, "_pytestfixturefunction") and "Fixture" not in type(public).__name__:
                    yield name, (lambda _, public=public: public), public
                continue
            if issubclass(public, Exception):
                continue
            if public not in UNMADE:
                yield name, (lambda _, public=public: public), public
            made = OBJECTS[public]
            if made is None:
                continue
            for method, member in inspect.getmembers(public):
                if not method.startswith("_") and callable(member):
                    found = getattr(public, method)
                    yield (
                        f"{name}.{method}",
                        (lambda world, made=made, method=method: getattr(made(world), method)),
                        found,
                    )


def places() -> Iterator[Place]:
    for name, call, found in callables():
        signature = inspect.signature(found)
        static = "." not in name or inspect.ismethod(found)
        parameters = [
            parameter
            for index, parameter in enumerate(signature.parameters.values())
            if parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
            and (static or index > 0 or parameter.name != "self")
        ]
        signature = signature.replace(parameters=parameters)
        for parameter in parameters:
            yield Place(name, call, parameter.name, signature)


PLACES = list(places())


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


def state(world: World) -> object:
    """All that an argument that was refused must not have changed."""
    hub = world.hub
    channels = sorted(hub.channels.list_channels())
    use = world.segment.stats()
    return (
        channels,
        [hub.channels.get_stats(name).total_messages for name in channels],
        [sorted(hub.channels.get_subscribers(name)) for name in channels],
        sorted(hub.presence.active_channels()),
        [(info.client_id, info.metadata) for info in hub.presence.list("c")],
        sorted((client, info.get("last_event_id")) for client, info in hub.heartbeat.client_info().items()),
        sorted(hub.broadcast.list_channels()),
        [hub.broadcast.stats(name).total_sent for name in ("b", "c")],
        [hub.broadcast.stats(name).active_subscribers for name in ("b", "c")],
        sorted(hub.channels.topic_matcher.patterns()),
        {name: use[name] for name in ("processes", "channels", "ring_slots", "waiters")},
        world.sub.closed,
        world.rx.closed,
        world.watch.closed,
        world.segment.closed,
        sorted(path.name for path in Path("/dev/shm").iterdir() if str(world.segment.name) in path.name),
        sorted(path.name for path in Path("/dev/shm").glob("*edges-*")),
    )


def use(call: Callable[..., Any], arguments: dict[str, Any]) -> Any:
    """Calls, and waits for what is to be waited for."""
    result = call(**arguments)
    if inspect.iscoroutine(result):
        return asyncio.run(result)
    if inspect.isgenerator(result):
        return next(result)
    return result


def shown(value: Any) -> str:
    return "too long" if isinstance(value, int) and abs(value) > 2**300 else repr(value)[:60]


def refusal(call: Callable[..., Any], arguments: dict[str, Any]) -> Exception | None:
    """What a call raises; None: it does not."""
    try:
        use(call, arguments)
    except Exception as error:
        return error
    return None


@pytest.mark.parametrize("place", PLACES, ids=lambda place: f"{place.callable}-{place.parameter}")
def test_what_is_refused_is_named_and_changes_nothing(world: World, place: Place) -> None:
    before = state(world)
    call = place.call(world)
    for expected, value in place.wrong():
        told = f"{place.callable}({place.parameter}={shown(value)})"
        error = refusal(call, place.arguments(world, value))
        assert type(error) is expected, f"{told}: {error!r}"
        text = str(error)
        # `channel` of the hub is `channel_name` of what it calls.
        assert re.search(rf"\b{place.parameter}", text), f"{told}: {text}"
        assert len(text) < 400, f"{told}: what was given is told in short"
        assert isinstance(error, UnicodeEncodeError) or "must be" in text or "no JSON" in text, f"{told}: {text}"
        if expected is ValueError and isinstance(value, (int, float)) and abs(value) < 2**70:
            assert repr(value) in text, f"{told}: {text}"
        assert state(world) == before, f"{told}: half done"


def test_every_public_callable_was_found() -> None:
    names = {place.callable for place in PLACES}
    print(
        f"{len(names)} callables, {len(PLACES)} parameters, {sum(len(list(place.wrong())) for place in PLACES)} calls"
    )
    assert {"RealtimeHub", "RealtimeHub.join", "Segment.open", "Subscriber.recv", "PresenceWatch.next_async"} <= names
    assert {"unlink_segment", "Inspector.follow", "HeartbeatThread.stop", "SSEStream", "asgi_app"} <= names
    assert {place.parameter for place in PLACES} >= KINDS.keys() - {"create"}, "a row that is of no use any more"
    for place in PLACES:
        if place.kind is not ANYTHING and place.parameter not in ("hub", "monitor"):
            assert list(place.wrong()), place


@pytest.mark.parametrize("argument", [False, True])
@pytest.mark.parametrize("call", [rt.HeartbeatConfig, rt.BroadcastConfig])
def test_a_bool_is_an_int_as_everywhere_in_python(call: Callable[..., Any], argument: bool) -> None:
    name = "max_retries" if call is rt.HeartbeatConfig else "dedup_window"
    assert getattr(call(**{name: argument}), name) == int(argument)


def test_variables_are_named(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HYPERN_SHM_NAME", name)
    numbers = ("MAX_PROCESSES", "CHANNELS", "RING_SLOTS", "MEMBERS", "CLIENTS", "WAITERS")
    wrong: list[tuple[str, list[str]]] = [(number, ["-1", "x", "1.5", "²", "9" * 30, "9" * 5000]) for number in numbers]
    wrong += [("SIZE", ["-1", "x", "0", "1KiB", "9" * 30, "9" * 400, "9999GiB"])]
    wrong += [("UNLINK_WHEN_UNUSED", ["maybe", "2", "x" * 1000]), ("NAME", ["a/b", "x" * 1000])]
    for variable, values in wrong:
        for value in values:
            with monkeypatch.context() as patched:
                patched.setenv(f"HYPERN_SHM_{variable}", value)
                with pytest.raises(ValueError, match=rf"^HYPERN_SHM_{variable} is .*; it must be") as error:
                    RealtimeHub()
                assert len(str(error.value)) < 400
    assert [path for path in Path("/dev/shm").iterdir() if name in path.name] == []


def test_what_callers_own_methods_raise_is_passed_on(world: World) -> None:
    class Mine:
        def __index__(self) -> int:
            raise LookupError("mine")

        def __float__(self) -> float:
            raise LookupError("mine")

    for call in (
        lambda: rt.HeartbeatConfig(max_retries=Mine()),  # type: ignore[arg-type]
        lambda: rt.HeartbeatConfig(interval_secs=Mine()),  # type: ignore[arg-type]
        lambda: world.hub.channels.create_channel("n", Mine()),  # type: ignore[arg-type]
    ):
        with pytest.raises(LookupError, match=r"^mine$"):
            call()
