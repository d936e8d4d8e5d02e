"""Hypern's example of SSE with heartbeats, on three worker processes instead of one.

Changed against Hypern's documentation: the import, the names ``req`` and ``res`` and the calls that the wheel has
(``req.query(name)``, ``req.header(name)``), and the last lines, which start it. A client may reconnect to any worker:
all of them know it, and where it left off.

``/live`` is what the documentation leaves to "your data store": a stream that replays what was missed and goes on live.
Hypern makes its streams of events of its own, so it takes ``hypern_events()`` in the place of bytes.

    python examples/hypern_sse.py [port] [workers]
"""

import os
import sys
import time

from hypern import Hypern

from hypern_realtime_shm import HeartbeatConfig, HeartbeatMonitor, RealtimeHub

INTERVAL = float(os.environ.get("INTERVAL", "15"))  # seconds between keep-alives; gone after three
THREADS = 32  # of each worker: Hypern keeps one busy for each open stream

app = Hypern()
config = HeartbeatConfig(interval_secs=INTERVAL, timeout_secs=3 * INTERVAL, sse_retry_ms=3000)
hub = RealtimeHub(heartbeat_config=config)
hub.create_channel("lobby", 4096)
monitor: HeartbeatMonitor = hub.heartbeat


@app.get("/events")
async def sse_endpoint(req, res):
    client_id = req.query("client_id") or "anon"
    last_event_id = req.header("Last-Event-ID")

    # Register for heartbeat
    monitor.register(client_id, last_event_id=last_event_id)

    # Build SSE events
    events = []

    # If resuming, add events since last_event_id
    if last_event_id:
        # ... fetch missed events from your data store ...
        pass

    # Add the retry field so client auto-reconnects
    events.append(monitor.make_sse_event(data="connected", event="connect", id=f"evt-{client_id}-0"))

    res.sse(events)
    res.finish()


@app.get("/live")
async def live(req, res):
    user = req.query("user") or "anon"
    metadata = {"pid": str(os.getpid())}
    stream = hub.sse_stream_sync("lobby", user, metadata, last_event_id=req.header("Last-Event-ID"))
    res.sse_stream(stream.hypern_events())
    res.finish()


@app.post("/publish")
async def publish(req, res):
    res.json({"heard": hub.publish("lobby", req.body_bytes().decode()), "pid": os.getpid()})
    res.finish()


@app.get("/members")
async def members(req, res):  # noqa: ARG001
    present = {info.client_id: info.metadata for info in hub.get_presence("lobby")}
    res.json({"members": present, "pid": os.getpid()})
    res.finish()


@app.get("/clients")
async def get_clients(req, res):  # noqa: ARG001
    """Not in the original: who is monitored, the same on every worker."""
    res.json({client: monitor.get_last_event_id(client) for client in sorted(monitor.client_ids())})
    res.finish()


if __name__ == "__main__":
    port = int(sys.argv[1]) if len(sys.argv) > 1 else 3000
    workers = int(sys.argv[2]) if len(sys.argv) > 2 else 3
    time.sleep(0.25)  # Hypern's own task threads must be at rest before it forks its workers
    app.listen(port, "127.0.0.1", num_processes=workers, workers_threads=THREADS)
