"""The probe with its segment's metrics mounted, as a WSGI and as an ASGI application; they say which worker answers."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable
from typing import Any

import apps

from hypern_realtime_shm.metrics import asgi_app, wsgi_app

_wsgi = wsgi_app(os.environ["HYPERN_SHM_NAME"])
_asgi = asgi_app(os.environ["HYPERN_SHM_NAME"])
SPIN = 0.004  # how long a scrape keeps its worker busy, so that others take their share


def _spin() -> None:
    end = time.monotonic() + SPIN
    while time.monotonic() < end:
        pass


def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    if environ["PATH_INFO"] != "/metrics":
        return apps.application(environ, start_response)

    def and_who(status: str, headers: list[tuple[str, str]]) -> Any:
        return start_response(status, [*headers, ("X-Pid", str(os.getpid()))])

    _spin()
    answer: Iterable[bytes] = _wsgi(environ, and_who)
    return answer


async def app(scope: dict[str, Any], receive: Callable[..., Any], send: Callable[..., Any]) -> None:
    if scope.get("path") != "/metrics":
        await apps.app(scope, receive, send)
        return

    async def and_who(message: dict[str, Any]) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [*message["headers"], (b"x-pid", str(os.getpid()).encode())]
        await send(message)

    _spin()
    await _asgi(scope, receive, and_who)
