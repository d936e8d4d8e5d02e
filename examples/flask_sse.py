"""Server-sent events with Flask on three gunicorn workers with threads: ``hub.sse_stream_sync`` is the whole of it.

Each open stream keeps one thread of its worker, so ``--threads`` bounds how many there are; the workers share
everything else. ``end_streams`` (here through the gunicorn configuration of the package) lets a worker stop at once:
its clients reconnect to another one and go on where they were.

    gunicorn -c python:hypern_realtime_shm.gunicorn -w 3 -k gthread --threads 64 examples.flask_sse:app

    curl -N 'http://127.0.0.1:8000/events?room=lobby&user=ada'
    curl -X POST 'http://127.0.0.1:8000/publish?room=lobby' -d 'hello'
    curl 'http://127.0.0.1:8000/members?room=lobby'
"""

from __future__ import annotations

import os
from typing import Any

from flask import Flask, Response, abort, jsonify, request

from hypern_realtime_shm import HeartbeatConfig, RealtimeHub

INTERVAL = float(os.environ.get("INTERVAL", "15"))  # seconds between keep-alives; gone after three

app = Flask(__name__)
hub = RealtimeHub(heartbeat_config=HeartbeatConfig(interval_secs=INTERVAL, timeout_secs=3 * INTERVAL))
hub.create_channel("lobby", 4096)


@app.get("/events")
def events() -> Response:
    try:
        stream = hub.sse_stream_sync(
            request.args.get("room", "lobby"),
            request.args.get("user", "anonymous"),
            {"pid": str(os.getpid())},
            last_event_id=request.headers.get("Last-Event-ID"),
        )
    except KeyError:
        abort(404, "there is no such room")
    return Response(stream, mimetype="text/event-stream", headers={"Cache-Control": "no-store"})


@app.post("/publish")
def publish() -> Any:
    try:
        heard = hub.publish(request.args.get("room", "lobby"), request.get_data(as_text=True))
    except KeyError:
        abort(404, "there is no such room")
    return jsonify(heard=heard, pid=os.getpid())


@app.get("/members")
def members() -> Any:
    present = hub.get_presence(request.args.get("room", "lobby"))
    return jsonify(members={info.client_id: info.metadata for info in present}, pid=os.getpid())
