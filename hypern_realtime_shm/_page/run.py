"""Serves the page on a socket until it is told to stop. uvicorn has the HTTP and the signals."""

from __future__ import annotations

import socket
from collections.abc import Iterable
from types import FrameType

import uvicorn

from .app import Page


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, page: Page) -> None:
        super().__init__(config)
        self._page = page

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        # Streams last for ever: they must be told, or uvicorn waits for them.
        self._page.watch.stop()
        super().handle_exit(sig, frame)


def run(
    listening: socket.socket,
    name: str,
    *,
    token: str | None,
    hosts: Iterable[str],
    interval: float,
    top_channels: int,
) -> None:
    """Serves a segment's page on a listening socket. Other arguments: those of ``Page``."""
    page = Page(name, token=token, hosts=hosts, interval=interval, top_channels=top_channels)
    config = uvicorn.Config(
        page.app,
        log_level="warning",
        access_log=False,  # addresses may hold names that strangers chose
        server_header=False,
        lifespan="on",
        timeout_graceful_shutdown=3,
    )
    _Server(config, page).run(sockets=[listening])


__all__ = ["run"]
