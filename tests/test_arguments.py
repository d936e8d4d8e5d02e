"""Nonsense as arguments: every parameter of every public callable.

What is refused is a built-in exception (``TypeError`` for a wrong type, ``ValueError`` for what is out of its bounds)
whose text names the argument, and nothing is done.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import hypern_realtime_shm as rt
from hypern_realtime_shm import RealtimeHub
from tests.public import ANYTHING, KINDS, PUBLIC, SPECIAL, Public, World


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


def shown(value: Any) -> str:
    return "too long" if isinstance(value, int) and abs(value) > 2**300 else repr(value)[:60]


def refusal(call: Callable[[], Any]) -> Exception | None:
    """What a call raises; None: it does not."""
    try:
        call()
    except Exception as error:
        return error
    return None


PLACES = [(public, parameter) for public in PUBLIC for parameter in public.signature.parameters]


@pytest.mark.parametrize(("public", "parameter"), PLACES, ids=[f"{public.name}-{name}" for public, name in PLACES])
def test_what_is_refused_is_named_and_changes_nothing(world: World, public: Public, parameter: str) -> None:
    before = state(world)
    for expected, value in public.wrong(parameter):
        told = f"{public.name}({parameter}={shown(value)})"
        error = refusal(partial(public.use, world, **{parameter: value}))
        assert type(error) is expected, f"{told}: {error!r}"
        text = str(error)
        # `channel` of the hub is `channel_name` of what it calls.
        assert re.search(rf"\b{parameter}", text), f"{told}: {text}"
        assert len(text) < 400, f"{told}: what was given is told in short"
        assert isinstance(error, UnicodeEncodeError) or "must be" in text or "no JSON" in text, f"{told}: {text}"
        if expected is ValueError and isinstance(value, (int, float)) and abs(value) < 2**70:
            assert repr(value) in text, f"{told}: {text}"
        assert state(world) == before, f"{told}: half done"


def test_every_public_callable_was_found() -> None:
    names = {public.name for public in PUBLIC}
    calls = sum(len(list(public.wrong(parameter))) for public, parameter in PLACES)
    print(f"{len(names)} callables, {len(PLACES)} parameters, {calls} wrong arguments")
    assert {"RealtimeHub", "RealtimeHub.join", "Segment.open", "Subscriber.recv", "PresenceWatch.next_async"} <= names
    assert {"unlink_segment", "Inspector.follow", "HeartbeatThread.stop", "SSEStream", "asgi_app"} <= names
    assert {parameter for _, parameter in PLACES} == KINDS.keys(), "a row that is of no use any more"
    assert SPECIAL.keys() <= {(public.name, parameter) for public, parameter in PLACES}
    for public, parameter in PLACES:
        if public.kind(parameter) is not ANYTHING and parameter not in ("hub", "monitor"):
            assert list(public.wrong(parameter)), (public.name, parameter)


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
        with pytest.raises(LookupError, match="mine"):
            call()
