"""A server's view: a chat on 4 gunicorn workers with 500 event streams, on ours and on Redis pub/sub.

One application (`bench/chat.py`) behind gunicorn's own ASGI worker; only what carries the messages differs. The clients
are in this process and share the machine with the server: absolute numbers say as much about them.
"""

from __future__ import annotations

import asyncio
import os
import resource
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from .harness import Options, Samples, keep, machine, now, number, said, segment_name, table
from .peers import Redis, answers, free_port, server

WORKERS, CLIENTS = 4, 500
TEXT = "x" * 64
PATIENCE = 60.0
CONFIGURATION = """
from hypern_realtime_shm.gunicorn import install
bind = "127.0.0.1:{port}"
backlog = 2048
workers = {workers}
worker_class = "asgi"
worker_connections = 2000
timeout = 120
keepalive = 120
graceful_timeout = 2
control_socket_disable = True
pidfile = "{pidfile}"
install(globals())
"""


class Stream(asyncio.Protocol):
    """A page's event stream: counts events."""

    def __init__(self, crowd: Crowd) -> None:
        self.crowd, self.events, self.tail = crowd, 0, b""

    def data_received(self, data: bytes) -> None:
        data = self.tail + data
        before, self.events = self.events, self.events + data.count(b"\n\n")
        self.tail = b"\n" if data.endswith(b"\n") and not data.endswith(b"\n\n") else b""
        if before < self.crowd.wanted <= self.events:
            self.crowd.arrived()


class Crowd:
    """Who waits until each has had so many events."""

    def __init__(self) -> None:
        self.streams: list[Stream] = []
        self.wanted = self.missing = 0
        self.all_of_them: asyncio.Future[int] | None = None

    def expect(self, events: int) -> asyncio.Future[int]:
        """The time at which the last one has had so many events more than the first has now."""
        self.wanted = min(stream.events for stream in self.streams) + events
        self.missing = sum(stream.events < self.wanted for stream in self.streams)
        self.all_of_them = asyncio.get_running_loop().create_future()
        return self.all_of_them

    def arrived(self) -> None:
        self.missing -= 1
        if self.missing == 0 and self.all_of_them is not None and not self.all_of_them.done():
            self.all_of_them.set_result(now())


class Chat:
    """A server, its clients, and what it has cost so far."""

    def __init__(self, port: int, pidfile: Path, others: tuple[int, ...] = ()) -> None:
        self.port, self.pidfile, self.others = port, pidfile, others
        self.crowd = Crowd()
        self.lines: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def connect(self, clients: int) -> None:
        loop = asyncio.get_running_loop()
        for n in range(clients):
            transport, stream = await loop.create_connection(lambda: Stream(self.crowd), "127.0.0.1", self.port)
            transport.write(f"GET /stream?client-{n} HTTP/1.1\r\nHost: bench\r\n\r\n".encode())
            self.crowd.streams.append(stream)
        for _ in range(WORKERS):
            self.lines.append(await asyncio.open_connection("127.0.0.1", self.port))
        # Once a message has reached everybody, everybody is subscribed.
        for _ in range(600):
            await asyncio.sleep(0.1)
            await self.post(0)
            await asyncio.sleep(0.1)
            if min(stream.events for stream in self.crowd.streams) >= 2:
                break
        else:
            raise TimeoutError("the streams are not there after two minutes")
        await asyncio.sleep(1)
        most = max(stream.events for stream in self.crowd.streams)
        for stream in self.crowd.streams:  # some were early and have had more of those messages
            stream.events = most

    async def post(self, line: int) -> None:
        reader, writer = self.lines[line % len(self.lines)]
        writer.write(f"POST /say HTTP/1.1\r\nHost: bench\r\nContent-Length: {len(TEXT)}\r\n\r\n{TEXT}".encode())
        answer = await reader.readuntil(b"\r\n\r\n")
        if b" 204 " not in answer:
            raise RuntimeError(answer.decode())

    async def to_the_last(self, posts: int) -> list[float]:
        """Milliseconds from a post until the last client has it, for posts one after the other."""
        times = []
        for n in range(posts):
            start, arrived = now(), self.crowd.expect(1)
            await self.post(n)
            times.append((await asyncio.wait_for(arrived, PATIENCE) - start) / 1e6)
        return times

    async def flood(self, posts: int) -> tuple[float, float]:
        """Deliveries a second, and processor seconds of the server a million deliveries, for posts on all lines."""
        arrived = self.crowd.expect(posts)
        spent, start = self.processor_time(), now()

        async def many(line: int) -> None:
            for _ in range(posts // len(self.lines)):
                await self.post(line)

        await asyncio.gather(*(many(line) for line in range(len(self.lines))))
        last = await asyncio.wait_for(arrived, PATIENCE)
        deliveries = posts * len(self.crowd.streams)
        return deliveries / (last - start) * 1e9, (self.processor_time() - spent) / deliveries * 1e6

    def processor_time(self) -> float:
        """Seconds of the server's processes, and of the broker's."""
        master = int(self.pidfile.read_text())
        children = Path(f"/proc/{master}/task/{master}/children").read_text().split()
        ticks = 0
        for pid in (master, *map(int, children), *self.others):
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            ticks += int(fields[11]) + int(fields[12])
        return ticks / os.sysconf("SC_CLK_TCK")


@contextmanager
def chat(directory: str, which: str, others: tuple[int, ...] = ()) -> Iterator[Chat]:
    port = free_port()
    pidfile, configuration = Path(directory, f"{port}.pid"), Path(directory, f"{port}.py")
    configuration.write_text(CONFIGURATION.format(port=port, workers=WORKERS, pidfile=pidfile))
    with segment_name() as name:
        setting = (f"CHAT={which}", f"HYPERN_SHM_NAME={name}")
        command = ("env", *setting, sys.executable, "-m", "gunicorn", "-c", str(configuration), "bench.chat:app")
        with server(*command, ready=lambda: pidfile.exists() and answers(port)):
            yield Chat(port, pidfile, others)


def pid_of(path: str) -> int:
    import redis

    return int(redis.Redis(unix_socket_path=path).info("server")["process_id"])


async def measure(chats: dict[str, Chat], options: Options) -> dict[str, dict[str, Samples]]:
    found = {name: {what: Samples() for what in ("p50_ms", "p99_ms", "per_second", "cpu_s")} for name in chats}
    for one in chats.values():
        await one.connect(options.scaled(CLIENTS))
    for turn in range(options.rounds + 1):
        for name, one in chats.items():
            times = sorted(await one.to_the_last(options.scaled(50)))
            values = (times[len(times) // 2], times[len(times) * 99 // 100], *await one.flood(options.scaled(200)))
            if turn:
                for samples, value in zip(found[name].values(), values, strict=True):
                    samples.rounds.append(value)
    return found


def run(options: Options) -> None:
    about = machine("gunicorn", "redis")
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(8192, most), most))
    with ExitStack() as stack:
        directory = stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-"))
        socket = stack.enter_context(Redis.serving())
        chats = {
            "hypern_realtime_shm": stack.enter_context(chat(directory, "shm")),
            "Redis pub/sub": stack.enter_context(chat(directory, socket, (pid_of(socket),))),
        }
        found = asyncio.run(measure(chats, options))
    results = {name: {what: samples.as_json() for what, samples in values.items()} for name, values in found.items()}
    for name, values in results.items():
        cells = "".join(
            f"{what:>13} {number(value['median']):>9} ±{value['spread'] / 2:<4.0%}" for what, value in values.items()
        )
        print(f"{name:<22}{cells}", flush=True)
    report = {"machine": about, "rounds": options.rounds, "workers": WORKERS, "clients": CLIENTS, "results": results}
    keep(options, "server", report, text(about, options, results))


def text(about: dict[str, Any], options: Options, results: dict[str, Any]) -> str:
    ours, theirs = results.values()
    titles = {
        "per_second": "messages delivered in a second",
        "p50_ms": "from a post to the last client, p50, ms",
        "p99_ms": "from a post to the last client, p99, ms",
        "cpu_s": "processor seconds of server and broker, a million deliveries",
    }
    rows = [
        (
            title,
            *(number(side[what]["median"]) for side in (ours, theirs)),
            f"**{ours[what]['median'] / theirs[what]['median']:.2f}**",
        )
        for what, title in titles.items()
    ]
    return f"""# A server's view: a chat with {CLIENTS} event streams on {WORKERS} gunicorn workers

{said(about)}
Median of {options.rounds} rounds in turns; gunicorn's ASGI worker, messages of 64 bytes. The clients share the machine
with the server, and writing to sockets is most of what either server does.

{table(("", *results, "ratio"), rows)}
"""
