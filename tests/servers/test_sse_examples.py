"""The examples of event streams over real HTTP on three workers: exactly once, in order, across reconnects; who is
there, and until when."""

from __future__ import annotations

import random
import signal
import sys
import threading
import time
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from .harness import ROOT, Server, free_port, gunicorn, stopped, wait_for
from .sse_client import EventClient

INTERVAL = 0.4  # seconds between keep-alives; who is gone is gone after three
GONE = 3 * INTERVAL
MANY = 12


def environment(name: str) -> dict[str, str]:
    return {"HYPERN_SHM_NAME": name, "INTERVAL": str(INTERVAL)}


def uvicorn(example: str, name: str, log: Path) -> Server:
    port = free_port()
    command = [sys.executable, "-m", "uvicorn", "--workers", "3", "--port", str(port), "--log-level", "warning"]
    return Server(
        [*command, "--timeout-graceful-shutdown", "1", f"examples.{example}:app"], port, log, environment(name)
    )


def flask(name: str, log: Path, *worker: str) -> Server:
    arguments = (*(worker or ("-k", "gthread", "--threads", "64")), "--pythonpath", str(ROOT))
    return gunicorn(log, *arguments, app="examples.flask_sse:app", env=environment(name))


def hypern(name: str, log: Path) -> Server:
    port = free_port()
    command = [sys.executable, str(ROOT / "examples/hypern_sse.py"), str(port), "3"]
    return Server(command, port, log, environment(name))


SERVERS: dict[str, Callable[[str, Path], Server]] = {
    "starlette": lambda name, log: uvicorn("starlette_sse", name, log),
    "django": lambda name, log: uvicorn("django_sse", name, log),
    "flask": flask,
    "flask-gevent": lambda name, log: flask(name, log, "-k", "gevent"),
    "hypern": hypern,
}


class Site:
    """A server with one of the examples."""

    def __init__(self, kind: str, server: Server, workers: set[int]) -> None:
        self.server = server
        self.workers = workers
        self.path = "/live" if kind == "hypern" else "/events"

    def open(self, user: str, last_event_id: str | None = None) -> EventClient:
        client = EventClient(self.server.port, self.path, last_event_id, room="lobby", user=user)
        assert client.status == 200
        assert client.content_type.startswith("text/event-stream")
        return client.opened()

    def say(self, text: str) -> Any:
        status, body = self.server.request("POST", "/publish?room=lobby", text.encode())
        assert status == 200, body
        return body

    def members(self) -> dict[str, dict[str, str]]:
        members: dict[str, dict[str, str]] = self.server.get("/members", room="lobby")["members"]
        return members


def all_three(server: Server, but: Collection[int] = ()) -> set[int]:
    """The three workers, once all have answered; before, gunicorn's do not hear signals."""
    answered: set[int] = set()

    def all_answer() -> bool:
        answered.add(server.get("/members", room="lobby")["pid"])
        return len(answered - set(but)) == 3

    wait_for(all_answer, "all three workers answer", 30, 0)
    return answered - set(but)


@pytest.fixture(params=sorted(SERVERS))
def site(request: pytest.FixtureRequest, name: str, log: Path) -> Any:
    with SERVERS[request.param](name, log) as server:
        server.ready("/members?room=lobby")
        # Else the first one up takes more streams than it has threads.
        yield Site(request.param, server, all_three(server))
        output = server.output()
        assert "Traceback" not in output, output[-4000:]


def test_every_stream_of_every_worker_and_until_when(site: Site) -> None:
    clients: dict[str, EventClient] = {}

    def open_more(count: int) -> set[int]:
        with ThreadPoolExecutor(6) as pool:
            users = [f"user-{len(clients) + number:02}" for number in range(count)]
            clients.update(zip(users, pool.map(site.open, users), strict=True))
        return {int(member["pid"]) for member in site.members().values()}

    # A connection goes to whoever asks first: while one that took none takes two, the others stand still.
    for lazy in site.workers - open_more(MANY):
        with stopped(site.workers - {lazy}):
            open_more(2)
    assert {int(member["pid"]) for member in site.members().values()} == site.workers
    assert set(site.members()) == set(clients)
    said = [f"message {number}\nof two lines" for number in range(60)]
    with ThreadPoolExecutor(1) as pool:
        list(pool.map(site.say, said))
    for client in clients.values():
        assert client.wait_for(len(said)) == said
        assert client.retry == 3000
    assert len({tuple(client.events) for client in clients.values()}) == 1, "the same ids everywhere"

    # Half of them go, some without a word; nobody else does.
    users = sorted(clients)
    for number, user in enumerate(users[::2]):
        (clients[user].die if number % 2 else clients[user].close)()
    wait_for(lambda: set(site.members()) == set(users[1::2]), "who went is gone", GONE + 3)
    time.sleep(GONE)
    assert set(site.members()) == set(users[1::2]), "who is there stays, however quiet it is"

    # Two tabs of one client, on different workers if it can be had.
    tabs = [site.open("tabs") for _ in range(3)]
    site.say("to the tabs")
    for tab in tabs:
        assert tab.wait_for(1) == ["to the tabs"]
    tabs[0].close()
    tabs[1].die()
    time.sleep(GONE + 1)
    assert "tabs" in site.members(), "one tab is left"
    tabs[2].close()
    wait_for(lambda: "tabs" not in site.members(), "the last tab is gone", GONE + 3)
    for user in users[1::2]:
        clients[user].close()
    wait_for(lambda: site.members() == {}, "everybody is gone", GONE + 3)


def test_reconnects_while_somebody_publishes_without_pause(site: Site) -> None:
    stop = threading.Event()
    said = 0

    def publish() -> None:
        nonlocal said
        while not stop.is_set():
            site.say(str(said))
            said += 1

    publisher = threading.Thread(target=publish)
    client = site.open("ada")
    publisher.start()
    received: list[str] = []
    ids: list[str | None] = []
    last_id = client.last_id
    try:
        for _ in range(30):
            client.wait_for(random.randrange(1, 12))
            (client.die if random.random() < 0.5 else client.close)()
            # What came counts up to the last whole event.
            for event_id, data in client.events:
                received.append(data)
                ids.append(event_id)
                last_id = event_id
            client = site.open("ada", last_id)
    finally:
        stop.set()
        publisher.join(20)
    client.wait_for(said - len(received))
    received += client.data
    ids += [event_id for event_id, _ in client.events]
    client.close()
    assert received == [str(number) for number in range(said)], "a gap or a double"
    assert len(set(ids)) == len(ids)
    print(f"{said} messages over 31 connections")


@pytest.mark.parametrize("example", ["flask_sse gthread", "flask_sse gevent", "starlette_sse asgi",
                                     "starlette_sse uvicorn_worker.UvicornWorker"])  # fmt: skip
def test_a_reload_ends_the_streams_and_they_go_on_elsewhere(example: str, name: str, log: Path) -> None:
    """gunicorn's workers would wait for their streams until a time-out far beyond this test's."""
    app, worker = example.split()
    arguments = ("-k", worker, "--threads", "32", "--pythonpath", str(ROOT), "--graceful-timeout", "300")
    with gunicorn(log, *arguments, app=f"examples.{app}:app", env=environment(name)) as server:
        server.ready("/members?room=lobby")
        before = all_three(server)
        site = Site("gunicorn", server, before)
        clients = [site.open(f"user-{number}") for number in range(9)]
        site.say("before")
        for client in clients:
            assert client.wait_for(1) == ["before"]
        server.process.send_signal(signal.SIGHUP)
        for client in clients:
            wait_for(client.ended.is_set, "the stream of an old worker has ended")
            client.close()
        # uvicorn resets what it accepts while it shuts down.
        wait_for(lambda: not before & server.children(), "the old workers have gone")
        site.say("between")
        again = [site.open(f"user-{number}", client.last_id) for number, client in enumerate(clients)]
        site.say("after")
        for client in again:
            assert client.wait_for(2) == ["between", "after"]
        assert len(site.members()) == 9
        all_three(server, but=before)
        server.stop()
        for client in again:
            client.close()


def test_an_unknown_room_is_not_found(name: str, log: Path) -> None:
    with SERVERS["starlette"](name, log) as server:
        server.ready("/members?room=lobby")
        assert server.request("GET", "/events?room=none&user=ada")[0] == 404
        server.stop()
