"""What looking on costs those who are looked at: publishing while ``hypern-shm top`` runs, against without.

A publisher works on one processor; ``top`` (its looks as JSON, ten times a second: ten times as often as it looks by
itself) is held to another, as a server with a processor to spare has it, and is stopped in every second round: A B A
B …. Processor time is measured, so that other work on the machine counts less; the medians count, and the ratio of the
medians is the result. It also tells what one look costs the one who looks.

    python bench/look.py [rounds]        # 25 rounds of each; writes bench/results/look.json and .md
"""

from __future__ import annotations

import json
import os
import platform
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path

import hypern_realtime_shm as rt
from hypern_realtime_shm.inspect import Inspector
from hypern_realtime_shm.testing import unique_name, unlink_segment

RESULTS = Path(__file__).with_name("results")
MESSAGE = "x" * 64
CALLS = 200_000
CHANNELS, CLIENTS = 200, 2000
INTERVAL = 0.1


def fill(hub: rt.RealtimeHub) -> list[rt.Subscriber]:
    """A server of some size: what a look has to go over."""
    for number in range(CHANNELS):
        hub.create_channel(f"channel {number}", buffer_size=64)
    return [hub.join(f"channel {number % CHANNELS}", f"client {number}") for number in range(CLIENTS)]


def publish(hub: rt.RealtimeHub) -> float:
    """Nanoseconds of processor time a publish."""
    channel, call = "channel 0", hub.publish
    start = time.thread_time_ns()
    for _ in range(CALLS):
        call(channel, MESSAGE)
    return (time.thread_time_ns() - start) / CALLS


class Top:
    """``top`` on another processor, while it runs."""

    def __init__(self, name: str, processor: int) -> None:
        command = [sys.executable, "-m", "hypern_realtime_shm", "top", name, "--json", "--interval", str(INTERVAL)]
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, preexec_fn=lambda: os.sched_setaffinity(0, {processor})
        )
        assert self.process.stdout is not None
        self.process.stdout.readline()  # it looks
        self.reader = subprocess.Popen(["wc", "-l"], stdin=self.process.stdout, stdout=subprocess.PIPE, text=True)

    def pause(self, paused: bool) -> None:
        """Stops it where it is, or has it go on."""
        self.process.send_signal(signal.SIGSTOP if paused else signal.SIGCONT)

    def end(self) -> int:
        """How often it has looked."""
        self.process.terminate()
        self.process.wait(10)
        assert self.process.stdout is not None
        self.process.stdout.close()
        return 1 + int(self.reader.communicate(timeout=10)[0])


def main(rounds: int) -> None:
    processors = sorted(os.sched_getaffinity(0))
    name = unique_name("bench")
    without: list[float] = []
    looked_at: list[float] = []
    try:
        with rt.Segment.open(name, size="32MiB") as segment:
            hub = rt.RealtimeHub(segment=segment)
            kept = fill(hub)
            os.sched_setaffinity(0, {processors[0]})
            publish(hub)
            top = Top(name, processors[-1])
            for _ in range(rounds):
                top.pause(True)
                without.append(publish(hub))
                top.pause(False)
                looked_at.append(publish(hub))
            looks = top.end()
            inspector = Inspector(name)
            inspector.snapshot()
            costs = []
            for _ in range(rounds):
                start = time.perf_counter()
                inspector.snapshot()
                costs.append(time.perf_counter() - start)
            del kept
    finally:
        unlink_segment(name)
    a, b = statistics.median(without), statistics.median(looked_at)
    quarters = statistics.quantiles(without, n=4)
    noise = (quarters[2] - quarters[0]) / a
    result = {
        "machine": platform.machine(),
        "processors": len(processors),
        "python": platform.python_version(),
        "rounds": rounds,
        "publish_ns": round(a, 1),
        "publish_looked_at_ns": round(b, 1),
        "ratio": round(b / a, 3),
        "quartiles_apart_without": round(noise, 3),
        "looks": looks,
        "look_ms": round(statistics.median(costs) * 1000, 2),
    }
    text = f"""# Looking on

`python bench/look.py`, {len(processors)} processors, Python {platform.python_version()}, {rounds} rounds in turns,
{CALLS} publishes of 64 bytes a round, {CHANNELS} channels and {CLIENTS} joined clients in the segment; `top` looked
{looks} times, every {INTERVAL} s.

| | |
|---|---|
| publish, nobody looks | {a:.0f} ns of processor time |
| publish, `top` runs on another processor | {b:.0f} ns of processor time |
| ratio | {b / a:.3f} |
| distance of the quartiles of the rounds without it / median | {noise:.3f} |
| one look of `top`, for the one who looks | {result["look_ms"]} ms |
"""
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "look.json").write_text(json.dumps(result, indent=2) + "\n")
    (RESULTS / "look.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 25)
