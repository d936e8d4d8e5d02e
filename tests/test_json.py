"""JSON that is published is the very text of ``json.dumps``, whatever the data."""

from __future__ import annotations

import json
import random
from collections import OrderedDict
from typing import Any

import pytest

from hypern_realtime_shm import ChannelManager, RealtimeBroadcast

TEXTS = [
    "",
    "plain",
    'quotes " and \\',
    "line\nbreak\r\t\b\f",
    "\x00\x1f\x7f",
    "é",
    "日本",
    "😀 \U0010ffff",
    "\ud800",
    "a\udfffb",
]


def published(data: Any) -> str | bytes | None:
    manager = ChannelManager()
    manager.create_channel("c")
    sub = manager.subscribe("c", "x")
    assert manager.publish_json("c", data) == 1
    return sub.try_recv()


class Text(str):
    pass


class Number(int):
    def __repr__(self) -> str:
        return "not a number"


@pytest.mark.parametrize(
    "data",
    [
        *TEXTS,
        *[0, -1, 2**63 - 1, -(2**63), 2**63, 10**400, True, False, None],
        *[0.0, -0.0, 1.5, 1e16, 1e-7, 0.1, 1e22, 5e-324, 1.7976931348623157e308],
        *[float("nan"), float("inf"), -float("inf")],
        *[[], {}, (), [[]], {"a": {}}, (1, [2, (3,)]), {"a": 1, "b": [True, None]}],
        *[{2: "a", None: "b", 1.5: "c", True: "d"}, OrderedDict(a=1), Text("é"), Number(7), {Text("k"): [Text("v")]}],
    ],
    ids=repr,
)
def test_as_json_dumps_writes_it(data: Any) -> None:
    assert published(data) == json.dumps(data, separators=(",", ":"))


def test_at_random() -> None:
    def anything(depth: int) -> Any:
        kind = random.randrange(9 if depth else 6)
        if kind < 2:
            return "".join(random.choice(TEXTS) for _ in range(random.randrange(4)))
        if kind == 2:
            return random.choice([random.getrandbits(70), -random.getrandbits(62), random.randrange(10)])
        if kind == 3:
            return random.choice([random.random(), random.uniform(-1e300, 1e300), random.random() * 1e-300])
        if kind < 6:
            return random.choice([True, False, None])
        if kind == 6:
            return tuple(anything(depth - 1) for _ in range(random.randrange(4)))
        if kind == 7:
            return [anything(depth - 1) for _ in range(random.randrange(5))]
        return {random.choice(TEXTS) + str(index): anything(depth - 1) for index in range(random.randrange(5))}

    for _ in range(500):
        data = anything(4)
        assert published(data) == json.dumps(data, separators=(",", ":"))


def test_what_is_no_json_raises_what_json_raises() -> None:
    circle: list[Any] = []
    circle.append(circle)
    deep: list[Any] = []
    for _ in range(200):
        deep = [deep]
    assert published(deep) == json.dumps(deep, separators=(",", ":"))
    manager = ChannelManager()
    manager.create_channel("c")
    for data, error in [
        (circle, ValueError),
        (object(), TypeError),
        ({1, 2}, TypeError),
        ({(1,): 2}, TypeError),
        (b"a", TypeError),
    ]:
        with pytest.raises(error):
            manager.publish_json("c", data)
    assert manager.get_stats("c").total_messages == 0, "nothing was published"


def test_broadcasts_too() -> None:
    broadcast = RealtimeBroadcast()
    broadcast.create("b")
    rx = broadcast.subscribe("b")
    assert broadcast.send_json("b", {"é": 1.0}) == 1
    assert rx.try_recv() == '{"\\u00e9":1.0}'
