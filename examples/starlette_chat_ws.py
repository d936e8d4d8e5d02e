"""A chat with presence over WebSockets, on three uvicorn workers.

Each connection is two loops: ``async for`` over what the room says, and ``receive`` for what this client says. A third
one tells who comes and goes. Whoever ends first ends the others: no task outlives its connection. The pid on every
message and member is the worker's that took it.

    HYPERN_SHM_NAME=demo uvicorn --workers 3 --timeout-graceful-shutdown 1 examples.starlette_chat_ws:app

Messages are JSON: ``{"text": "hello"}`` in; ``{"type": "message" | "members", …}`` out.
"""

from __future__ import annotations

import asyncio
import os
import secrets
from collections.abc import Coroutine
from typing import Any

import anyio
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketState

from hypern_realtime_shm import RealtimeHub, Subscriber

hub = RealtimeHub()


async def chat(websocket: WebSocket) -> None:
    room, name = f"chat:{websocket.path_params['room']}", websocket.query_params.get("name", "anonymous")
    await websocket.accept()
    hub.create_channel(room, 1024)  # False where it is there already
    client = f"{name}-{secrets.token_hex(4)}"  # an id for each connection: two tabs of one person are two members
    received = hub.join(room, client, {"name": name, "pid": str(os.getpid())})
    try:
        async with anyio.create_task_group() as tasks:
            loops = (
                say_what_is_said(websocket, received),
                say_who_is_there(websocket, room),
                listen(websocket, room, name),
            )
            for loop in loops:
                tasks.start_soon(until_one_ends, loop, tasks.cancel_scope)
    finally:
        received.close()
        hub.leave(room, client)
    if WebSocketState.CONNECTED == websocket.client_state == websocket.application_state:
        await websocket.close(1003, 'say {"text": "…"}')


async def until_one_ends(loop: Coroutine[Any, Any, None], all_of_them: anyio.CancelScope) -> None:
    try:
        await loop
    except WebSocketDisconnect:  # whichever notices first that the client has gone
        pass
    finally:
        all_of_them.cancel()


async def say_what_is_said(websocket: WebSocket, received: Subscriber) -> None:
    async for message in received:
        await websocket.send_text(str(message))


async def say_who_is_there(websocket: WebSocket, room: str) -> None:
    async with hub.presence.watch(room) as watch:
        async for diff in watch:
            joins = {info.client_id: info.metadata for info in diff.joins}
            await websocket.send_json({"type": "members", "joins": joins, "leaves": diff.leaves})


async def listen(websocket: WebSocket, room: str, name: str) -> None:
    while True:
        try:
            text = str((await websocket.receive_json())["text"])
        except (KeyError, TypeError, ValueError):  # not what a client of ours says
            return
        hub.publish_json(room, {"type": "message", "name": name, "text": text, "pid": os.getpid()})


async def state(request: Request) -> JSONResponse:
    """What this worker sees, and how many tasks it has."""
    present = hub.get_presence(f"chat:{request.path_params['room']}")
    members = {info.client_id: info.metadata for info in present}
    return JSONResponse({"pid": os.getpid(), "members": members, "tasks": len(asyncio.all_tasks())})


app = Starlette(routes=[WebSocketRoute("/chat/{room}", chat), Route("/state/{room}", state)])
