"""Kills and stops at random while processes do the whole API: ``python -m tests.soak --seconds 60``.

Checked as it runs: no message torn, reordered or of another channel, in any process. Checked every twenty
seconds, with everybody dead: everything the dead owned has left, and with everything removed no block, cell or
ring slot is in use that was not in use at the start. Prints its seed; ``--seed`` replays the choices. Fails where
the machine is too slow for forty kills and twenty stops a second, unless told ``--at-any-rate``.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import signal
import sys
import time
import traceback
import warnings
from pathlib import Path
from typing import Any

from hypern_realtime_shm import (
    BroadcastConfig,
    ChannelClosed,
    Message,
    PresenceWatch,
    RealtimeHub,
    Segment,
    SSEStreamSync,
    Subscriber,
)
from hypern_realtime_shm.testing import unique_name

WORKERS = 6
# SIGKILLs and SIGSTOPs aimed at in a second, and how many there must be.
KILLS, STOPS = 55, 28
KILLS_AT_LEAST, STOPS_AT_LEAST = 40, 20
# Seconds after which everybody is killed and everything looked at.
ROUND = 20.0
# Memory of the process that starts them all: what an allocator may keep, not what grows with time.
GROWTH = 16 << 20
ROOMS = 5
CLIENTS = 40


class Worker:
    """One process's endless random use of everything."""

    def __init__(self, hub: RealtimeHub, seed: int) -> None:
        self.hub = hub
        self.random = random.Random(seed)
        self.subs: list[Subscriber] = []
        self.last: dict[tuple[int, str, str], tuple[int, str]] = {}
        self.watches: list[tuple[PresenceWatch, set[str]]] = []
        self.streams: list[SSEStreamSync] = []

    def run(self) -> None:
        actions = [getattr(self, name) for name in dir(self) if name.startswith("do_")]
        while True:
            room = f"room {self.random.randrange(ROOMS)}"
            client = f"client {self.random.randrange(CLIENTS)}"
            try:
                self.random.choice(actions)(room, client)
                self.check_messages()
            except KeyError:
                # Somebody has just removed the channel.
                continue

    def check_messages(self) -> None:
        for sub in self.subs:
            while (message := sub.try_recv_message()) is not None:
                self.check(sub, message)

    def check(self, sub: Subscriber, message: Message) -> None:
        room, publisher, serial, rest = message.data.split("|")
        assert room == message.channel, f"{message.data[:80]} on {sub}"
        assert message.channel == sub.channel_name or sub.channel_name == "*"
        assert rest == "x" * len(rest), "torn"
        key = (id(sub), publisher, room)
        last = self.last.get(key, (-1, ""))
        assert int(serial) > last[0], f"reordered or doubled: {message.data[:60]} {message.id} after {last} on {sub}"
        self.last[key] = int(serial), message.id

    def keep(self, sub: Subscriber) -> None:
        if len(self.subs) > 20:
            gone = self.subs.pop(self.random.randrange(len(self.subs)))
            self.last = {key: value for key, value in self.last.items() if key[0] != id(gone)}
            gone.close()
        self.subs.append(sub)

    def do_create(self, room: str, _: str) -> None:
        self.hub.channels.create_channel(room, self.random.choice([4, 16, 64]))

    def do_remove(self, room: str, _: str) -> None:
        if self.random.random() < 0.2:
            self.hub.channels.remove_channel(room)

    def do_subscribe(self, room: str, client: str) -> None:
        self.keep(self.hub.channels.subscribe(room, client))

    def do_subscribe_pattern(self, _: str, client: str) -> None:
        self.keep(self.hub.channels.subscribe_pattern("*", client))

    def do_resume(self, room: str, client: str) -> None:
        messages = self.hub.channels.replay(room)
        ids = [message.id.rpartition("-") for message in messages]
        sequences = [int(sequence) for _, _, sequence in ids]
        assert sequences == sorted(set(sequences))
        if messages:
            self.keep(self.hub.channels.subscribe(room, client, last_event_id=self.random.choice(messages).id))

    def do_wait(self, _room: str, _client: str) -> None:
        for sub in self.subs[-3:]:
            try:
                self.check(sub, sub.recv_message(timeout=0.001))
            except (TimeoutError, ChannelClosed):
                continue

    def do_wait_in_a_loop(self, _room: str, _client: str) -> None:
        async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 30))
    parser.add_argument("--at-any-rate", action="store_true", help="on a machine that does other things, too")
    arguments = parser.parse_args()
    print(f"seed {arguments.seed}", flush=True)
    figures = soak(arguments.seconds, arguments.seed)
    print(figures)
    if not arguments.at_any_rate:
        assert figures["kills_per_second"] >= KILLS_AT_LEAST, figures
        assert figures["stops_per_second"] >= STOPS_AT_LEAST, figures


if __name__ == "__main__":
    main()
