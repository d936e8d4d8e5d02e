"""A gunicorn dirty application, in processes of its own, that uses the segment of the HTTP workers."""

from __future__ import annotations

import os
from typing import Any

from gunicorn.dirty import DirtyApp

from hypern_realtime_shm import RealtimeHub


class Dirty(DirtyApp):
    def init(self) -> None:
        self.hub = RealtimeHub()

    def join_and_report(self, client: str) -> dict[str, Any]:
        self.hub.join("room", client, {"pid": str(os.getpid())})
        count = self.hub.publish("room", f"from {client}")
        return {
            "dirty_pid": os.getpid(),
            "members": sorted(m.client_id for m in self.hub.get_presence("room")),
            "count": count,
        }
