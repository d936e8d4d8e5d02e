"""A chat that several gunicorn workers serve as one: plain WSGI, no framework, no broker.

Every page keeps one event stream (``/stream``), which stays on the worker that took it. What a page says is an
ordinary POST (``/say``), which any worker may take. Rooms, members and messages live in the shared segment, so it
makes no difference; the pid of the worker that took it is on every message and every member to show that it is so.

Run it with ``examples/chat/run.sh``, or ``gunicorn -c gunicorn_conf.py -k gthread --threads 16 -w 4
examples.chat.app:app``.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

from hypern_realtime_shm import RealtimeHub

hub = RealtimeHub()
for _room in ("lobby", "random", "help"):
    hub.create_channel(f"chat:{_room}")  # one worker creates it, for the others it is there already

StartResponse = Callable[..., Any]
Answer = tuple[str, list[tuple[str, str]], Iterable[bytes]]

STATIC = Path(__file__).with_name("static")
FILES = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/chat.css": ("chat.css", "text/css; charset=utf-8"),
    "/chat.js": ("chat.js", "text/javascript; charset=utf-8"),
}
HEADERS = [
    ("Cache-Control", "no-store"),
    ("X-Content-Type-Options", "nosniff"),
    ("Content-Security-Policy", "default-src 'self'; img-src 'self' data:"),
]
ROOM = re.compile(r"[a-z0-9][a-z0-9-]{0,23}")
MOST_ROOMS = 40
LONGEST_NAME = 24
LONGEST_TEXT = 1000
LARGEST_BODY = 16 * 1024

LOOK = 0.25  # seconds between two looks at members and rooms; for messages the stream waits
BEAT = 0.5  # … between two signs of life; a write that fails is how a WSGI server learns that a page has gone

stopping = threading.Event()


def _end_streams_when_the_worker_stops() -> None:
    """Streams never end by themselves; without this a reload would wait for them until its time-out."""
    if threading.current_thread() is not threading.main_thread():
        return
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT):
        before = signal.getsignal(number)
        if callable(before):  # gunicorn's own, which still does its work

            def stop(number: int, frame: Any, before: Callable[..., Any] = before) -> None:
                stopping.set()
                before(number, frame)

            signal.signal(number, stop)


_end_streams_when_the_worker_stops()


class Refused(Exception):
    """A request that is not answered with 200: the status line, and why."""

    def __init__(self, status: str, why: str) -> None:
        super().__init__(why)
        self.status = status


def app(environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
    """The WSGI application."""
    try:
        status, headers, body = answer(environ)
    except Refused as refused:
        status, headers, body = as_json({"error": str(refused)}, refused.status)
    start_response(status, headers + HEADERS)
    return body


def answer(environ: dict[str, Any]) -> Answer:
    """Choose what answers this request."""
    method, path = environ["REQUEST_METHOD"], environ.get("PATH_INFO", "/")
    if method == "GET" and path in FILES:
        name, content_type = FILES[path]
        return "200 OK", [("Content-Type", content_type)], [(STATIC / name).read_bytes()]
    if method == "GET" and path == "/stream":
        query = parse_qs(environ.get("QUERY_STRING", ""))
        room, name = room_of(query.get("room", [""])[0]), clean(query.get("name", [""])[0], LONGEST_NAME, "name")
        headers = [("Content-Type", "text/event-stream"), ("X-Accel-Buffering", "no")]
        return "200 OK", headers, stream(room, name, environ.get("HTTP_LAST_EVENT_ID"))
    if method == "GET" and path == "/state":
        room = room_of(parse_qs(environ.get("QUERY_STRING", "")).get("room", [""])[0])
        return as_json({"pid": os.getpid(), "rooms": rooms(), "members": members(room)})
    if method == "POST" and path == "/say":
        return as_json(say(read_json(environ)))
    raise Refused("404 Not Found", f"there is no {method} {path}")


def as_json(data: Any, status: str = "200 OK") -> Answer:
    """An answer in JSON."""
    return status, [("Content-Type", "application/json")], [json.dumps(data).encode()]


def read_json(environ: dict[str, Any]) -> dict[str, Any]:
    """The body of a request, which must be a JSON object and say so (no other site's form can)."""
    if environ.get("CONTENT_TYPE", "").partition(";")[0].strip() != "application/json":
        raise Refused("415 Unsupported Media Type", "send application/json")
    length = int(environ.get("CONTENT_LENGTH") or 0)
    if length > LARGEST_BODY:
        raise Refused("413 Content Too Large", f"at most {LARGEST_BODY} bytes")
    try:
        data = json.loads(environ["wsgi.input"].read(length))
    except ValueError:
        raise Refused("400 Bad Request", "this is not JSON") from None
    if not isinstance(data, dict):
        raise Refused("400 Bad Request", "send an object")
    return data


def clean(text: Any, longest: int, what: str) -> str:
    """Text from a person: printable, one line, of a sane length. The page shows it as text, never as HTML."""
    text = " ".join("".join(c if c.isprintable() else " " for c in str(text)).split())
    if not 0 < len(text) <= longest:
        raise Refused("400 Bad Request", f"the {what} has {len(text)} characters; it must have 1 to {longest}")
    return text


def room_of(room: Any) -> str:
    """A room that exists, made if need be."""
    if not isinstance(room, str) or not ROOM.fullmatch(room):
        raise Refused("400 Bad Request", "a room is 1 to 24 of a-z, 0-9 and -")
    if not hub.channels.has_channel(f"chat:{room}"):
        if len(rooms()) >= MOST_ROOMS:
            raise Refused("409 Conflict", f"there are {MOST_ROOMS} rooms already")
        hub.create_channel(f"chat:{room}")
    return room


def rooms() -> list[dict[str, Any]]:
    """Every room, with the number of its members on all workers."""
    names = sorted(name for name in hub.channels.list_channels() if name.startswith("chat:"))
    return [{"room": name.removeprefix("chat:"), "members": hub.presence.count(name)} for name in names]


def members(room: str) -> list[dict[str, Any]]:
    """Who is in the room, on whatever worker, in the order in which they came."""
    present = sorted(hub.get_presence(f"chat:{room}"), key=lambda member: (member.joined_at, member.client_id))
    return [{"client": member.client_id, **member.metadata} for member in present]


def say(request: dict[str, Any]) -> dict[str, Any]:
    """Publish what a member says. The member's own stream is on another worker as often as not."""
    room, client = room_of(request.get("room")), str(request.get("client"))
    text = clean(request.get("text"), LONGEST_TEXT, "message")
    member = hub.presence.get(f"chat:{room}", client)
    if member is None:
        raise Refused("403 Forbidden", f"this page is not in {room}")
    message = {"client": client, "name": member.metadata["name"], "text": text, "pid": os.getpid(), "at": time.time()}
    return {"pid": os.getpid(), "reached": hub.publish_json(f"chat:{room}", message)}


def event(name: str, data: str, event_id: str | None = None) -> bytes:
    """One server-sent event. The data is JSON, which has no line breaks."""
    return (f"id: {event_id}\n" if event_id else "").encode() + f"event: {name}\ndata: {data}\n\n".encode()


def stream(room: str, name: str, last_event_id: str | None) -> Iterator[bytes]:
    """A page's stay in a room: join, tell it all there is to tell, and leave when it goes. A page whose worker was
    killed comes back with the id of the last message it has, and is told what was said meanwhile."""
    channel, client = f"chat:{room}", secrets.token_hex(8)  # an id for each stay, so that no stay ends another
    received = hub.join(channel, client, {"name": name, "pid": str(os.getpid())}, last_event_id=last_event_id)
    shown: dict[str, str] = {}
    look = beat = 0.0
    try:
        hello = {"client": client, "room": room, "name": name, "pid": os.getpid()}
        yield b"retry: 500\n" + event("hello", json.dumps(hello), received.last_event_id)
        while not stopping.is_set():
            if (left := look - time.monotonic()) > 0:
                with contextlib.suppress(TimeoutError):
                    message = received.recv_message(timeout=left)
                    yield event("message", str(message.data), message.id)
                continue
            look = time.monotonic() + LOOK
            for what, data in (("members", json.dumps(members(room))), ("rooms", json.dumps(rooms()))):
                if shown.get(what) != data:
                    shown[what] = data
                    yield event(what, data)
            if time.monotonic() >= beat:
                beat = time.monotonic() + BEAT
                hub.heartbeat.pong(client)
                yield b":\n\n"
    finally:
        hub.leave(channel, client)
