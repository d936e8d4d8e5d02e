"""A client of event streams over a plain socket, which can also be cut off as a dying machine is."""

from __future__ import annotations

import contextlib
import http.client
import socket
import struct
import threading
import time
from urllib.parse import urlencode


class EventClient:
    """One connection, read in a thread: (id, data) of every event, the last id, the retry time, comments."""

    def __init__(self, port: int, path: str, last_event_id: str | None = None, **query: str) -> None:
        self.events: list[tuple[str | None, str]] = []
        self.last_id = last_event_id
        self.retry: int | None = None
        self.comments = 0
        self.ended = threading.Event()
        self._opened = threading.Event()
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        headers = {"Accept": "text/event-stream"}
        if last_event_id is not None:
            headers["Last-Event-ID"] = last_event_id
        self._connection.request("GET", f"{path}?{urlencode(query)}", headers=headers)
        # The answer takes the socket over; this keeps it in reach.
        self._socket: socket.socket = self._connection.sock
        self._response = self._connection.getresponse()
        self.status = self._response.status
        self.content_type = self._response.getheader("Content-Type", "")
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        data: list[str] = []
        with contextlib.suppress(OSError, ValueError, http.client.HTTPException, AttributeError):
            while line := self._response.readline():
                field, colon, value = line.decode().rstrip("\n").partition(":")
                value = value.removeprefix(" ")
                if not field and colon:
                    self.comments += 1
                elif field == "id":
                    self.last_id = value
                elif field == "retry":
                    self.retry = int(value)
                    self._opened.set()
                elif field == "data":
                    data.append(value)
                elif not field and data:
                    self.events.append((self.last_id, "\n".join(data)))
                    data = []
        self.ended.set()

    @property
    def data(self) -> list[str]:
        """What came, without ids."""
        return [data for _, data in self.events]

    def opened(self, timeout: float = 20.0) -> EventClient:
        """Waits for the opening frame."""
        assert self._opened.wait(timeout), "no opening frame"
        return self

    def wait_for(self, count: int, timeout: float = 20.0) -> list[str]:
        """Waits for so many events."""
        deadline = time.monotonic() + timeout
        while len(self.events) < count:
            assert time.monotonic() < deadline, (
                f"{len(self.events)} of {count} events came; ended: {self.ended.is_set()}"
            )
            time.sleep(0.005)
        return self.data

    def close(self) -> None:
        """Goes in order."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._end()

    def die(self) -> None:
        """Is gone without a word: the connection is reset."""
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._end()

    def _end(self) -> None:
        with contextlib.suppress(OSError):
            # The socket is only closed once nobody reads from it any more.
            self._response.close()
        self._connection.close()
        self._socket.close()
        self._thread.join(5)
