"""What a user could pick to carry messages between processes, each behind the same four methods.

A `Peer` is made in every process that takes part, with the address that `serving` gave. `speaker` and `listener` give
blocking ends of a channel, `say` and `hear` coroutines for asyncio; a peer that has none of these leaves them out. Each
is used as its documentation shows, set to lose nothing: no high-water mark, no output limit, buffers long enough.
"""

from __future__ import annotations

import asyncio
import ctypes
import itertools
import multiprocessing
import os
import socket
import subprocess
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, ClassVar

from hypern_realtime_shm.testing import unique_name, unlink_segment

SIZE = "192MiB"

Say = Callable[[str], Any]
Hear = Callable[[], Any]
AsyncSay = Callable[[str], Awaitable[Any]]
AsyncHear = Callable[[], Awaitable[Any]]


class Peer:
    """A way to carry messages. `listeners`: how many will hear each channel; `retained`: how many messages have to be
    there for one that is behind."""

    name: ClassVar[str]
    package: ClassVar[str | None] = None

    def __init__(self, address: str, listeners: int = 1, retained: int = 256) -> None:
        self.address, self.listeners, self.retained = address, listeners, retained

    def receiver(self, channel: str, index: int = 0) -> Callable[[int], None]:
        """Receives so many, one by one."""
        hear = self.listener(channel, index)

        def receive(count: int) -> None:
            for _ in range(count):
                hear()

        return receive

    def close(self) -> None:
        """Puts away what a process that goes on would trip over; the others are killed."""

    @classmethod
    @contextmanager
    def serving(cls) -> Iterator[str]:
        """What has to run or be there meanwhile; gives the address."""
        with tempfile.TemporaryDirectory(prefix="bench-") as directory:
            yield directory

    def speaker(self, channel: str) -> tuple[Say, Callable[[], Any]]:
        """Publishes, and makes sure that all of it has been sent."""
        raise NotImplementedError

    def listener(self, channel: str, index: int = 0) -> Hear:
        raise NotImplementedError


@contextmanager
def server(*command: str, ready: Callable[[], bool]) -> Iterator[None]:
    """A server that is ready, and that is gone afterwards whatever happens; what it said is shown if it is not."""
    with tempfile.TemporaryFile() as log, subprocess.Popen(command, stdout=log, stderr=log) as process:

        def said() -> str:
            log.seek(0)
            return log.read()[-2_000:].decode(errors="replace")

        try:
            for _ in range(200):
                if ready():
                    break
                if process.poll() is not None:
                    raise RuntimeError(f"{command[0]} ended with {process.returncode}:\n{said()}")
                time.sleep(0.05)
            else:
                raise RuntimeError(f"{command[0]} is not ready after 10 s:\n{said()}")
            yield
            if process.poll() is not None:
                raise RuntimeError(f"{command[0]} ended with {process.returncode} meanwhile:\n{said()}")
        finally:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()


def free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return int(listening.getsockname()[1])


def answers(port: int) -> bool:
    with socket.socket() as connecting:
        return connecting.connect_ex(("127.0.0.1", port)) == 0


class Ours(Peer):
    name = "hypern_realtime_shm"

    @classmethod
    @contextmanager
    def serving(cls) -> Iterator[str]:
        import hypern_realtime_shm as ours

        name = unique_name("bench")
        try:
            segment = ours.Segment.open(name, size=SIZE)
            yield name
            segment.close()
        finally:
            unlink_segment(name)

    def manager(self, channel: str) -> Any:
        import hypern_realtime_shm as ours

        manager = ours.ChannelManager(self.retained, segment=self.address)
        manager.create_channel(channel)
        return manager

    def speaker(self, channel: str) -> tuple[Say, Callable[[], Any]]:
        publish = self.manager(channel).publish
        return (lambda message: publish(channel, message)), (lambda: None)

    def listener(self, channel: str, index: int = 0) -> Hear:
        return self.manager(channel).subscribe(channel, f"listener-{index}").recv  # type: ignore[no-any-return]

    async def say(self, channel: str) -> AsyncSay:
        publish = self.manager(channel).publish

        async def say(message: str) -> None:
            publish(channel, message)

        return say

    async def hear(self, channel: str) -> AsyncHear:
        return self.manager(channel).subscribe(channel, "listener").recv_async  # type: ignore[no-any-return]


class Redis(Peer):
    """Pub/sub through a Unix socket, which is faster than loopback."""

    name = "Redis pub/sub"
    package = "redis"

    @classmethod
    @contextmanager
    def serving(cls) -> Iterator[str]:
        with tempfile.TemporaryDirectory(prefix="bench-") as directory:
            path = f"{directory}/redis"
            options = ("--port", "0", "--unixsocket", path, "--save", "", "--appendonly", "no", "--dir", directory)
            unlimited = ("--client-output-buffer-limit", "pubsub 0 0 0")
            with server("redis-server", *options, *unlimited, ready=Path(path).exists):
                yield path

    def speaker(self, channel: str) -> tuple[Say, Callable[[], Any]]:
        import redis

        publish = redis.Redis(unix_socket_path=self.address).publish
        return (lambda message: publish(channel, message)), (lambda: None)

    def listener(self, channel: str, index: int = 0) -> Hear:  # noqa: ARG002
        import redis

        subscribed = redis.Redis(unix_socket_path=self.address, decode_responses=True).pubsub()
        subscribed.subscribe(channel)
        messages = (message["data"] for message in subscribed.listen() if message["type"] == "message")
        subscribed.parse_response()
        return messages.__next__

    async def say(self, channel: str) -> AsyncSay:
        import redis.asyncio

        publish = redis.asyncio.Redis(unix_socket_path=self.address).publish
        return lambda message: publish(channel, message)

    async def hear(self, channel: str) -> AsyncHear:
        import redis.asyncio

        subscribed = redis.asyncio.Redis(unix_socket_path=self.address, decode_responses=True).pubsub()
        await subscribed.subscribe(channel)
        await subscribed.parse_response()
        messages = subscribed.listen()

        async def hear() -> Any:
            return (await messages.__anext__())["data"]

        return hear


class Nats(Peer):
    """nats-py has asyncio only: its blocking ends run a loop of their own."""

    name = "NATS"
    package = "nats-py"

    @classmethod
    @contextmanager
    def serving(cls) -> Iterator[str]:
        port = free_port()
        with server("nats-server", "-a", "127.0.0.1", "-p", str(port), ready=lambda: answers(port)):
            yield f"nats://127.0.0.1:{port}"

    async def connected(self) -> Any:
        import nats

        connection = await nats.connect(self.address, pending_size=1 << 27)
        self.connections.append((asyncio.get_running_loop(), connection))
        return connection

    def __init__(self, address: str, listeners: int = 1, retained: int = 256) -> None:
        super().__init__(address, listeners, retained)
        self.connections: list[tuple[asyncio.AbstractEventLoop, Any]] = []

    def close(self) -> None:
        for loop, connection in self.connections:
            loop.run_until_complete(connection.close())

    def speaker(self, channel: str) -> tuple[Say, Callable[[], Any]]:
        loop = asyncio.new_event_loop()
        asyncio.set_event_loop(loop)  # `publish` makes a future, and that needs one even where nothing runs
        connection = loop.run_until_complete(self.connected())

        def say(message: str) -> None:
            # `publish` only awaits when its buffer is full; a loop for each message would cost more than it.
            coroutine = connection.publish(channel, message.encode())
            try:
                coroutine.send(None)
            except StopIteration:
                return
            raise RuntimeError("NATS wanted to wait in the middle of a publish")

        return say, lambda: loop.run_until_complete(connection.flush())

    def receiver(self, channel: str, index: int = 0) -> Callable[[int], None]:  # noqa: ARG002
        loop = asyncio.new_event_loop()
        hear = loop.run_until_complete(self.hear(channel))

        async def receive(count: int) -> None:
            for _ in range(count):
                await hear()

        return lambda count: loop.run_until_complete(receive(count))

    async def say(self, channel: str) -> AsyncSay:
        connection = await self.connected()
        return lambda message: connection.publish(channel, message.encode())

    async def hear(self, channel: str) -> AsyncHear:
        connection = await self.connected()
        subscribed = await connection.subscribe(channel, pending_msgs_limit=-1, pending_bytes_limit=-1)
        await connection.flush()

        async def hear() -> str:
            return (await subscribed.next_msg(timeout=30)).data.decode()  # type: ignore[no-any-return]

        return hear


class ZeroMQ(Peer):
    name = "ZeroMQ ipc"
    package = "pyzmq"

    def end(self, context: Any, kind: int, channel: str) -> Any:
        made = context.socket(kind)
        made.set_hwm(0)
        made.linger = 0
        path = f"ipc://{self.address}/{channel}"
        made.bind(path) if kind == 1 else made.connect(path)
        if kind != 1:
            made.subscribe(b"")
        return made

    def speaker(self, channel: str) -> tuple[Say, Callable[[], Any]]:
        import zmq

        return self.end(zmq.Context.instance(), zmq.PUB, channel).send_string, lambda: None

    def listener(self, channel: str, index: int = 0) -> Hear:  # noqa: ARG002
        import zmq

        return self.end(zmq.Context.instance(), zmq.SUB, channel).recv_string  # type: ignore[no-any-return]

    async def say(self, channel: str) -> AsyncSay:
        import zmq
        import zmq.asyncio

        return self.end(zmq.asyncio.Context.instance(), zmq.PUB, channel).send_string  # type: ignore[no-any-return]

    async def hear(self, channel: str) -> AsyncHear:
        import zmq
        import zmq.asyncio

        return self.end(zmq.asyncio.Context.instance(), zmq.SUB, channel).recv_string  # type: ignore[no-any-return]


class Queues(Peer):
    """A queue for each listener, for one that is shared gives each message to one. Made by who starts the processes,
    and inherited: these listeners are forked."""

    name = "multiprocessing.Queue"
    made: ClassVar[dict[tuple[str, int], Any]] = {}

    @classmethod
    @contextmanager
    def serving(cls) -> Iterator[str]:
        context = multiprocessing.get_context("fork")
        cls.made = {(channel, index): context.Queue() for channel in ("there", "back") for index in range(4)}
        yield ""
        for queue in cls.made.values():
            queue.cancel_join_thread()
            queue.close()
        cls.made = {}

    def speaker(self, channel: str) -> tuple[Say, Callable[[], Any]]:
        queues = [self.made[channel, index] for index in range(self.listeners)]

        def say(message: str) -> None:
            for queue in queues:
                queue.put(message)

        return say, lambda: None

    def listener(self, channel: str, index: int = 0) -> Hear:
        return self.made[channel, index].get  # type: ignore[no-any-return]


class Iceoryx(Peer):
    """Publish and subscribe, and its event service to wake who waits; the payload is copied out into a `str`."""

    name = "iceoryx2"
    package = "iceoryx2"

    @classmethod
    @contextmanager
    def serving(cls) -> Iterator[str]:
        """A domain of its own, because processes that are killed leave files."""
        with tempfile.TemporaryDirectory(prefix="bench-") as directory:
            try:
                yield directory
            finally:
                for left in Path("/dev/shm").glob(f"{Path(directory).name}_*"):
                    left.unlink(missing_ok=True)

    def services(self, channel: str) -> tuple[Any, Any]:
        import iceoryx2 as iox2

        iox2.set_log_level(iox2.LogLevel.Error)
        configuration = iox2.config.default()
        configuration.global_cfg.root_path = iox2.Path.new(self.address)
        configuration.global_cfg.prefix = iox2.FileName.new(f"{Path(self.address).name}_")
        self.node = iox2.NodeBuilder.new().config(configuration).create(iox2.ServiceType.Ipc)
        name = iox2.ServiceName.new(channel)
        messages = self.node.service_builder(name).publish_subscribe(iox2.Slice[ctypes.c_uint8])
        messages = messages.subscriber_max_buffer_size(1024).enable_safe_overflow(False).open_or_create()
        return messages, self.node.service_builder(name).event().open_or_create()

    def speaker(self, channel: str) -> tuple[Say, Callable[[], Any]]:
        import iceoryx2 as iox2

        messages, events = self.services(channel)
        builder = messages.publisher_builder().initial_max_slice_len(4096)
        publisher = builder.backpressure_strategy(iox2.BackpressureStrategy.RetryUntilDelivered).create()
        notifier = events.notifier_builder().create()

        def say(message: str) -> None:
            payload = message.encode()
            sample = publisher.loan_slice_uninit(len(payload))
            ctypes.memmove(sample.payload_ptr, payload, len(payload))
            sample.assume_init().send()
            notifier.notify()

        return say, lambda: None

    def listener(self, channel: str, index: int = 0) -> Hear:  # noqa: ARG002
        messages, events = self.services(channel)
        subscriber = messages.subscriber_builder().buffer_size(1024).create()
        waiting = events.listener_builder().create()
        heard = itertools.count(1)

        def hear() -> str:
            while (sample := subscriber.receive()) is None:
                waiting.blocking_wait()
            if next(heard) % 64 == 0:
                waiting.try_wait()  # or the notifications of messages that were there already fill what they lie in
            message = ctypes.string_at(sample.payload_ptr, sample.payload().len()).decode()
            sample.delete()
            return message

        return hear


class Pipe(Peer):
    """The floor: a FIFO that carries one byte, and nothing is made of it."""

    name = "a bare pipe"

    def ends(self, channel: str, flags: int = 0) -> int:
        path = f"{self.address}/{channel}"
        with suppress(FileExistsError):
            os.mkfifo(path)
        return os.open(path, os.O_RDWR | flags)

    def speaker(self, channel: str) -> tuple[Say, Callable[[], Any]]:
        descriptor = self.ends(channel)
        return (lambda _message: os.write(descriptor, b"x")), (lambda: None)

    def listener(self, channel: str, index: int = 0) -> Hear:  # noqa: ARG002
        descriptor = self.ends(channel)
        return lambda: os.read(descriptor, 1)

    async def say(self, channel: str) -> AsyncSay:
        descriptor = self.ends(channel, os.O_NONBLOCK)

        async def say(_message: str) -> None:
            os.write(descriptor, b"x")

        return say

    async def hear(self, channel: str) -> AsyncHear:
        descriptor, loop = self.ends(channel, os.O_NONBLOCK), asyncio.get_running_loop()
        waiting: list[asyncio.Future[None]] = []

        def readable() -> None:
            if waiting:
                os.read(descriptor, 1)
                waiting.pop().set_result(None)

        loop.add_reader(descriptor, readable)

        async def hear() -> None:
            future = loop.create_future()
            waiting.append(future)
            await future

        return hear


PEERS: dict[str, type[Peer]] = {peer.name: peer for peer in (Ours, Redis, Nats, ZeroMQ, Queues, Iceoryx, Pipe)}
