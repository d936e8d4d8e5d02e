"""The probe with its segment's metrics mounted, as a WSGI and as an ASGI application."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import Any

import apps

from hypern_realtime_shm.metrics import asgi_app, wsgi_app

_wsgi = wsgi_app(os.environ["HYPERN_SHM_NAME"])
_asgi = asgi_app(os.environ["HYPERN_SHM_NAME"])


def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    if environ["PATH_INFO"] != "/metrics":
        return apps.application(environ, start_response)

    def and_who(status: str, headers: list[tuple[str, str]]) -> Any:
        return start_response(status, [*headers, ("X-Pid", str(os.getpid()))])

    return _wsgi(environ, and_who)


async def app(scope: dict[str, Any], receive: Callable[..., Any], send: Callable[..., Any]) -> None:
    await (_asgi if scope.get("path") == "/metrics" else apps.app)(scope, receive, send)
