"""Segments: names, settings, capacities, strangers, closing."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import hypern_realtime_shm as rt
from hypern_realtime_shm import RealtimeHub, Segment
from hypern_realtime_shm.testing import unlink_segment


def path_of(name: str) -> Path:
    (path,) = [path for path in Path("/dev/shm").iterdir() if path.name.endswith(f".{name}")]
    return path


def test_open_creates_once_and_attaches_then(name: str) -> None:
    with Segment.open(name, size="1MiB") as first:
        assert (first.name, first.size) == (name, 1 << 20)
        again = Segment.open(name, size="2MiB")
        assert again.size == 1 << 20, "the creator's size counts"
        assert path_of(name).stat().st_mode & 0o777 == 0o600
        stats = first.stats()
        assert stats["processes"] == 1, "one slot a process, however many handles"
        assert stats["max_processes"] == 128
        assert {"max_channels", "max_members", "max_clients", "max_ring_slots", "max_small_blocks"} <= stats.keys()
        assert repr(first) == f"Segment(name={name!r}, size=1048576)"


def test_attach_only_attaches(name: str) -> None:
    with pytest.raises(rt.SegmentNotFound, match=name):
        Segment.attach(name)
    with Segment.open(name, size="1MiB"):
        assert Segment.attach(name).size == 1 << 20


def test_after_close_everything_says_so(name: str) -> None:
    segment = Segment.open(name, size="1MiB")
    hub = RealtimeHub(segment=segment)
    hub.create_channel("c")
    sub = hub.join("c", "u")
    segment.close()
    segment.close()
    assert segment.closed
    for use in (lambda: hub.publish("c", "x"), sub.try_recv, segment.stats, lambda: hub.presence.count("c")):
        with pytest.raises(rt.SegmentClosed):
            use()
    for part in (hub.channels, hub.presence, hub.broadcast, hub.channels.topic_matcher, hub):
        assert repr(part) == f"{type(part).__name__}(closed)", "looking at it is no use of it"
    with Segment.open(name) as again:
        assert RealtimeHub(segment=again).channels.list_channels() == ["c"]


def test_unlink(name: str) -> None:
    segment = Segment.open(name, size="1MiB")
    hub = RealtimeHub(segment=segment)
    assert segment.unlink()
    assert not segment.unlink()
    hub.create_channel("still here")
    with Segment.open(name, size="1MiB") as fresh:
        assert RealtimeHub(segment=fresh).channels.list_channels() == []
    segment.close()
    assert unlink_segment(name)
    assert not unlink_segment(name)
    with pytest.raises(rt.SegmentNotFound):
        unlink_segment(name, missing_ok=False)


@pytest.mark.parametrize("bad", ["", "a/b", "a\0b", ".", "..", "x" * 300])
def test_bad_names(bad: str) -> None:
    with pytest.raises(ValueError, match="name is"):
        Segment.open(bad)


def test_a_unicode_name(name: str) -> None:
    spelled = f"{name} chät ☃"
    with Segment.open(spelled, size="1MiB") as segment:
        assert segment.name == spelled
        segment.unlink()


@pytest.mark.parametrize(
    ("size", "expected"),
    [(1 << 20, 1 << 20), ("1MiB", 1 << 20), ("1 MiB", 1 << 20), ("2MB", 2_000_000 // 4096 * 4096), ("0.5MiB", 1 << 19)],
)
def test_sizes(name: str, size: int | str, expected: int) -> None:
    with Segment.open(name, size=size) as segment:
        assert segment.size == expected


@pytest.mark.parametrize("size", [0, 1000, "1TiB", "much", "-1", "", 1 << 50])
def test_bad_sizes(name: str, size: int | str) -> None:
    with pytest.raises(ValueError, match="size is"):
        Segment.open(name, size=size)


def test_capacities_can_be_given(name: str) -> None:
    with Segment.open(name, size="8MiB", channels=100, ring_slots=4096, members=5000, max_processes=4) as segment:
        stats = segment.stats()
        assert stats["max_channels"] >= 100
        assert stats["max_ring_slots"] == 4096
        assert stats["max_members"] >= 5000
        assert stats["max_processes"] == 4
        segment.unlink()
    with pytest.raises(ValueError, match="size is 1048576; it must be at least"):
        Segment.open(name, size="1MiB", members=1_000_000)


def test_environment(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HYPERN_SHM_NAME", name)
    monkeypatch.setenv("HYPERN_SHM_SIZE", "2MiB")
    monkeypatch.setenv("HYPERN_SHM_MAX_PROCESSES", "7")
    hub = RealtimeHub()
    hub.create_channel("c")
    with Segment.attach(name) as segment:
        assert (segment.size, segment.stats()["max_processes"]) == (2 << 20, 7)
        assert RealtimeHub(segment=segment).channels.list_channels() == ["c"]
    monkeypatch.setenv("HYPERN_SHM_NAME", f"{name}-2")
    monkeypatch.setenv("HYPERN_SHM_SIZE", "lots")
    with pytest.raises(ValueError, match="HYPERN_SHM_SIZE is 'lots'"):
        RealtimeHub()
    Segment.open(f"{name}-2", size="1MiB").unlink()  # an argument comes first, whatever the variable is
    monkeypatch.setenv("HYPERN_SHM_SIZE", "0")
    with pytest.raises(ValueError, match="HYPERN_SHM_SIZE is 0"):
        RealtimeHub()
    monkeypatch.delenv("HYPERN_SHM_SIZE")
    monkeypatch.setenv("HYPERN_SHM_MAX_PROCESSES", "0")
    with pytest.raises(ValueError, match="HYPERN_SHM_MAX_PROCESSES is 0"):
        RealtimeHub()


def test_without_a_name_two_managers_are_two_worlds() -> None:
    one, two = rt.ChannelManager(), rt.ChannelManager()
    one.create_channel("c")
    assert not two.has_channel("c")


def test_namespaces_separate_worlds(segment: Segment) -> None:
    here = RealtimeHub(segment=segment, namespace="a")
    here.create_channel("c")
    assert RealtimeHub(segment=segment, namespace="a").channels.has_channel("c")
    assert not RealtimeHub(segment=segment, namespace="b").channels.has_channel("c")
    with pytest.raises(ValueError, match="namespace"):
        RealtimeHub(segment=segment, namespace="x" * 256)


def test_wrong_segment_argument() -> None:
    with pytest.raises(TypeError, match="segment must be a str, a Segment or None, not 'int'"):
        RealtimeHub(segment=3)  # type: ignore[arg-type]


def fill(add: Callable[[int], Any]) -> None:
    for i in range(100_000):
        add(i)


def test_full_says_what_is_full_and_what_raises_it(name: str) -> None:
    with Segment.open(name, size="1MiB", channels=4, ring_slots=64) as segment:
        hub = RealtimeHub(segment=segment)
        with pytest.raises(rt.SegmentFull) as rings:
            fill(lambda i: hub.channels.create_channel(f"big {i}", 32))
        assert (rings.value.setting, rings.value.used, rings.value.capacity) == ("ring_slots", 64, 64)
        hub.channels.clear()
        with pytest.raises(rt.SegmentFull) as cells:
            fill(lambda i: hub.presence.track(f"room {i}", "u"))
        assert cells.value.setting == "channels"
        assert isinstance(cells.value, MemoryError)
        rooms = hub.presence.untrack_all("u")
        assert len(rooms) > 4
        hub.presence.track("room is there again", "u")
        with pytest.raises(rt.SegmentFull) as blocks:
            fill(lambda i: hub.presence.track("room is there again", f"client {i}"))
        assert blocks.value.setting == "size"
        assert hub.presence.count("room is there again") == hub.presence.total_clients()
        hub.presence.clear()
        hub.presence.track("room is there again", "v")


def test_slots_full(name: str) -> None:
    with Segment.open(name, size="1MiB", max_processes=1):
        source = f"import hypern_realtime_shm as rt; rt.Segment.open({name!r})"
        run = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, timeout=60, check=False)
        assert "SegmentFull: the process slots are full: 1 of 1 in use; raise max_processes" in run.stderr


def test_strangers_are_refused_and_left_alone(name: str, tmp_path: Path) -> None:
    Segment.open(name, size="1MiB").close()
    path = path_of(name)
    path.chmod(0o644)
    with pytest.raises(rt.SegmentRefused, match="mode is 644"):
        Segment.open(name)
    path.unlink()
    target = tmp_path / "target"
    target.write_bytes(b"precious")
    path.symlink_to(target)
    with pytest.raises(rt.SegmentRefused, match="symbolic link"):
        Segment.open(name)
    assert target.read_bytes() == b"precious"
    path.unlink()
    path.mkdir()
    with pytest.raises(rt.SegmentRefused):
        Segment.open(name)
    path.rmdir()
    os.mkfifo(path, 0o600)
    with pytest.raises(rt.SegmentRefused):
        Segment.open(name)
    path.unlink()


def test_another_version_is_refused_and_left_alone(name: str) -> None:
    Segment.open(name, size="1MiB").close()
    path = path_of(name)
    content = bytearray(path.read_bytes())
    content[8:16] = (99).to_bytes(8, "little")
    path.write_bytes(content)
    versions = rf"layout version 99 \([0-9a-f]{{16}}\), this library speaks {rt._engine.LAYOUT_VERSION} \("
    with pytest.raises(rt.SegmentVersionMismatch, match=versions):
        Segment.open(name)
    assert path.read_bytes() == content
    content[:8] = b"whatever"
    path.write_bytes(content)
    with pytest.raises(rt.SegmentRefused, match="not a segment"):
        Segment.open(name)


def test_no_room_names_shm_size_and_leaves_nothing(name: str) -> None:
    with pytest.raises(rt.SegmentNoSpace, match="--shm-size") as error:
        Segment.open(name, size="63GiB")
    assert error.value.errno is not None
    assert not [path for path in Path("/dev/shm").iterdir() if path.name.endswith(f".{name}")]


def test_awake_publishers_and_readers_make_no_system_call(name: str) -> None:
    """Between two marks, 10,000 publishes and receives: strace counts what the process asked of the kernel."""
    source = f"""
import logging, os, threading
import hypern_realtime_shm as rt
# The keeper's thread enters the interpreter once, to tell that it keeps the segment: not while calls are counted.
told = threading.Event()
logger = logging.getLogger("hypern_realtime_shm")
logger.setLevel("INFO")
logger.addFilter(lambda record: told.set() if record.event == "keeper" else False)
hub = rt.RealtimeHub(segment=rt.Segment.open({name!r}, size="4MiB"))
hub.create_channel("c")
sub = hub.channels.subscribe("c", "u")
publish, recv = hub.publish, sub.try_recv
assert told.wait(60)
for _ in range(100_000):
    publish("c", "x" * 64); recv()
os.access("/begin", os.F_OK)
for _ in range(10_000):
    publish("c", "x" * 64); recv()
os.access("/end", os.F_OK)
os._exit(0)
"""
    run = subprocess.run(
        ["strace", sys.executable, "-c", source], capture_output=True, text=True, timeout=100, check=False
    )
    lines = run.stderr.splitlines()
    begin = next(i for i, line in enumerate(lines) if "/begin" in line)
    end = next(i for i, line in enumerate(lines) if "/end" in line)
    calls = [line for line in lines[begin + 1 : end] if re.match(r"\w+\(", line)]
    print(f"{len(calls)} system calls in 10,000 publishes and receives")
    assert calls == []
