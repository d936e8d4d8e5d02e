"""Hypern's own examples on three workers of the real wheel, which forks them from Rust."""

from __future__ import annotations

import contextlib
import http.client
import json
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from hypern_realtime_shm import HeartbeatMonitor, RealtimeHub

from .harness import ROOT, Server, free_port, wait_for

WORKERS = 3
USERS = [f"user-{number:02}" for number in range(40)]


def hypern(example: str, log: Path, name: str | None = None) -> Server:
    port = free_port()
    command = [sys.executable, str(ROOT / "examples" / example), str(port), str(WORKERS)]
    return Server(command, port, log, {"HYPERN_SHM_NAME": name} if name else {})


def taker(server: Server, client_port: int) -> int:
    """Which process holds the other end of this connection; Hypern itself does not say."""
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        local, remote = (int(address.partition(":")[2], 16) for address in fields[1:3])
        if (local, remote) == (server.port, client_port):
            for pid in server.children():
                for descriptor in Path(f"/proc/{pid}/fd").iterdir():
                    with contextlib.suppress(OSError):
                        if descriptor.readlink().name == f"socket:[{fields[9]}]":
                            return pid
    raise AssertionError(f"nobody holds the connection from port {client_port}")


def on_each_worker(server: Server, path: str) -> dict[int, Any]:
    """What every worker answers."""
    answers: dict[int, Any] = {}

    def all_have_answered() -> bool:
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
        try:
            connection.request("GET", path)
            answer = json.loads(connection.getresponse().read())
            answers[taker(server, connection.sock.getsockname()[1])] = answer
        finally:
            connection.close()
        return len(answers) == WORKERS

    wait_for(all_have_answered, f"every worker has answered; it was {list(answers)}", 20.0, 0.0)
    return answers


def sound(server: Server) -> None:
    """No error so far.

    The servers are killed, not stopped in order: while it stops, the wheel may panic in its logger, and one time in
    thirty a worker never ends (it drops its runtime while a thread of that waits for the GIL). With
    ``hypern.realtime`` in our place it is just the same.
    """
    output = server.output()
    assert "Traceback" not in output
    assert "panicked" not in output


def post(server: Server, path: str, **body: Any) -> Any:
    status, answer = server.request("POST", path, json.dumps(body).encode(), {"Content-Type": "application/json"})
    assert status == 200, answer
    return json.loads(answer)


@pytest.mark.parametrize("named", [True, False], ids=["named", "private"])
def test_the_chat_room_is_one(named: bool, name: str, log: Path) -> None:
    with hypern("hypern_chat.py", log, name if named else None) as server:
        server.ready("/chat/members")
        wait_for(lambda: len(server.children()) == WORKERS, "all workers run")

        with ThreadPoolExecutor(8) as pool:
            joined = list(pool.map(lambda user: server.get("/chat/join", user_id=user), USERS))
        assert joined == [{"status": "joined", "user_id": user} for user in USERS]

        for answer in on_each_worker(server, "/chat/members").values():
            assert {each["client_id"]: each["metadata"] for each in answer["members"]} == {
                user: {"name": user} for user in USERS
            }
        if named:  # what is said there is heard here, in another process: the room is the segment's
            hub = RealtimeHub(segment=name)
            assert {member.client_id for member in hub.get_presence("chat:main")} == set(USERS)
            heard = hub.channels.subscribe("chat:main", "test")
            for number in range(20):
                assert post(server, "/chat/send", user_id=USERS[0], message=str(number)) == {"status": "sent"}
            said = [json.loads(message) for message in heard.drain()]
            assert said == [{"type": "message", "from": USERS[0], "text": str(number)} for number in range(20)]
            assert hub.channels.get_stats("chat:main").total_messages == 20
            hub.leave("chat:main", "test")
        else:
            post(server, "/chat/send", user_id=USERS[0], message="hello")

        for user in USERS[::2]:
            assert server.get("/chat/leave", user_id=user) == {"status": "left"}
        for answer in on_each_worker(server, "/chat/members").values():
            assert sorted(each["client_id"] for each in answer["members"]) == USERS[1::2]
        sound(server)


def test_a_client_that_reconnects_is_known_on_every_worker(name: str, log: Path) -> None:
    with hypern("hypern_sse.py", log, name) as server:
        server.ready("/clients")
        wait_for(lambda: len(server.children()) == WORKERS, "all workers run")

        def connect(user: str) -> None:
            status, body = server.request("GET", f"/events?client_id={user}", None, {"Last-Event-ID": f"evt-{user}-7"})
            assert status == 200
            lines = set(body.decode().strip().splitlines())
            assert lines == {f"id: evt-{user}-0", "event: connect", "retry: 3000", "data: connected"}

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(connect, USERS))
        known = {user: f"evt-{user}-7" for user in USERS}
        assert all(answer == known for answer in on_each_worker(server, "/clients").values())
        monitor = HeartbeatMonitor(segment=name)
        assert sorted(monitor.client_ids()) == USERS
        assert monitor.get_last_event_id(USERS[3]) == known[USERS[3]]
        sound(server)
