"""Looking into a server with four workers: alive, with one stopped and one killed, and after the whole has died."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from pathlib import Path

from tests.shell import COMMAND, ask, lines, run

from .harness import gunicorn, segment_files, wait_for

CLIENTS = [f"client-{number:02}" for number in range(24)]


def test_every_verb_against_a_live_server(name: str, log: Path) -> None:
    with gunicorn(log, workers=4, env={"HYPERN_SHM_NAME": name}) as server:
        workers = server.ready().pids(4)
        taken = server.join(CLIENTS)
        for number in range(50):
            assert server.get("/publish", text=f"message {number}")["count"] == len(CLIENTS)
        attached = {server.pid, *workers}

        (row,) = [row for row in ask("ls")["segments"] if row["name"] == name]
        assert (row["state"], row["processes"], row["problem"]) == ("in use", 5, None)

        overview = ask("inspect", name)
        assert overview["totals"]["published_total"] == 50
        assert overview["totals"]["missed_total"] == 0
        assert overview["totals"]["members"] == overview["totals"]["clients"] == len(CLIENTS)
        assert overview["totals"]["attached_total"] == 5, "looking takes no place"
        assert (
            sum(overview["memory"][use] for use in ("messages", "records", "pages", "continued", "held", "free"))
            == (overview["memory"]["total"])
        )
        assert overview["problems"] == []

        (room,) = ask("channels", name)["channels"]
        assert (room["name"], room["published"], room["subscribers"], room["handles"]) == ("room", 50, 24, 24)
        detail = ask("channel", name, "room")
        assert {each["client"]: [owner["pid"] for owner in each["owners"]] for each in detail["subscribers"]} == {
            client: [pid] for client, pid in taken.items()
        }
        assert {handle["lag"] for handle in detail["handles"]} == {50}, "nobody has drained yet"
        server.received(workers)
        detail = ask("channel", name, "room")
        assert {handle["lag"] for handle in detail["handles"]} == {0}
        assert detail["retained_messages"] == 50

        members = ask("presence", name, "room")["members"]
        assert {each["client"]: each["metadata"]["pid"] for each in members} == {
            client: str(pid) for client, pid in taken.items()
        }
        assert all([owner["pid"] for owner in each["owners"]] == [taken[each["client"]]] for each in members)
        clients = ask("clients", name)["clients"]
        assert {each["client"] for each in clients} == set(CLIENTS)
        assert {each["state"] for each in clients} == {"alive"}
        assert ask("clients", name, "--timeout", "0", "--retries", "0")["clients"][0]["state"] == "dead"
        assert ask("topics", name)["topics"] == []

        processes = {each["pid"]: each for each in ask("processes", name)["processes"]}
        assert set(processes) == attached
        assert sum(each["keeper"] for each in processes.values()) == 1
        for pid in workers:
            mine = sum(owner == pid for owner in taken.values())
            holds = processes[pid]["holds"]
            assert (holds["handles"], holds["subscriptions"], holds["members"], holds["clients"]) == (mine,) * 4
            assert processes[pid]["alive"]
            assert "gunicorn" in processes[pid]["command"]

        seen = lines("tail", run("tail", name, "room", "--last", "3", "--no-follow", "--json").stdout)
        assert [each["text"] for each in seen] == ["message 47", "message 48", "message 49"]
        rest = run("tail", name, "#", "--since", seen[0]["id"], "--no-follow", "--json").stdout
        assert [each["text"] for each in lines("tail", rest)] == ["message 48", "message 49"]

        assert ask("publish", name, "room", "from the shell")["receivers"] == len(CLIENTS)
        received = server.received(workers)
        assert all(received[client] == ["from the shell"] for client in CLIENTS)

        assert ask("check", name)["sound"]
        assert ask("reap", name) == {"segment": name, "reaped": 0, "scavenged": False}
        (snapshot,) = lines("top", run("top", name, "--json", "--count", "1").stdout)
        assert {each["pid"] for each in snapshot["processes"]} == attached
        refused = run("unlink", name, "--yes", code=4)
        assert "--force" in refused.stderr
        assert segment_files(name)
        server.stop()
    assert not segment_files(name)


def test_a_tail_sees_all_that_is_published_while_it_looks(name: str, log: Path) -> None:
    with gunicorn(log, workers=4, env={"HYPERN_SHM_NAME": name}) as server:
        server.ready().pids(4)
        tail = subprocess.Popen(
            [*COMMAND, "tail", name, "room", "--last", "1", "--json", "--count", "201"],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert tail.stdout is not None
        try:
            server.get("/publish", text="first")
            assert "first" in tail.stdout.readline()
            for number in range(200):
                server.get("/publish", text=str(number))
            seen = lines("tail", tail.stdout.read())
            assert tail.wait(30) == 0
        finally:
            tail.kill()
            tail.wait(10)
            tail.stdout.close()
        assert [each["text"] for each in seen] == [str(number) for number in range(200)]
        server.stop()


def test_who_is_stopped_and_who_has_died(name: str, log: Path) -> None:
    # Else the first who attaches and leaves again, which reaping is, removes it as its last process.
    env = {"HYPERN_SHM_NAME": name, "HYPERN_SHM_UNLINK_WHEN_UNUSED": "0"}
    with gunicorn(log, workers=4, env=env) as server:
        workers = server.ready().pids(4)
        taken = server.join(CLIENTS)
        stuck = next(iter(workers))
        os.kill(stuck, signal.SIGSTOP)

        def states() -> dict[int, str]:
            return {each["pid"]: each["state"] for each in ask("processes", name)["processes"]}

        wait_for(lambda: states()[stuck] == "stopped", "the worker is shown as stopped")
        assert ask("channel", name, "room")["handles"], "a stopped worker keeps nobody from looking"
        assert ask("inspect", name)["processes"] == 5
        os.kill(stuck, signal.SIGCONT)

        # All at once, so that nobody is left to reap: as after an out-of-memory kill of the whole group.
        for pid in (server.pid, *workers):
            os.kill(pid, signal.SIGSTOP)
        for pid in (server.pid, *workers):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        server.kill()
        assert set(states().values()) == {"dead"}
        (row,) = [row for row in ask("ls")["segments"] if row["name"] == name]
        assert (row["state"], row["processes"]) == ("abandoned", 0)
        assert {each["client"] for each in ask("presence", name, "room")["members"]} == set(taken), "still readable"
        found = ask("check", name, code=1)
        assert any("dead and was not reaped" in finding for finding in found["findings"])
        assert ask("reap", name) == {"segment": name, "reaped": 5, "scavenged": True}
        assert ask("presence", name, "room")["members"] == []
        assert ask("check", name)["sound"]
        assert run("unlink", name, stdin="n\n", code=4).stderr.startswith("Unlink segment")
        assert ask("unlink", name, "--yes")["unlinked"]
    assert not segment_files(name)
