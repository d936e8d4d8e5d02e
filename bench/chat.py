"""The chat of `bench/server.py`: event streams and posts, on ours or on Redis, the rest the same. ASGI.

`CHAT` says which: "shm", with the segment of the gunicorn configuration, or the path of Redis's socket.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

WHICH = os.environ.get("CHAT", "shm")
ROOM = "chat:lobby"

if WHICH == "shm":
    from hypern_realtime_shm import RealtimeHub

    hub = RealtimeHub()
    hub.create_channel(ROOM)

    async def say(text: str) -> None:
        hub.publish(ROOM, text)

    async def messages(client: str) -> AsyncIterator[str]:
        sub = hub.join(ROOM, client, {"name": client})
        try:
            async for message in sub:
                yield message
        finally:
            sub.close()
            hub.leave(ROOM, client)

else:
    import redis.asyncio

    pool = redis.asyncio.Redis(unix_socket_path=WHICH, decode_responses=True, max_connections=10_000)

    async def say(text: str) -> None:
        await pool.publish(ROOM, text)

    async def messages(client: str) -> AsyncIterator[str]:  # noqa: ARG001
        async with pool.pubsub() as subscribed:
            await subscribed.subscribe(ROOM)
            async for message in subscribed.listen():
                if message["type"] == "message":
                    yield message["data"]


Send = Callable[[dict[str, Any]], Awaitable[None]]


async def app(scope: dict[str, Any], receive: Callable[[], Awaitable[dict[str, Any]]], send: Send) -> None:
    if scope["type"] == "lifespan":
        while True:
            kind = (await receive())["type"]
            await send({"type": f"{kind}.complete"})
            if kind == "lifespan.shutdown":
                return
    if scope["path"] == "/say":
        text = (await receive())["body"].decode()
        await say(text)
        headers = [(b"content-length", b"0")]
        await send({"type": "http.response.start", "status": 204, "headers": headers})
        await send({"type": "http.response.body", "body": b""})
        return
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]})
    await send({"type": "http.response.body", "body": b": here\n\n", "more_body": True})
    streaming = asyncio.ensure_future(stream(scope["query_string"].decode(), send))
    gone = asyncio.ensure_future(disconnected(receive))
    await asyncio.wait([streaming, gone], return_when=asyncio.FIRST_COMPLETED)
    for task in (streaming, gone):
        task.cancel()
    await asyncio.gather(streaming, gone, return_exceptions=True)


async def stream(client: str, send: Send) -> None:
    async for message in messages(client):
        await send({"type": "http.response.body", "body": f"data: {message}\n\n".encode(), "more_body": True})


async def disconnected(receive: Callable[[], Awaitable[dict[str, Any]]]) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
