"""Hypern's example of SSE with heartbeats, on three worker processes instead of one.

Changed against Hypern's documentation: the import, the names ``req`` and ``res`` and the calls that the wheel has
(``req.query(name)``, ``req.header(name)``), and the last lines, which start it. A client may reconnect to any worker:
all of them know it, and where it left off.

    python examples/hypern_sse.py [port] [workers]
"""

import sys
import time

from hypern import Hypern

from hypern_realtime_shm import HeartbeatConfig, HeartbeatMonitor

app = Hypern()
monitor = HeartbeatMonitor(HeartbeatConfig(interval_secs=15, timeout_secs=45, sse_retry_ms=3000))


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


@app.get("/clients")
async def get_clients(req, res):  # noqa: ARG001
    """Not in the original: who is monitored, the same on every worker."""
    res.json({client: monitor.get_last_event_id(client) for client in sorted(monitor.client_ids())})
    res.finish()


if __name__ == "__main__":
    port = int(sys.argv[1]) if len(sys.argv) > 1 else 3000
    workers = int(sys.argv[2]) if len(sys.argv) > 2 else 3
    time.sleep(0.25)  # Hypern's own task threads must be at rest before it forks its workers
    app.listen(port, "127.0.0.1", num_processes=workers)
