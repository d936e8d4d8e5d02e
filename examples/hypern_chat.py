"""Hypern's chat-room example, on three worker processes instead of one.

Changed against Hypern's documentation: the import, the names ``req`` and ``res`` and the calls that the wheel has
(``req.query(name)``, ``req.json()``), and the last lines, which start it. No segment is named: Hypern forks its
workers after the hub is made, so they share the hub's own. Set ``HYPERN_SHM_NAME`` to look at it from outside.

    python examples/hypern_chat.py [port] [workers]
"""

import sys
import time

from hypern import Hypern

from hypern_realtime_shm import BroadcastConfig, HeartbeatConfig, RealtimeHub

app = Hypern()
hub = RealtimeHub(heartbeat_config=HeartbeatConfig(interval_secs=15))

# Create the chat room on startup
hub.create_channel("chat:main", broadcast_config=BroadcastConfig(buffer_size=256))


@app.get("/chat/join")
async def join_chat(req, res):
    user_id = req.query("user_id") or "anonymous"
    hub.join("chat:main", user_id, {"name": user_id})
    res.json({"status": "joined", "user_id": user_id})
    res.finish()


@app.post("/chat/send")
async def send_message(req, res):
    body = req.json()
    user_id = body["user_id"]
    message = body["message"]
    hub.publish_json("chat:main", {"type": "message", "from": user_id, "text": message})
    res.json({"status": "sent"})
    res.finish()


@app.get("/chat/members")
async def get_members(req, res):  # noqa: ARG001
    members = hub.presence.list_as_dicts("chat:main")
    res.json({"members": members})
    res.finish()


@app.get("/chat/leave")
async def leave_chat(req, res):
    user_id = req.query("user_id") or ""
    hub.disconnect(user_id)
    res.json({"status": "left"})
    res.finish()


if __name__ == "__main__":
    port = int(sys.argv[1]) if len(sys.argv) > 1 else 3000
    workers = int(sys.argv[2]) if len(sys.argv) > 2 else 3
    time.sleep(0.25)  # Hypern's own task threads must be at rest before it forks its workers
    app.listen(port, "127.0.0.1", num_processes=workers)
