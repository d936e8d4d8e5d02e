"""The same calls on ``hypern.realtime`` 1.1.4 and on this package, compared one by one.

What differs on purpose (the documentation outranks the original's code in a few points) is listed
beside each call; everything else must be equal: results, reprs, exceptions, signatures.
"""

from __future__ import annotations

import gc
import inspect
import pickle
import re
import types
from collections.abc import Callable
from typing import Any

import pytest

import hypern_realtime_shm as ours

theirs = pytest.importorskip("hypern.realtime", reason="the reference wheel is needed")

CLASSES = ["ChannelManager", "PresenceTracker", "RealtimeBroadcast", "HeartbeatMonitor", "RealtimeHub", "TopicMatcher"]


def public(cls: type) -> dict[str, Any]:
    return {name: member for name, member in inspect.getmembers(cls) if not name.startswith("_")}


def members(name: str) -> dict[str, Any]:
    """The reference's members of a class; its heartbeat monitor delegates to an inner object."""
    cls = getattr(theirs, name)
    found = public(cls)
    if name == "HeartbeatMonitor":
        found = {**public(theirs._HeartbeatMonitor), **found}
    return found


def parameters(function: Callable[..., Any]) -> list[tuple[str, Any]]:
    return [
        (parameter.name, parameter.default)
        for parameter in inspect.signature(function).parameters.values()
        if parameter.name != "self" and parameter.kind is not parameter.KEYWORD_ONLY
    ]


@pytest.mark.parametrize("name", [*theirs.__all__, "SSEEvent"])
def test_every_name_is_there(name: str) -> None:
    assert hasattr(ours, name)
    assert name in ours.__all__


@pytest.mark.parametrize("name", sorted({*theirs.__all__} - {"BackpressurePolicy"}))
def test_every_member_is_there_with_the_same_parameters(name: str) -> None:
    for member, reference in members(name).items():
        assert hasattr(getattr(ours, name), member), f"{name}.{member} is missing"
        mine = getattr(getattr(ours, name), member)
        if callable(reference):
            assert parameters(mine) == parameters(reference), f"{name}.{member}"


@pytest.mark.parametrize("name", [*CLASSES, "PresenceInfo", "HeartbeatConfig", "SSEEvent"])
def test_constructors_take_the_same_parameters(name: str) -> None:
    reference = getattr(theirs, name) if name != "SSEEvent" else theirs.SSEEvent
    assert parameters(getattr(ours, name)) == parameters(reference)


def test_extra_parameters_are_keyword_only() -> None:
    for name in CLASSES:
        extra = inspect.signature(getattr(ours, name)).parameters
        assert extra["segment"].kind is inspect.Parameter.KEYWORD_ONLY
        assert extra["namespace"].kind is inspect.Parameter.KEYWORD_ONLY


# Steps run in order on one set of objects. A step is source text, or (source text, what ours gives
# instead, why).
STEPS: list[str | tuple[str, str, str]] = [
    "m", "m.create_channel('a')", "m.create_channel('a', 5)", "m.create_channel('b', metadata={'k': 'v'})",
    "m.get_stats('b')", "m.get_stats('b').metadata", "m.subscribe('zz', 'u')", "m.publish('zz', 'x')",
    "m.publish('a', 'x')", "m.get_stats('zz')", "m.get_subscribers('zz')", "m.get_subscribers('a')",
    "m.unsubscribe('zz', 'u')", "m.unsubscribe('a', 'u')", "m.remove_channel('zz')",
    "m.publish_to_topic('zz', 'x')", "m.publish_to_topic('*', 'x')", "m.has_channel('zz')", "m.has_channel('a')",
    "keep('s', m.subscribe('a', 'u'))", "m.get_subscribers('a')", "m.publish('a', 'x1')", "m.publish('a', '')",
    "s.try_recv()", "s.try_recv()", "s.try_recv()", "s", "s.channel_name", "s.client_id", "s.received_count",
    "s.missed_count", "m.get_stats('a')", "m.publish_json('a', {'k': [1, 'é']})", "s.drain()",
    "m.publish(channel_name='a', message='kw')", "s.drain()", "m.publish_to_topic(topic='*', message='t')", "s.drain()",
    "m.unsubscribe('a', 'u')", "m.get_subscribers('a')",
    ("m.publish('a', 'x')", "0", "unsubscribe stops delivery"),
    ("s.drain()", "[]", "unsubscribe stops delivery"),
    "m.topic_matcher", "m.topic_matcher is m.topic_matcher", "m.topic_matcher.subscribe('a*', 'q')",
    "m.topic_matcher.patterns()", "sorted(m.list_channels())", "m.channel_count()", "m", "m.create_channel('n', 3)",
    "m.publish(3, 'x')", "m.publish('a')", "m.create_channel('q', '1')", "m.create_channel('l', 4)",
    "keep('s', m.subscribe('l', 'u'))", "[m.publish('l', str(i)) for i in range(10)]", "s.try_recv()",
    "s.missed_count", "s.drain()", "s.received_count", "s", "m.remove_channel('l')", "s.try_recv()", "s.drain()",
    "m.clear()", "m.list_channels()", "m.create_channel('', 4)", "m.publish('', 'x')",
    # topics
    "t", "t.subscribe('chat:*', 'u1')", "t.subscribe('chat:*', 'u1')", "t.subscribe('chat:*', 'u2')",
    "t.subscribe('#', 'u2')", "t.subscribe('x:#:y', 'u3')", "t.subscribe('chat:general', 'u1')",
    "sorted(t.match_topic('chat:general'))", "t.match_topic('chat')", "sorted(t.match_topic('x:y'))",
    "sorted(t.match_topic('x:a:b:y'))", "sorted(t.patterns())", "t.subscriber_count('chat:*')",
    "t.subscriber_count('zz')", "t.unsubscribe('zz', 'u')", "t.unsubscribe('chat:*', 'u1')",
    "t.unsubscribe('chat:*', 'u9')", "t.unsubscribe_all('u2')", "t.unsubscribe_all('u2')", "sorted(t.patterns())", "t",
    *[f"t.pattern_matches({pattern!r}, {topic!r})" for pattern, topic in [
        ("#", ""), ("a:*", "a:"), ("a:*", "a"), ("*", "a"), ("", ""), ("*", ""), ("a.*", "a.b"), ("a:*b", "a:xb"),
        ("a/*", "a/b"), ("a:#:c", "a:c"), ("a:#:c", "a:b:b:c"), ("chat:*", "chat:general"), ("chat:*", "events:foo")]],
    ("t.pattern_matches('a:#', 'a')", "True", "# is zero or more segments"),
    # presence
    "p", "p.track('r', 'a', {'n': 'A'})", "p.track('r', 'b')",
    "sorted(p.list('r'), key=lambda info: info.client_id)", "p.get('r', 'a').metadata", "p.get('r', 'b').metadata",
    "p.get('r', 'zz')", "p.get('zz', 'zz')", "p.list('zz')", "p.count('zz')", "p.count('r')",
    "p.track('r', 'a', {'n': 'B'})",
    ("p.flush_diff('r')", "PresenceDiff(joins=2, leaves=0)", "tracking again is no join"),
    "p.flush_diff('r').joins", "p.flush_diff('zz')", "p.update('r', 'zz', {})", "p.update('r', 'a', {'n': 'C'})",
    "p.touch('r', 'zz')", "p.touch('r', 'a')", "p.flush_diff('r')", "p.untrack('r', 'zz')", "p.untrack('zz', 'zz')",
    "p.untrack('r', 'a')", "p.flush_diff('r').leaves", "p.untrack_all('zz')", "p.untrack_all('b')",
    "p.active_channels()", "p.client_channels('a')", "p.total_clients()",
    ("p", "PresenceTracker(channels=0, clients=0)", "stats count what is there now"),
    "p.evict_stale(0)", "p.track('r', 'a')", "p.client_channels('a')", "p.total_clients()", "p.evict_stale(60)",
    "p.evict_stale(0)", "p.evict_stale('x')", "p.clear()", "p.diff_as_dict('r')",
    "p.track_json('r', 'a', {'b': [1]})", "p.track_json('r', 'a', None)",
    "set(p.list_as_dicts('r')[0])",
    ("p.untrack_all('a')", "['r']", "one channel is left once"), "p.clear()", "p.track('q', 'c', {'x': 'y'})",
    "p.diff_as_dict('q')", "p.untrack('q', 'c')", "p.diff_as_dict('q')",
    "p.track('q', 'c'), p.untrack('q', 'c')",
    ("p.flush_diff('q')", "PresenceDiff(joins=0, leaves=0)", "join and leave cancel out"),
    "PresenceInfo('c', 'ch')", "PresenceInfo('c', 'ch', {'a': 'b'}).metadata", "PresenceDiff()",
    "PresenceDiff().joins", "PresenceDiff().has_changes()", "PresenceDiff().change_count()",
    # broadcast
    "b", "b.create('a')", "b.create('a')", "b.create('z3', BroadcastConfig(buffer_size=3))", "b.send('q', 'x')",
    "b.send('a', 'x')", "b.stats('a')", "b.stats('q')", "b.subscribe('q')", "b.remove('q')",
    "b.send_many(['a', 'q'], 'x')",
    ("b.global_stats()", "BroadcastStats(sent=2, dropped=2, deduped=0, subs=0, channels=2)", "dropped means dropped"),
    "sorted(b.list_channels())", "b.has_channel('q')",
    "b.create('e', BroadcastConfig(policy=BackpressurePolicy.Error))", "b.send('e', 'x')", "b.stats('e')",
    ("b.stats('a').total_dropped", "2", "dropped means dropped, by send_many too"),
    "b.stats('a').channel_count", "BroadcastConfig()", "BroadcastConfig().policy",
    "BackpressurePolicy.Error", "int(BackpressurePolicy.Error)", "int(BackpressurePolicy.DropOldest)",
    "BackpressurePolicy.Error == 1", "BackpressurePolicy()", "b.send_many(['e'], 'x')", "b.stats('e')",
    "keep('rx', b.subscribe('a'))", "rx", "b.send('a', 'm')", "rx.try_recv()", "rx.try_recv()", "rx.received_count",
    "rx.lagged_count", "rx.channel_name", "rx.drain()", "rx",
    ("b.stats('a')", "BroadcastStats(sent=3, dropped=2, deduped=0, subs=1, channels=1)", "as above"),
    "b.stats('a').active_subscribers",
    "b.send_json('a', {'x': 1})", "rx.drain()", "b.remove('a')", "rx.try_recv()", "b",
    "b.create('d', BroadcastConfig(dedup_enabled=True, dedup_window=2))", "keep('rx', b.subscribe('d'))",
    "b.send('d', '1', 'x')", "b.send('d', '1', 'x')", "b.send('d', '2', 'y')", "b.send('d', '3', message_id='z')",
    "b.send('d', '1', 'x')", "rx.drain()", "b.stats('d')", "b.global_stats()", "b.clear()", "b",
    # heartbeat
    "h.register('a')", "h.register('a', '5')", "h.get_last_event_id('a')", "h.unregister('zz')", "h.ping('zz')",
    "h.pong('zz')", "h.ping('a')", "h.pong('a')", "h.is_alive('zz')", "h.is_alive('a')", "h.is_timed_out('zz')",
    "h.retry_count('zz')", "h.get_last_event_id('zz')", "h.set_last_event_id('zz', 'x')",
    "h.set_last_event_id('a', 'x')", "h.get_last_event_id('a')", "h.client_ids()", "h.client_count()",
    "h.clients_needing_ping()", "h.client_info()", "h.stats()", "h.config", "h.check_timeouts()", "h.evict_dead()",
    "h.get_dead_clients()", "h.sse_keepalive_comment()", "h.sse_retry_field()", "h.sse_heartbeat_event()",
    "h.make_sse_event('d', 'e', 'i').format()", "h.make_sse_event('d').retry", "h.unregister('a')", "h.clear()",
    "h.foo", ("HeartbeatConfig(max_retries=-1)", "ValueError", "what is out of its bounds is a ValueError"),
    "HeartbeatConfig(interval_secs=1.5)",
    ("HeartbeatConfig(interval_secs=-1)", "ValueError", "a duration below zero makes no sense"),
    ("HeartbeatConfig(timeout_secs=float('nan'))", "ValueError", "a duration that is no number makes no sense"),
    # SSE
    "SSEEvent('a\\nb', 'i', 'e', 5).format()", "SSEEvent('x').to_bytes()", "SSEEvent('x').id",
    ("SSEEvent('a\\r\\nb\\rc').format()", "'data: a\\ndata: b\\ndata: c\\n\\n'", "CR ends a line too"),
    ("SSEEvent('').format()", "'data: \\n\\n'", "without a data field the client dispatches nothing"),
    ("SSEEvent('x', 'i\\nj').format()", "ValueError", "no line break in an id"),
    # hub
    "hub", "hub.join('x', 'y')", "hub.leave('x', 'y')", "hub.disconnect('y')", "hub.get_presence('y')",
    "hub.get_presence_diff('y')", "hub.create_channel('y')", "keep('s', hub.join('y', 'al', {'n': 'A'}))",
    "hub.publish('y', 'hi')", "hub.publish_json('y', [1, 2])", "s.drain()", "hub.get_presence('y')",
    "hub.get_presence_diff('y')", "hub", "hub.disconnect('al')", "hub", "hub.channels.get_subscribers('y')",
]  # fmt: skip

ADDRESS = re.compile(r" at 0x[0-9a-f]+|builtins\.|_engine\.|hypern\.\w+\.|hypern_realtime_shm\.\w*\.?")


def world(module: types.ModuleType) -> dict[str, Any]:
    names: dict[str, Any] = {name: getattr(module, name) for name in theirs.__all__}
    names["SSEEvent"] = module.SSEEvent
    names.update(
        m=module.ChannelManager(),
        t=module.TopicMatcher(),
        p=module.PresenceTracker(),
        b=module.RealtimeBroadcast(),
        h=module.HeartbeatMonitor(),
        hub=module.RealtimeHub(),
    )
    names["keep"] = names.__setitem__
    return names


def outcome(step: str, names: dict[str, Any]) -> str:
    try:
        result = eval(step, names)
    except Exception as error:
        bases = (KeyError, RuntimeError, ValueError, TypeError, AttributeError, OverflowError)
        kind = next((base for base in bases if isinstance(error, base)), type(error))
        text = str(error) if kind in (KeyError, RuntimeError) else ""
        return f"{kind.__name__}{text}"
    if isinstance(result, set):
        result = sorted(result)
    return ADDRESS.sub("", repr(result))


def test_every_call_gives_the_same() -> None:
    reference, mine = world(theirs), world(ours)
    wrong = []
    for step in STEPS:
        source, differing = (step, None) if isinstance(step, str) else (step[0], step[1])
        expected, got = outcome(source, reference), outcome(source, mine)
        if source == "h.client_info()":
            expected, got = (str(sorted(eval(text)["a"].items())) for text in (expected, got))
        if differing is not None:
            assert expected != differing, f"{source} does not differ any more"
            expected = differing
        if expected != got:
            wrong.append(f"{source}: {expected} expected, {got} given")
    assert not wrong, "\n".join(wrong)
    assert len(STEPS) > 250


@pytest.fixture
def hub() -> ours.RealtimeHub:
    made = ours.RealtimeHub()
    made.create_channel("c")
    return made


@pytest.mark.parametrize("size", [0, -1, 2**20 + 1])
def test_buffer_sizes_are_checked(size: int, hub: ours.RealtimeHub) -> None:
    with pytest.raises(ValueError, match=rf"buffer_size is {size}; it must be between 1 and 1048576"):
        hub.channels.create_channel("x", size)
    with pytest.raises(ValueError, match="default_buffer_size"):
        ours.ChannelManager(size)
    with pytest.raises(ValueError, match="buffer_size"):
        ours.BroadcastConfig(buffer_size=size)


@pytest.mark.parametrize("message", ["", b"", "text", b"\xff\x00", "é" * 1000, "x" * (1 << 20), b"y" * (1 << 20)])
def test_messages_come_out_as_they_went_in(message: str | bytes) -> None:
    with ours.Segment.open(f"form-{id(message)}", size="32MiB") as segment:
        try:
            made = ours.RealtimeHub(segment=segment)
            made.create_channel("c", broadcast_config=ours.BroadcastConfig())
            sub, rx = made.channels.subscribe("c", "u"), made.broadcast.subscribe("c")
            assert made.publish("c", message) == 1
            assert made.broadcast.send("c", message) == 1
            for got in (sub.try_recv(), rx.try_recv()):
                assert type(got) is type(message)
                assert got == message
        finally:
            segment.unlink()


def test_wrong_messages_are_refused_and_change_nothing(hub: ours.RealtimeHub) -> None:
    with pytest.raises(TypeError, match="message"):
        hub.publish("c", 3)  # type: ignore[arg-type]
    with pytest.raises(UnicodeEncodeError):
        hub.publish("c", "\ud800")
    with pytest.raises(TypeError, match="metadata"):
        hub.presence.track("c", "u", {"a": 1})  # type: ignore[dict-item]
    assert hub.channels.get_stats("c").total_messages == 0
    assert hub.presence.count("c") == 0


def test_a_registration_outlives_its_handle(hub: ours.RealtimeHub) -> None:
    sub = hub.channels.subscribe("c", "u")
    del sub
    assert hub.channels.get_subscribers("c") == ["u"]
    assert hub.publish("c", "x") == 0


def test_leaving_one_channel_keeps_the_heartbeat_of_another(hub: ours.RealtimeHub) -> None:
    hub.create_channel("d")
    hub.join("c", "u")
    hub.join("d", "u")
    hub.leave("c", "u")
    assert hub.heartbeat.client_ids() == ["u"]
    hub.leave("d", "u")
    assert hub.heartbeat.client_ids() == []


def test_only_a_closed_handle_raises(hub: ours.RealtimeHub) -> None:
    sub = hub.channels.subscribe("c", "u")
    hub.publish("c", "left")
    hub.channels.remove_channel("c")
    assert not sub.ended
    assert sub.drain() == ["left"]
    assert sub.ended
    assert sub.try_recv() is None
    sub.close()
    sub.close()
    with pytest.raises(ours.SubscriberClosed):
        sub.try_recv()


def test_make_sse_event_is_hyperns_own_where_hypern_is_loaded(hub: ours.RealtimeHub) -> None:
    event = hub.heartbeat.make_sse_event("a\r\nb", event="e", id="1")
    assert type(event) is theirs.SSEEvent
    assert event.format() == "id: 1\nevent: e\nretry: 3000\ndata: a\ndata: b\n\n"
    with pytest.raises(ValueError, match="event"):
        hub.heartbeat.make_sse_event("x", event="a\nb")


def test_a_join_that_fails_leaves_nothing_and_takes_nothing_away(hub: ours.RealtimeHub) -> None:
    bad: Any = {"name": 1}
    with pytest.raises(TypeError, match="metadata"):
        hub.join("c", "new", bad)
    assert (hub.get_presence("c"), hub.channels.get_subscribers("c"), hub.heartbeat.client_count()) == ([], [], 0)
    sub = hub.join("c", "ada", {"name": "Ada"})
    with pytest.raises(TypeError, match="metadata"):
        hub.join("c", "ada", bad)
    with pytest.raises(ValueError, match="client_id"):
        hub.join("c", "x" * 5000)
    assert hub.publish("c", "still here") == 1
    assert sub.drain() == ["still here"]
    assert [(info.client_id, info.metadata) for info in hub.get_presence("c")] == [("ada", {"name": "Ada"})]
    assert hub.channels.get_subscribers("c") == ["ada"]
    assert hub.heartbeat.is_alive("ada")


@pytest.mark.parametrize("name", ours.errors.__all__)
def test_exceptions_survive_pickling(name: str) -> None:
    cls = getattr(ours.errors, name)
    made = cls("text", "members", 7, 7, "members") if name == "SegmentFull" else cls("text")
    again = pickle.loads(pickle.dumps(made))
    assert type(again) is cls
    assert (str(again), again.args, vars(again)) == (str(made), made.args, vars(made))


def test_finalizers_that_take_messages_may_run_at_any_time(hub: ours.RealtimeHub) -> None:
    closed, other = hub.channels.subscribe("c", "u"), hub.channels.subscribe("c", "v")
    closed.close()
    taken: list[Any] = []

    class Cycle:
        def __init__(self) -> None:
            self.me = self

        def __del__(self) -> None:
            try:
                taken.append(other.try_recv())
            except BaseException as error:
                taken.append(error)

    before = gc.get_threshold()
    gc.set_threshold(1)  # collect whenever anything is made, the exceptions below included
    try:
        for number in range(50):
            hub.publish("c", str(number))
            Cycle()
            with pytest.raises(ours.SubscriberClosed):
                closed.try_recv()
    finally:
        gc.set_threshold(*before)
    gc.collect()
    assert [message for message in taken if message is not None] == [str(number) for number in range(50)]
