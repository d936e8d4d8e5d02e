"""hypern-shm: what it prints, how it ends, and that nothing breaks it."""

from __future__ import annotations

import base64
import json
import os
import random
import subprocess
import time
from pathlib import Path

import pytest

import hypern_realtime_shm as rt
from hypern_realtime_shm import (
    BroadcastConfig,
    ChannelManager,
    RealtimeBroadcast,
    RealtimeHub,
    Segment,
    Subscriber,
    TopicMatcher,
)
from hypern_realtime_shm.cli.size import plan
from hypern_realtime_shm.inspect import Inspector, segments
from hypern_realtime_shm.testing import unlink_segment

from .procs import Process
from .schemas import ANSWERS, WHERE, text
from .shell import COMMAND, ask, lines, run
from .test_segment import path_of

READING = ("inspect", "channels", "presence", "clients", "topics", "processes")


def fill(segment: Segment) -> tuple[RealtimeHub, list[Subscriber]]:
    """Something of everything there is; who keeps what is given back keeps it open."""
    hub = RealtimeHub(segment=segment)
    subscribers = []
    for channel in ("chat:general", "chat:random", "events:login"):
        hub.create_channel(channel, buffer_size=64)
        subscribers.append(hub.join(channel, "ada", {"name": "Ada"}))
    hub.publish("chat:general", "hello")
    hub.publish("chat:general", b"\x00\xff")
    hub.publish("chat:random", "long " * 10_000)
    return hub, subscribers


@pytest.mark.parametrize("verb", ANSWERS)
def test_the_schemas_are_up_to_date(verb: str) -> None:
    assert (WHERE / f"{verb}.json").read_text() == text(verb), "python -m tests.schemas writes them"


def test_no_schema_is_left_over_and_every_verb_has_one() -> None:
    assert {path.stem for path in WHERE.glob("*.json")} == set(ANSWERS)
    listed = run("--help").stdout
    assert [verb for verb in ANSWERS if f"\n  {verb} " not in listed] == []


def test_everything_there_is_as_its_schema_says(segment: Segment, name: str) -> None:
    hub, _kept = fill(segment)
    broadcast = RealtimeBroadcast(segment=segment, namespace="other")
    broadcast.create("news", BroadcastConfig(dedup_enabled=True, dedup_window=10))
    heard = broadcast.subscribe("news")
    broadcast.send("news", "once", message_id="1")
    broadcast.send("news", "twice", message_id="1")
    rooms = hub.channels.subscribe_pattern("chat:*", "logger")
    TopicMatcher(segment=segment).subscribe("a:#", "bob")

    overview = ask("inspect", name)
    assert {row["namespace"]: row["broadcasts"] for row in overview["namespaces"]} == {"": 0, "other": 1}
    rows = {(row["namespace"], row["name"]): row for row in ask("channels", name)["channels"]}
    assert set(rows) == {("", "chat:general"), ("", "chat:random"), ("", "events:login"), ("other", "news")}
    assert rows["other", "news"]["deduplicated"] == 1
    assert rows["other", "news"]["dedup_window"] == 10
    assert [row["name"] for row in ask("channels", name, "--namespace", "other")["channels"]] == ["news"]
    news = ask("channel", name, "news", "--namespace", "other", "--broadcast")
    assert (news["retained_bytes"], len(news["handles"])) == (len("once"), 1)
    general = ask("channel", name, "chat:general")
    assert sorted(handle["client"] for handle in general["handles"]) == ["ada", "logger"]
    assert ask("channel", name, "chat:random")["retained_bytes"] == 50_000
    assert {(row["of"], row["pattern"], row["client"]) for row in ask("topics", name)["topics"]} >= {
        ("handle", "chat:*", "logger"),
        ("matcher", "a:#", "bob"),
    }
    assert {(row["channel"], row["members"]) for row in ask("presence", name)["groups"]} == {
        ("chat:general", 1),
        ("chat:random", 1),
        ("events:login", 1),
    }
    assert len(ask("presence", name, "chat:random")["members"]) == 1
    seen = lines("tail", run("tail", name, "chat:general", "--last", "9", "--no-follow", "--json").stdout)
    assert [each["text"] for each in seen] == ["hello", None]
    assert base64.b64decode(seen[1]["base64"]) == b"\x00\xff"
    assert ask("doctor")["healthy"]
    for verb in READING:  # for people
        assert run(verb, name).stdout
    assert name in run("ls").stdout
    assert run("channel", name, "chat:general").stdout
    del heard, rooms


def test_a_lag_is_shown_and_what_is_lost(segment: Segment, name: str) -> None:
    manager = ChannelManager(segment=segment)
    manager.create_channel("c", 16)
    slow, quick = manager.subscribe("c", "slow"), manager.subscribe("c", "quick")
    for number in range(40):
        manager.publish("c", str(number))
        quick.try_recv()
        quick.try_recv()
    rows = {row["client"]: row for row in ask("channel", name, "c")["handles"]}
    assert (rows["slow"]["lag"], rows["slow"]["lost"]) == (40, 24)
    assert (rows["quick"]["lag"], rows["quick"]["lost"]) == (0, 0)
    assert [slow.try_recv(), slow.missed_count] == ["24", 24]


def test_published_and_missed_survive_the_channel(segment: Segment, name: str) -> None:
    manager = ChannelManager(segment=segment)
    total = 0
    for round_ in range(3):
        manager.create_channel("c", 16)
        with manager.subscribe("c", "slow") as slow:
            for _ in range(20):
                manager.publish("c", "x")
            total += 20
            assert len(slow.drain()) == 16
        manager.remove_channel("c")
        totals = ask("inspect", name)["totals"]
        assert (totals["published_total"], totals["missed_total"]) == (total, 4 * (round_ + 1))


def test_a_tail_follows_channels_that_come_and_go(segment: Segment, name: str) -> None:
    manager = ChannelManager(segment=segment)
    manager.create_channel("room:1", 16)
    manager.publish("room:1", "before")
    follow = Inspector(name).follow("room:*", last=1, interval=0.001)

    def until_quiet() -> list[str | int | None]:
        found: list[str | int | None] = []
        for message in follow:
            if message is None:
                return found
            found.append(message if isinstance(message, int) else message["text"])
        raise AssertionError("it never ends")

    assert until_quiet() == ["before"]
    manager.create_channel("room:2", 16)
    manager.publish("room:2", "new")
    assert until_quiet() == ["new"]
    for number in range(20):
        manager.publish("room:1", str(number))
    assert until_quiet() == [4, *map(str, range(4, 20))], "received + missed = published"
    manager.remove_channel("room:1")
    assert until_quiet() == []
    manager.create_channel("room:1", 16)
    manager.publish("room:1", "another life")
    assert until_quiet() == ["another life"]


def test_publishing_from_the_shell(segment: Segment, name: str) -> None:
    hub, _kept = fill(segment)
    general, random_ = hub.channels.subscribe("chat:general", "x"), hub.channels.subscribe("chat:random", "x")
    assert ask("publish", name, "chat:*", "to both", "--pattern")["receivers"] == 4
    assert run("publish", name, "chat:general", "-", stdin="from a pipe\n").stdout == "heard by 2\n"
    run("publish", name, "chat:general", base64.b64encode(b"\xff").decode(), "--base64")
    assert general.drain() == ["to both", "from a pipe", b"\xff"]
    assert random_.drain() == ["to both"]
    names = hub.channels.list_channels()
    assert "does not exist" in run("publish", name, "chat:typo", "x", code=3).stderr
    assert "does not exist" in run("publish", name, "chat:general", "x", "--namespace", "typo", code=3).stderr
    assert hub.channels.list_channels() == names
    assert len(ask("inspect", name)["namespaces"]) == 1, "a typing error makes no namespace"


def test_a_mistake_is_a_line_and_a_code(segment: Segment, name: str, tmp_path: Path) -> None:
    assert segment.name == name
    for verb in (*READING, "check", "reap", "unlink"):
        assert "no segment is named" in run(verb, "nobody-has-this", code=3).stderr
    assert "no segment is named" in run("tail", "nobody-has-this", "x", code=3).stderr
    assert "does not exist" in run("channel", name, "nope", code=3).stderr
    assert "does not exist" in run("tail", name, "nope", code=3).stderr
    assert "128 bytes" in run("inspect", "x" * 200, code=2).stderr
    assert "Missing argument" in run("inspect", code=2).stderr
    assert "No such command" in run("nonsense", code=2).stderr
    assert "no base64" in run("publish", name, "c", "x!", "--base64", code=2).stderr
    assert "is not in the range" in run("size", "--channels", "0", code=2).stderr
    assert "terminal" in run("top", name, code=2).stderr
    assert (
        "64 GiB"
        in run("size", "--members", "60000000", "--clients", "60000000", "--subscribers", "60000000", code=2).stderr
    )
    assert run("inspect", HYPERN_SHM_NAME=name).stdout, "the variable names it, too"
    stranger = Path(f"/dev/shm/hypern-rt.{os.geteuid()}.v{rt._engine.LAYOUT_VERSION}.{name}-stranger")
    try:
        stranger.write_bytes(b"not a segment" * 1000)
        stranger.chmod(0o600)
        assert "not a segment" in run("inspect", f"{name}-stranger", code=4).stderr
        stranger.chmod(0o644)
        assert "its mode is 644" in run("inspect", f"{name}-stranger", code=4).stderr
        (row,) = [row for row in segments() if row["name"] == f"{name}-stranger"]
        assert row["state"] == "refused"
        assert "--force" in run("unlink", f"{name}-stranger", "--yes", code=4).stderr
        assert "its mode is 644" in run("unlink", f"{name}-stranger", "--yes", "--force", code=4).stderr
        assert stranger.exists()
        stranger.unlink()
        stranger.symlink_to(tmp_path)
        assert "symbolic link" in run("check", f"{name}-stranger", code=4).stderr
    finally:
        stranger.unlink()


def test_an_end_of_the_pipe_is_quiet(segment: Segment, name: str) -> None:
    manager = ChannelManager(segment=segment)
    manager.create_channel("c", 4096)
    for number in range(4096):
        manager.publish("c", f"{number} " + "x" * 100)
    tail = subprocess.Popen(
        [*COMMAND, "tail", name, "c", "--last", "4096"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert tail.stdout is not None
    assert tail.stderr is not None
    with tail.stdout, tail.stderr:
        assert tail.stdout.readline()
        tail.stdout.close()
        assert tail.wait(30) == 141
        assert tail.stderr.read() == ""


def test_what_clients_choose_cannot_drive_the_terminal(segment: Segment, name: str) -> None:
    hub = RealtimeHub(segment=segment)
    evil = "\x1b]0;owned\x07\n\u202e\x9b31m"
    hub.create_channel(evil)
    _sub = hub.join(evil, evil, {evil: evil})
    hub.publish(evil, evil)
    _pattern = hub.channels.subscribe_pattern(evil, evil)
    for arguments in (
        ("channels", name),
        ("channel", name, evil),
        ("presence", name, evil),
        ("clients", name),
        ("topics", name),
        ("tail", name, evil, "--last", "1", "--no-follow"),
    ):
        shown = run(*arguments).stdout
        assert "owned" in shown
        assert not set(evil) - {*"]0;owned31m"} & set(shown.replace("\n", "")), shown
    assert ask("channels", name)["channels"][0]["name"] == evil


def test_completion(segment: Segment, name: str) -> None:
    _kept = fill(segment)
    words = f"hypern-shm channel {name} chat"
    found = run(_HYPERN_SHM_COMPLETE="bash_complete", COMP_WORDS=words, COMP_CWORD="3").stdout.split()
    assert found == ["plain,chat:general", "plain,chat:random"]
    found = run(
        _HYPERN_SHM_COMPLETE="bash_complete", COMP_WORDS=f"hypern-shm inspect {name[:-2]}", COMP_CWORD="2"
    ).stdout
    assert f"plain,{name}" in found.split()
    for shell in ("bash", "zsh", "fish"):
        assert "_HYPERN_SHM_COMPLETE" in run("completion", shell).stdout


def test_looking_takes_no_place_and_changes_no_byte(name: str) -> None:
    with Process(
        """
        segment = rt.Segment.open(sys.argv[1], size="1MiB", max_processes=1)
        hub = rt.RealtimeHub(segment=segment)
        hub.create_channel("c")
        hub.join("c", "ada")
        say("ready")
        hear()
        """,
        name,
    ) as process:
        assert process.hear() == "ready"
        os.kill(process.popen.pid, 19)
        path = path_of(name)
        before = path.read_bytes()
        for verb in READING:
            ask(verb, name)
        ask("channel", name, "c")
        ask("check", name)
        run("tail", name, "c", "--no-follow")
        (row,) = ask("processes", name)["processes"]
        assert row["state"] == "stopped"
        assert path.read_bytes() == before, "the only process is stopped: whoever else writes was seen"
        process.popen.send_signal(18)
        process.say("")
        process.end()


def test_an_inspector_in_the_process_it_looks_at(segment: Segment, name: str) -> None:
    hub, _kept = fill(segment)
    inspector = Inspector(name)
    for _ in range(3):
        hub.publish("chat:general", "x")
        assert inspector.overview()["processes"] == 1
    assert inspector.is_current()
    pid = os.fork()
    if pid == 0:
        os._exit(0 if inspector.overview()["processes"] == 1 and inspector.check() == [] else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    unlink_segment(name)
    assert not inspector.is_current()
    assert inspector.overview()["totals"]["members"] == 3, "the look goes on"


def damage(image: bytes, count: int) -> bytes:
    """Words in use replaced by others; the header, which says where everything is, stays."""
    words = bytearray(image)
    used = [at for at in range(4096, len(image), 8) if any(image[at : at + 8])]
    for _ in range(count):
        at = random.choice(used)
        value = random.choice([0, 2**64 - 1, random.getrandbits(64), random.getrandbits(12), 1 << random.randrange(64)])
        words[at : at + 8] = value.to_bytes(8, "little")
    return bytes(words)


def test_damaged_segments_show_what_can_be_read(name: str) -> None:
    with Segment.open(name, size="1MiB", max_processes=4) as segment:
        kept = fill(segment)
        path = path_of(name)
        image = path.read_bytes()
        del kept
    found = shown = 0
    for round_ in range(12):
        path.write_bytes(damage(image, 1 << round_))
        inspector = Inspector(name)
        answers = [
            inspector.snapshot(),
            inspector.members(),
            inspector.clients(),
            inspector.topics(),
        ]
        found += sum(len(answer["problems"]) for answer in answers) + len(inspector.check())
        shown += len(inspector.channels()["channels"])
        for channel in inspector.channels()["channels"]:
            if channel["name"] is not None and channel["namespace"] is not None:
                try:
                    inspector.channel(channel["name"], channel["namespace"], channel["kind"])
                    inspector.tail(channel["name"], channel["namespace"], channel["kind"], last=64)
                except (rt.SegmentCorrupt, rt.UnknownChannel):
                    found += 1
    print(f"12 damaged segments: {found} findings, {shown} channels shown all the same")
    assert found
    assert shown
    # As a user sees it: every verb says something, and ends in order.
    path.write_bytes(damage(image, 500))
    for verb in READING:
        answer = ask(verb, name)
        assert "problems" in answer
    assert not ask("check", name, code=1)["sound"]
    assert ask("ls")
    # A header that lies is no map: nothing in there can be found, and that is said.
    path.write_bytes(image[:48] + (2**63).to_bytes(8, "little") + image[56:])
    for verb in READING:
        assert "damaged" in run(verb, name, code=5).stderr
    assert not ask("check", name, code=1)["sound"]
    (row,) = [row for row in ask("ls")["segments"] if row["name"] == name]
    assert row["state"] == "damaged"
    assert "--force" in run("unlink", name, "--yes", code=4).stderr
    assert ask("unlink", name, "--yes", "--force")["unlinked"]


@pytest.mark.parametrize(
    ("channels", "buffer", "message_bytes", "members"), [(20, 64, 150, 500), (5, 256, 1500, 50), (3, 16, 40_000, 2000)]
)
def test_a_segment_of_the_size_that_is_told_holds_it(
    name: str, channels: int, buffer: int, message_bytes: int, members: int
) -> None:
    options = ["--channels", channels, "--messages", buffer, "--message-bytes", message_bytes, "--members", members]
    fixed = ["--clients", members, "--subscribers", channels, "--processes", 4]
    answer = ask("size", *map(str, [*options, *fixed]))
    variables = {key.removeprefix("HYPERN_SHM_").lower(): int(value) for key, value in answer["settings"].items()}
    with Segment.open(name, **variables) as segment:
        hub = RealtimeHub(segment=segment)
        for number in range(channels):
            hub.create_channel(f"channel {number}", buffer_size=buffer)
            hub.channels.subscribe(f"channel {number}", "reader")
        for number in range(members):
            hub.presence.track(f"channel {number % channels}", f"client {number}")
            hub.heartbeat.register(f"client {number}")
        for _ in range(2):
            for number in range(channels):
                for _ in range(buffer):
                    hub.publish(f"channel {number}", "x" * message_bytes)
        overview = Inspector(name).overview()
        assert overview["totals"]["evicted_total"] == 0, "no history was given up"
        assert all(Inspector(name).channel(f"channel {n}")["retained_messages"] == buffer for n in range(channels))
    # Not twice too large either, once there is more than the fixed parts: the division by halves is what it costs.
    used = sum(int(size) * count for size, count in answer["blocks_needed"].items())
    assert answer["size"] <= 8 * used + 2 * answer["fixed"] + (1 << 20)


def test_size_says_no_before_the_engine_does() -> None:
    assert plan(1, 1, 0, 0, 0, 0, 1, 64)["size"] >= 256 << 10
    with pytest.raises(ValueError, match="2\\^30"):
        plan(1 << 22, 1 << 20, 1, 0, 0, 0, 1, None)


def test_doctor_names_what_lies_around(name: str) -> None:
    with Segment.open(name, size="1MiB"):
        pass
    answer = ask("doctor")
    (finding,) = [finding for finding in answer["findings"] if finding["what"].endswith(name)]
    assert finding["verdict"] == "note"
    assert finding["found"].startswith("abandoned")
    assert "there is room" not in json.dumps(answer)
    huge = ask("doctor", code=1, HYPERN_SHM_SIZE="1000000GiB")
    assert not huge["healthy"]
    assert "--shm-size" in next(each["advice"] for each in huge["findings"] if each["what"] == "/dev/shm")


def test_processes_that_wait_are_asleep(name: str) -> None:
    source = """
    import threading
    hub = rt.RealtimeHub(segment=sys.argv[1])
    hub.create_channel("c")
    sub = hub.join("c", "sleeper")
    threading.Thread(target=sub.recv, kwargs={"timeout": 60}).start()
    say("ready")
    hear()
    hub.publish("c", "wake up")
    """
    with Process(source, name) as process:
        assert process.hear() == "ready"
        deadline = time.monotonic() + 20
        while True:
            (row,) = ask("processes", name)["processes"]
            if row["waiting"] == "asleep":
                break
            assert time.monotonic() < deadline, row
        assert [waiter["waits_as"] for waiter in row["waiters"]] == ["thread"]
        process.say("")
        process.end()
