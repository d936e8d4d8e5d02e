"""What a gunicorn server goes through in its life: reloads, upgrades, more and fewer workers, deaths."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path

import pytest

from .harness import ROOT, Server, alive, gunicorn, segment_files, wait_for

CLIENTS = [f"client-{number:02}" for number in range(30)]
SETTLED = 1.0  # seconds within which a dead worker's members are gone


def members_of(server: Server) -> Mapping[str, Mapping[str, str]]:
    report = server.get("/report")
    members: Mapping[str, Mapping[str, str]] = report["members"]
    return members


def busy(pid: int) -> bool:
    """Does it use the processor?"""

    def used() -> int:
        return sum(map(int, Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]))

    before = used()
    time.sleep(0.05)
    return used() >= before + 1


def new_workers(server: Server, old: set[int], count: int) -> set[int]:
    wait_for(lambda: not any(alive(pid) for pid in old), f"the workers {old} have gone")
    found = server.pids(count)
    assert not found & old
    return found


@pytest.mark.parametrize("preload", [False, True], ids=["", "preload"])
def test_reload_keeps_members_channels_and_the_segment(preload: bool, name: str, log: Path) -> None:
    options = ["--preload"] if preload else []
    with gunicorn(log, *options, env={"HYPERN_SHM_NAME": name}) as server:
        old = server.ready().pids(3)
        server.join(CLIENTS)
        assert server.get("/publish", text="before")["count"] == len(CLIENTS)
        before, files = server.one_report(old), segment_files(name)

        os.kill(server.pid, signal.SIGHUP)
        new = new_workers(server, old, 3)

        after = server.one_report(new)
        assert after["members"] == before["members"], "a worker that stops in order takes nobody with it"
        assert after["heartbeats"] == CLIENTS
        assert after["stats"][2] == 1, "the channel is the same one"
        assert segment_files(name)[:1] == files[:1]
        assert server.get("/publish", text="after")["count"] == 0, "the subscriptions of the old workers have ended"
        server.join(CLIENTS[:5])
        assert server.get("/publish", text="again")["count"] == 5
        assert server.one_report(new)["members"].keys() == set(CLIENTS)
        server.stop()
    assert not segment_files(name)


@pytest.mark.parametrize("hooks", [True, False], ids=["hooks", "no-hooks"])
def test_a_killed_workers_members_leave_within_a_second(hooks: bool, name: str, log: Path) -> None:
    config, env = ("gunicorn_conf.py", "HYPERN_SHM_NAME") if hooks else (None, "PROBE_SEGMENT")
    with gunicorn(log, config=config, env={env: name}) as server:
        workers = server.ready().pids(3)
        taken = server.join(CLIENTS)
        assert set(taken.values()) == workers
        for round_ in range(2):
            victim = next(iter(workers))
            rest = {client for client, pid in taken.items() if pid != victim}

            server.from_each("/diff", workers)  # what has come so far has been told
            os.kill(victim, signal.SIGKILL)
            killed = time.monotonic()
            wait_for(lambda rest=rest: set(members_of(server)) <= rest, "the victim's members have left", SETTLED)
            took = time.monotonic() - killed
            print(f"round {round_}: gone after {took:.3f} s")

            workers = new_workers(server, {victim}, 3)
            report = server.one_report(workers)
            assert set(report["members"]) == rest, "everyone else stays"
            assert set(report["heartbeats"]) == set(report["subscribers"]) == rest
            assert server.get("/publish", text=f"after {round_}")["count"] == len(rest)
            told = [diff for diffs in server.from_each("/diff", workers).values() for diff in diffs]
            left = sorted(client for diff in told for client in diff["leaves"])
            assert left == sorted(set(taken) - rest), "and a diff says so, once"
            taken |= server.join(left)  # they come back, through whatever worker answers
        server.stop()
    # Without hooks nobody has asked for the segment's removal with its last process.
    assert bool(segment_files(name)) is not hooks


def test_workers_that_retire_after_max_requests_leave_their_members(name: str, log: Path) -> None:
    options = ["--max-requests", "25", "--max-requests-jitter", "5"]
    with gunicorn(log, *options, workers=2, env={"HYPERN_SHM_NAME": name}) as server:
        first = server.ready().pids(2)
        clients = [f"client-{number:03}" for number in range(150)]
        taken = server.join(clients)
        assert len(set(taken.values()) | first) > 4, "workers have retired meanwhile"
        for _ in range(5):
            assert set(members_of(server)) == set(clients)
        server.stop()


def test_more_and_fewer_workers(name: str, log: Path) -> None:
    with gunicorn(log, workers=2, env={"HYPERN_SHM_NAME": name}) as server:
        two = server.ready().pids(2)
        server.join(CLIENTS)
        os.kill(server.pid, signal.SIGTTIN)
        three = server.pids(3)
        assert two < three
        assert set(server.one_report(three)["members"]) == set(CLIENTS), "a worker that comes later sees the same"
        for remaining in (2, 1):
            os.kill(server.pid, signal.SIGTTOU)
            left = server.pids(remaining)
            assert set(server.one_report(left)["members"]) == set(CLIENTS)
        server.stop()
    assert not segment_files(name)


@pytest.mark.parametrize("named", [True, False], ids=["named", "default-name"])
@pytest.mark.parametrize("preload", [False, True], ids=["", "preload"])
def test_upgrade_by_usr2(preload: bool, named: bool, name: str, log: Path) -> None:
    env = {"HYPERN_SHM_NAME": name} if named else {}
    with gunicorn(log, *(["--preload"] if preload else []), workers=2, env=env) as server:
        old = server.ready().pids(2)
        name = server.get("/environment")["name"]
        assert segment_files(name)
        server.join(CLIENTS)

        os.kill(server.pid, signal.SIGUSR2)
        both = server.pids(4, timeout=30)
        (master,) = {pid for pid in server.children() if server.children(pid)}
        new = server.children(master)
        assert both == old | new
        assert server.get("/environment")["name"] == name, "the new master goes on with the name"
        assert set(server.one_report(both)["members"]) == set(CLIENTS)
        assert server.get("/publish", text="to the old workers' subscribers")["count"] == len(CLIENTS)

        os.kill(server.pid, signal.SIGTERM)  # the old master; its on_exit runs while the new one serves
        assert server.process.wait(timeout=20) == 0
        assert server.pids(2) == new
        assert segment_files(name), "the segment is not the old master's to remove"
        assert set(server.one_report(new)["members"]) == set(CLIENTS)
        server.join(["late"])
        assert server.get("/publish", text="now")["count"] == 1

        os.kill(master, signal.SIGHUP)
        newer = new_workers(server, new, 2)
        assert set(server.one_report(newer)["members"]) == {*CLIENTS, "late"}

        os.kill(master, signal.SIGTERM)
        wait_for(lambda: not server.everybody(), "the new master has ended")
    wait_for(lambda: not segment_files(name), "the segment has gone with the last process", 2.0)


def test_workers_that_do_not_stop_in_time_leave_no_segment_behind(log: Path) -> None:
    with gunicorn(log, "--graceful-timeout", "1") as server:
        workers = server.ready().pids(3)
        name = server.get("/environment")["name"]
        assert segment_files(name)

        def ask_for_much() -> None:
            with contextlib.suppress(OSError, http.client.HTTPException):  # its worker is killed
                server.request("GET", "/pid?spin=600")

        requests = [threading.Thread(target=ask_for_much) for _ in workers]
        for request in requests:
            request.start()
        wait_for(lambda: all(busy(pid) for pid in workers), "every worker is at a request")
        server.stop()
        for request in requests:
            request.join()
    assert not segment_files(name)


def test_after_everything_was_killed_the_next_start_begins_clean(name: str, log: Path) -> None:
    with gunicorn(log, env={"HYPERN_SHM_NAME": name}) as server:
        server.ready().pids(3)
        server.join(CLIENTS)
        server.get("/publish", text="before")
        for pid in server.everybody():
            os.kill(pid, signal.SIGKILL)
        server.process.wait(timeout=10)
    assert segment_files(name), "nobody was left to remove it"

    with gunicorn(log, env={"HYPERN_SHM_NAME": name}) as server:
        workers = server.ready().pids(3)
        report = server.one_report(workers)
        assert report["members"] == {}
        assert report["subscribers"] == report["heartbeats"] == []
        assert report["channels"] == ["room"]
        taken = server.join(CLIENTS)
        assert set(taken.values()) == workers
        assert server.get("/publish", text="after")["count"] == len(CLIENTS)
        server.stop()
    assert not segment_files(name)


def test_segments_of_servers_that_were_killed_are_cleared_away(log: Path) -> None:
    """With the default name no later start uses the same segment again, so the next one of any name removes it."""
    with gunicorn(log, workers=1) as server:
        name = server.ready().get("/environment")["name"]
        for pid in server.everybody():
            os.kill(pid, signal.SIGKILL)
        server.process.wait(timeout=10)
    with gunicorn(log, workers=1) as server:
        assert server.ready().get("/environment")["name"] != name
        assert not segment_files(name)
        server.stop()


def test_two_servers_are_two_worlds_unless_they_are_given_one_name(name: str, log: Path, tmp_path: Path) -> None:
    with gunicorn(log, workers=1) as one, gunicorn(tmp_path / "other.log", workers=1) as other:
        one.ready(), other.ready()
        one.join(["alice"])
        assert one.get("/environment")["name"] != other.get("/environment")["name"]
        assert not members_of(other)
        one.stop(), other.stop()
    env = {"HYPERN_SHM_NAME": name}
    with gunicorn(log, workers=1, env=env) as one, gunicorn(tmp_path / "other.log", workers=1, env=env) as other:
        one.ready(), other.ready()
        one.join(["alice"])
        assert set(members_of(other)) == {"alice"}
        one.stop()
        assert set(members_of(other)) == {"alice"}, "the segment stays for the other"
        other.stop()
    assert not segment_files(name)


OWN_CONFIGURATION = """
def on_starting(server): print("OWN on_starting")
def on_reload(server): print("OWN on_reload")
def pre_exec(server): print("OWN pre_exec")
def child_exit(server, worker): print("OWN child_exit", worker.pid)
def post_fork(server, worker): print("OWN post_fork", worker.pid)
workers = 2
{how}
"""


@pytest.mark.parametrize("times", [1, 2])
def test_hooks_of_ones_own_are_called_too(times: int, name: str, log: Path, tmp_path: Path) -> None:
    install = "from hypern_realtime_shm.gunicorn import install\n" + "install(globals())\n" * times
    config = tmp_path / "own_conf.py"
    config.write_text(OWN_CONFIGURATION.format(how=install))
    with gunicorn(log, config=str(config), workers=2, env={"HYPERN_SHM_NAME": name}) as server:
        old = server.ready().pids(2)
        server.join(CLIENTS)
        assert log.read_text().count("OWN on_starting") == 1
        os.kill(server.pid, signal.SIGHUP)
        new = new_workers(server, old, 2)
        assert log.read_text().count("OWN on_reload") == 1
        for pid in old:
            wait_for(lambda pid=pid: log.read_text().count(f"OWN child_exit {pid}") == 1, "the own hook ran, once")
        assert set(server.one_report(new)["members"]) == set(CLIENTS)
        os.kill(server.pid, signal.SIGUSR2)
        server.pids(4)
        assert log.read_text().count("OWN pre_exec") == 1
        (master,) = {pid for pid in server.children() if server.children(pid)}
        os.kill(master, signal.SIGTERM)
        wait_for(lambda: not alive(master), "the new master has ended")
        assert set(server.one_report(new)["members"]) == set(CLIENTS), "the upgrade was backed out"
        server.stop()


@pytest.mark.parametrize("how", ["python:hypern_realtime_shm.gunicorn", "star"])
def test_other_ways_to_take_the_hooks(how: str, log: Path, tmp_path: Path) -> None:
    config = how
    if how == "star":
        config = str(tmp_path / "star_conf.py")
        Path(config).write_text("from hypern_realtime_shm.gunicorn import *\n")
    with gunicorn(log, "--preload", config=config) as server:
        workers = server.ready().pids(3)
        name = server.get("/environment")["name"]
        assert segment_files(name)
        server.join(CLIENTS)
        assert set(server.one_report(workers)["members"]) == set(CLIENTS)
        server.stop()
    assert not segment_files(name)


def test_checking_the_configuration_creates_nothing(name: str, tmp_path: Path) -> None:
    (tmp_path / "nothing.py").write_text("def app(environ, start_response): ...\n")
    command = [sys.executable, "-m", "gunicorn", "-c", str(ROOT / "gunicorn_conf.py"), "--check-config", "nothing:app"]
    subprocess.run(command, cwd=tmp_path, env=os.environ | {"HYPERN_SHM_NAME": name}, check=True, timeout=30)
    assert not segment_files(name)


@pytest.mark.parametrize("preload", [False, True], ids=["", "preload"])
def test_the_master_starts_no_thread(preload: bool, name: str, log: Path) -> None:
    with gunicorn(log, *(["--preload"] if preload else []), env={"HYPERN_SHM_NAME": name}) as server:
        server.ready().pids(3)
        server.join(CLIENTS)
        assert len(list(Path(f"/proc/{server.pid}/task").iterdir())) == 1
        server.stop()


@pytest.mark.parametrize("preload", [False, True], ids=["", "preload"])
def test_no_configuration_at_all_with_the_name_in_the_code(preload: bool, name: str, log: Path) -> None:
    with gunicorn(log, *(["--preload"] if preload else []), config=None, env={"PROBE_SEGMENT": name}) as server:
        workers = server.ready().pids(3)
        taken = server.join(CLIENTS)
        assert set(taken.values()) == workers
        assert set(server.one_report(workers)["members"]) == set(CLIENTS)
        assert server.get("/publish", text="hello")["count"] == len(CLIENTS)
        assert all(messages == ["hello"] for messages in server.received(workers).values())
        os.kill(server.pid, signal.SIGHUP)
        new = new_workers(server, workers, 3)
        again = server.join(CLIENTS[:10])
        report = server.one_report(new)
        assert report["stats"][2] == 1, "channels and what was said in them stay"
        # Nobody but the workers holds the segment. If the last old one has gone before the first new one comes, it is
        # found deserted, and the members with it: that is what the hooks' master (or a preloaded hub) is for.
        assert set(again) <= set(report["members"]) if not preload else set(report["members"]) == set(CLIENTS)
        server.stop()


def test_dirty_workers_see_the_same_segment(name: str, log: Path) -> None:
    options = ["--dirty-app", "dirty:Dirty", "--dirty-workers", "1"]
    with gunicorn(log, *options, workers=2, env={"HYPERN_SHM_NAME": name}) as server:
        workers = server.ready().pids(2)
        taken = server.join(CLIENTS)
        seen = wait_for(lambda: server.get("/dirty", client="dirty"), "the dirty worker answers")
        assert seen["dirty_pid"] not in workers
        assert seen["members"] == sorted([*CLIENTS, "dirty"])
        assert seen["count"] >= len(CLIENTS)
        report = server.one_report(workers)
        assert report["members"]["dirty"] == {"pid": str(seen["dirty_pid"])}
        assert all(messages == ["from dirty"] for messages in server.received(set(taken.values())).values())

        os.kill(seen["dirty_pid"], signal.SIGKILL)
        wait_for(lambda: "dirty" not in members_of(server), "a killed dirty worker's member leaves as well", SETTLED)
        assert set(members_of(server)) == set(CLIENTS)

        def respawned() -> bool:
            status, body = server.request("GET", "/dirty?client=again")
            return status == 200 and json.loads(body)["members"] == sorted([*CLIENTS, "again"])

        wait_for(respawned, "the dirty worker in its place sees the same")
        server.stop()
    assert not segment_files(name)


WARNING = "HYPERN_SHM_NAME"


def test_workers_without_a_segment_are_warned_once(log: Path) -> None:
    with gunicorn(log, config=None, workers=2) as server:
        workers = server.ready().pids(2)
        server.join(CLIENTS)
        warned = [line for line in log.read_text().splitlines() if "Warning" in line and "segment" in line]
        assert len(warned) == len(workers), "each of them once"
        assert WARNING in log.read_text(), "and it says what to do"
        server.stop()


def test_one_worker_or_a_configured_segment_is_no_cause_for_a_warning(name: str, log: Path) -> None:
    with gunicorn(log, workers=2, env={"HYPERN_SHM_NAME": name}) as server:
        server.ready().pids(2)
        server.stop()
    assert "Warning" not in log.read_text()
