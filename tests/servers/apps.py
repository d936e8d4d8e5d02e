"""The probe that the servers under test run: one hub, reached over HTTP, as WSGI and as ASGI.

``PROBE_SEGMENT`` names the segment in code (``segment=``); without it the hub takes what the environment says.
Every request may spin for a few milliseconds (``spin=``): a busy worker leaves the next connection to another one,
whatever its class; sleeping would not do, under gevent it is no more than a pause.
"""

from __future__ import annotations

import itertools
import json
import os
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any
from urllib.parse import parse_qsl

from hypern_realtime_shm import RealtimeHub, Subscriber

hub = RealtimeHub(segment=os.environ.get("PROBE_SEGMENT"))
hub.create_channel("room", buffer_size=4096)

held: dict[str, Subscriber] = {}  # the subscribers of this worker, by client
draining, drains = threading.Lock(), itertools.count()


def join(query: dict[str, str]) -> dict[str, Any]:
    held[query["client"]] = hub.join(query.get("channel", "room"), query["client"], {"pid": str(os.getpid())})
    return {}


def leave(query: dict[str, str]) -> dict[str, Any]:
    hub.leave(query.get("channel", "room"), query["client"])
    return {}


def disconnect(query: dict[str, str]) -> dict[str, Any]:
    return {"left": hub.disconnect(query["client"])}


def publish(query: dict[str, str]) -> dict[str, Any]:
    return {"count": hub.publish(query.get("channel", "room"), query["text"])}


def drain(_query: dict[str, str]) -> dict[str, Any]:
    with draining:  # two at once would each get a part; the number says which of two answers came first
        received = {client: subscriber.drain() for client, subscriber in list(held.items())}
        return {"number": next(drains), "received": received}


def diff(query: dict[str, str]) -> dict[str, Any]:
    return hub.get_presence_diff(query.get("channel", "room"))


def report(query: dict[str, str]) -> dict[str, Any]:
    """What this worker sees of the whole. Nothing in it may depend on which worker answers."""
    channel = query.get("channel", "room")
    stats = hub.channels.get_stats(channel)
    return {
        "members": {member.client_id: member.metadata for member in hub.get_presence(channel)},
        "count": hub.presence.count(channel),
        "subscribers": sorted(hub.channels.get_subscribers(channel)),
        "channels": sorted(hub.channels.list_channels()),
        "stats": [stats.name, stats.subscriber_count, stats.total_messages, stats.dropped_messages],
        "heartbeats": sorted(hub.heartbeat.client_ids()),
        "monitored": hub.heartbeat.stats().monitored_clients,
    }


def environment(_query: dict[str, str]) -> dict[str, Any]:
    return {"name": os.environ.get("HYPERN_SHM_NAME"), "threads": threading.active_count(), "ppid": os.getppid()}


def dirty(query: dict[str, str]) -> dict[str, Any]:
    """Have gunicorn's dirty worker join, and say what it sees."""
    from gunicorn.dirty import get_dirty_client

    return get_dirty_client().execute("dirty:Dirty", "join_and_report", query["client"])


ROUTES: dict[str, Callable[[dict[str, str]], dict[str, Any]]] = {
    f"/{function.__name__}": function
    for function in (join, leave, disconnect, publish, drain, diff, report, environment, dirty)
}
ROUTES["/pid"] = lambda _query: {}


def answer(path: str, query_string: str) -> tuple[int, bytes]:
    query = dict(parse_qsl(query_string, keep_blank_values=True))
    until = time.perf_counter() + float(query.get("spin", 0))
    if path not in ROUTES:
        return 404, b"{}"
    result = {"pid": os.getpid(), **ROUTES[path](query)}
    while time.perf_counter() < until:
        pass
    return 200, json.dumps(result).encode()


def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    """WSGI."""
    status, body = answer(environ["PATH_INFO"], environ.get("QUERY_STRING", ""))
    start_response("200 OK" if status == 200 else "404 Not Found", [("Content-Type", "application/json")])
    return [body]


async def app(scope: dict[str, Any], receive: Callable[..., Any], send: Callable[..., Any]) -> None:
    """ASGI."""
    if scope["type"] == "lifespan":
        while True:
            kind = (await receive())["type"]
            await send({"type": f"{kind}.complete"})
            if kind == "lifespan.shutdown":
                return
    status, body = answer(scope["path"], scope["query_string"].decode())
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
