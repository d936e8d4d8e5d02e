"""Server-sent events with Starlette on three uvicorn workers: ``hub.sse_stream`` is the whole of it.

Open ``/events?room=lobby&user=ada`` in as many tabs as you like; whatever is published through any worker reaches all
of them, and a tab that reconnects to another worker goes on where it was (``Last-Event-ID``). With FastAPI it is the
same: ``StreamingResponse`` and ``Request`` are Starlette's.

    HYPERN_SHM_NAME=demo uvicorn --workers 3 --timeout-graceful-shutdown 1 examples.starlette_sse:app

    curl -N 'http://127.0.0.1:8000/events?room=lobby&user=ada'
    curl -X POST 'http://127.0.0.1:8000/publish?room=lobby' -d 'hello'
    curl 'http://127.0.0.1:8000/members?room=lobby'

``--timeout-graceful-shutdown``: streams never end by themselves, so a server that stops must not wait for them.
"""

from __future__ import annotations

import os

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, StreamingResponse
from starlette.routing import Route

from hypern_realtime_shm import HeartbeatConfig, RealtimeHub

INTERVAL = float(os.environ.get("INTERVAL", "15"))  # seconds between keep-alives; gone after three

hub = RealtimeHub(heartbeat_config=HeartbeatConfig(interval_secs=INTERVAL, timeout_secs=3 * INTERVAL))
hub.create_channel("lobby", 4096)


async def events(request: Request) -> StreamingResponse:
    query = request.query_params
    try:
        stream = hub.sse_stream(
            query.get("room", "lobby"),
            query.get("user", "anonymous"),
            {"pid": str(os.getpid())},
            last_event_id=request.headers.get("last-event-id"),
        )
    except KeyError:
        raise HTTPException(404, "there is no such room") from None
    return StreamingResponse(stream, media_type="text/event-stream", headers={"Cache-Control": "no-store"})


async def publish(request: Request) -> JSONResponse:
    text = (await request.body()).decode()
    try:
        heard = hub.publish(request.query_params.get("room", "lobby"), text)
    except KeyError:
        raise HTTPException(404, "there is no such room") from None
    return JSONResponse({"heard": heard, "pid": os.getpid()})


async def members(request: Request) -> JSONResponse:
    present = hub.get_presence(request.query_params.get("room", "lobby"))
    return JSONResponse({"members": {info.client_id: info.metadata for info in present}, "pid": os.getpid()})


app = Starlette(
    routes=[
        Route("/events", events),
        Route("/publish", publish, methods=["POST"]),
        Route("/members", members),
    ]
)
