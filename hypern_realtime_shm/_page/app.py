"""What ``hypern-shm serve`` serves: the page, its two streams, /metrics, /healthz. Starlette has the HTTP.

The streams are server-sent events with ``SSEEvent``: with ids, so that a page which lost its connection gets what it
missed, with the time to wait before it comes back, and a comment where there is nothing to say for long.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterable
from pathlib import Path
from typing import Any, cast

from prometheus_client.exposition import choose_encoder
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import FileResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from hypern_realtime_shm._sight import Sight
from hypern_realtime_shm.errors import SegmentError
from hypern_realtime_shm.heartbeat import SSEEvent
from hypern_realtime_shm.inspect import Kind
from hypern_realtime_shm.metrics import registry

from .guard import Guard
from .tail import tail
from .watch import Watch

STATIC = Path(__file__).parent / "static"
RETRY = 1000  # milliseconds after which a page comes back
KEEP_ALIVE = 10.0  # seconds of silence, no more
STREAMS = 64  # open at once; a browser opens two a page

Events = AsyncGenerator[tuple[str, str | None, Any], None]


class Page:
    """The application for one segment.

    Args:
        name: the segment's.
        token: None: nobody needs one.
        hosts: see ``Guard``.
        interval: seconds between two looks.
        top_channels: see ``metrics.Collector``.
    """

    def __init__(
        self,
        name: str,
        *,
        token: str | None = None,
        hosts: Iterable[str] = (),
        interval: float = 1.0,
        top_channels: int = 0,
    ) -> None:
        self.watch = Watch(Sight(name), interval)
        self._name = name
        self._registry = registry(name, top_channels=top_channels)
        self._streams = 0
        self.app = Starlette(
            routes=[
                Route("/", self._index),
                Route("/events", self._events),
                Route("/tail", self._tail),
                Route("/metrics", self._metrics),
                Route("/healthz", self._health),
                Mount("/static", StaticFiles(directory=STATIC)),
            ],
            middleware=[Middleware(Guard, token=token, hosts=hosts)],
            lifespan=self._lifespan,
        )

    @contextlib.asynccontextmanager
    async def _lifespan(self, _app: Starlette) -> AsyncIterator[None]:
        looking = asyncio.create_task(self.watch.run())
        yield
        looking.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await looking

    async def _index(self, _request: Request) -> Response:
        return FileResponse(STATIC / "index.html")

    async def _health(self, _request: Request) -> Response:
        try:
            self.watch.sight.inspector()
        except SegmentError:
            return PlainTextResponse("the segment is not there, or cannot be read\n", 503)
        return PlainTextResponse("ok\n")

    async def _metrics(self, request: Request) -> Response:
        encode, content_type = choose_encoder(request.headers.get("accept", ""))
        return Response(await asyncio.to_thread(encode, self._registry), media_type=content_type)

    async def _events(self, request: Request) -> Response:
        return self._stream(self.watch.events(request.headers.get("last-event-id", "")))

    async def _tail(self, request: Request) -> Response:
        query = request.query_params
        kind = query.get("kind", "channel")
        if "channel" not in query or kind not in ("channel", "broadcast"):
            return PlainTextResponse("400: channel is wanted, and kind, if given, channel or broadcast\n", 400)
        after = request.headers.get("last-event-id") or query.get("after", "")
        return self._stream(tail(self.watch, query["channel"], query.get("namespace", ""), cast(Kind, kind), after))

    def _stream(self, events: Events) -> Response:
        if self._streams >= STREAMS:
            return PlainTextResponse(f"503: {STREAMS} streams are open already\n", 503, {"Retry-After": "5"})
        return StreamingResponse(self._written(events), media_type="text/event-stream")

    async def _written(self, events: Events) -> AsyncIterator[bytes]:
        self._streams += 1
        try:
            yield f"retry: {RETRY}\n\n".encode()
            said = time.monotonic()
            async with contextlib.aclosing(events):
                async for event, id, data in events:
                    if event:
                        said = time.monotonic()
                        yield SSEEvent(json.dumps(data, ensure_ascii=False), id=id, event=event).to_bytes()
                    elif time.monotonic() - said > KEEP_ALIVE:
                        said = time.monotonic()
                        yield b": still there\n\n"
        finally:
            self._streams -= 1


__all__ = ["Page"]
