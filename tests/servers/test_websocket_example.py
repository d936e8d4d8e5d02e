"""The WebSocket example on three uvicorn workers, with real sockets: one room, presence, and no task left behind."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import struct
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.client import ClientConnection, connect

from .harness import Server, free_port, wait_for


@pytest.fixture
def server(name: str, log: Path) -> Any:
    port = free_port()
    command = [sys.executable, "-m", "uvicorn", "--workers", "3", "--port", str(port), "--log-level", "warning"]
    command += ["--timeout-graceful-shutdown", "1", "examples.starlette_chat_ws:app"]
    with Server(command, port, log, {"HYPERN_SHM_NAME": name}) as started:
        started.ready("/state/lobby")
        yield started
        assert "Traceback" not in started.output(), started.output()[-4000:]


def workers(server: Server, room: str = "lobby") -> dict[int, Any]:
    """What each worker says."""
    found: dict[int, Any] = {}

    def all_three() -> bool:
        answer = server.get(f"/state/{room}")
        found[answer["pid"]] = answer
        return len(found) == 3

    wait_for(all_three, "every worker has answered", 20, 0)
    return found


class Person:
    """A connection, and what the room has told it."""

    def __init__(self, name: str, connection: ClientConnection) -> None:
        self.name, self.connection = name, connection
        self.messages: list[tuple[str, str]] = []
        self.pids: set[int] = set()
        self.members: dict[str, dict[str, str]] = {}
        self.reading = asyncio.create_task(self._read())

    async def _read(self) -> None:
        with contextlib.suppress(Exception):
            async for text in self.connection:
                told = json.loads(text)
                if told["type"] == "message":
                    self.messages.append((told["name"], told["text"]))
                    self.pids.add(told["pid"])
                else:
                    for left in told["leaves"]:
                        del self.members[left]
                    assert not set(told["joins"]) & set(self.members), "joined twice"
                    self.members.update(told["joins"])

    async def say(self, text: str) -> None:
        await self.connection.send(json.dumps({"text": text}))

    def here(self) -> list[str]:
        """The names of who is there."""
        return sorted(member["name"] for member in self.members.values())

    async def leave(self, *, abruptly: bool = False) -> None:
        if abruptly:
            raw = self.connection.transport.get_extra_info("socket")
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.transport.abort()
        await self.connection.close()
        await self.reading


@contextlib.asynccontextmanager
async def people(server: Server, *names: str, room: str = "lobby") -> AsyncIterator[list[Person]]:
    present: list[Person] = []
    try:
        for name in names:
            connection = await connect(f"ws://127.0.0.1:{server.port}/chat/{room}?name={name}", open_timeout=20)
            present.append(Person(name, connection))
        yield present
    finally:
        for person in present:
            await person.leave()


async def until(condition: Any, what: str, seconds: float = 10) -> None:
    end = asyncio.get_running_loop().time() + seconds
    while not condition():
        assert asyncio.get_running_loop().time() < end, f"still not: {what}"
        await asyncio.sleep(0.01)


def test_one_room_on_three_workers(server: Server) -> None:
    async def main() -> None:
        async with contextlib.AsyncExitStack() as rooms:
            present: list[Person] = []
            names: list[str] = []
            # Two dozen at a time, until every worker has some.
            while len({member["pid"] for person in present[:1] for member in person.members.values()}) < 3:
                more = [f"person-{len(present) + number:03}" for number in range(24)]
                names += more
                present += await rooms.enter_async_context(people(server, *more))
                await until(lambda first=present[0], all_=tuple(names): first.here() == [*all_], "one sees all")
                assert len(present) < 240, "a worker took nobody"
            for person in present:
                await until(lambda person=person: person.here() == names, f"{person.name} sees everybody")
            # One speaks on each worker.
            taken = {member["pid"]: member["name"] for member in present[0].members.values()}
            speakers = [person for person in present if person.name in taken.values()]
            for number in range(20):
                await asyncio.gather(*(person.say(f"{number}") for person in speakers))
            for person in present:
                await until(lambda person=person: len(person.messages) == 60, f"{person.name} has heard everything")
                assert person.messages == present[0].messages, "one order for all"
                for name in taken.values():
                    assert [text for who, text in person.messages if who == name] == [str(n) for n in range(20)]
            assert len(present[0].pids) == 3
            for number, person in enumerate(present[12:]):
                await person.leave(abruptly=number % 2 == 0)
            for person in present[:12]:
                await until(lambda person=person: person.here() == names[:12], f"{person.name} sees who is left")

    asyncio.run(main())
    # A client has closed before its worker has come to what it does then.
    wait_for(lambda: all(answer["members"] == {} for answer in workers(server).values()), "nobody is there", 10)


def test_no_task_outlives_its_connection(server: Server) -> None:
    before = {pid: answer["tasks"] for pid, answer in workers(server).items()}

    async def main() -> None:
        for round_ in range(3):
            async with people(server, *(f"p{number}" for number in range(15))) as present:
                # A connection is accepted before its client has joined.
                await until(lambda first=present[0]: len(first.here()) == 15, "all have joined")
                await present[0].say("hello")
                await until(
                    lambda present=present: all(person.messages for person in present), "everybody has heard it"
                )
                for number, person in enumerate(present):
                    if number % 3 == round_:
                        await person.leave(abruptly=True)

    asyncio.run(main())

    def as_before() -> bool:
        now = workers(server)
        return all(now[pid]["tasks"] <= tasks and now[pid]["members"] == {} for pid, tasks in before.items())

    wait_for(as_before, "as many tasks as before", 10)


def test_nonsense_closes_the_connection_and_nothing_else(server: Server) -> None:
    async def main() -> None:
        async with people(server, "ada", "bob") as (ada, bob):
            await ada.connection.send("no JSON")
            await until(lambda: ada.reading.done(), "Ada is shown out")
            assert ada.connection.close_code == 1003
            await until(lambda: bob.here() == ["bob"], "Bob sees it")
            await bob.say("alone")
            await until(lambda: bob.messages == [("bob", "alone")], "Bob hears himself")

    asyncio.run(main())
