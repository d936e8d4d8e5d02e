"""What the common calls cost on a named segment, against the same calls of the in-process original.

Both run in this process, in turns (A B A B …), on the same data; the median of the rounds counts, and the ratio
of the medians is the result: absolute times say more about the machine. What is not in here: waking another
process, contention between processes, and large messages.

    python bench/publish.py [rounds]        # 7 rounds; writes bench/results/publish.json and .md
"""

from __future__ import annotations

import gc
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import Any

from hypern import realtime as theirs

import hypern_realtime_shm as ours
from hypern_realtime_shm.testing import unique_name, unlink_segment

RESULTS = Path(__file__).with_name("results")
MESSAGE = "x" * 64
CALLS = 100_000  # calls a round of what is the same each time
RETAINED = 20_000  # messages a round that are all to be there still
CLIENTS = 3_000  # clients a round of what is new each time

# A case makes what it needs and then, for each `yield`, times one round: nanoseconds a call.
Case = Callable[[ModuleType, dict[str, Any]], Iterator[float]]
now = time.perf_counter_ns


def repeat(call: Callable[[], Any], calls: int = CALLS) -> float:
    """Nanoseconds a call, the loop included; it is the same loop for both."""
    times = [None] * calls
    start = now()
    for _ in times:
        call()
    return (now() - start) / calls


def each(call: Callable[[str], Any], clients: list[str]) -> float:
    """Nanoseconds a call with a client each."""
    start = now()
    for client in clients:
        call(client)
    return (now() - start) / len(clients)


def publish(api: ModuleType, where: dict[str, Any]) -> Iterator[float]:
    manager = api.ChannelManager(**where)
    manager.create_channel("room")
    _sub = manager.subscribe("room", "client")
    while True:
        yield repeat(lambda: manager.publish("room", MESSAGE))


def try_recv_message(api: ModuleType, where: dict[str, Any]) -> Iterator[float]:
    manager = api.ChannelManager(**where)
    manager.create_channel("room", 1 << 15)
    sub = manager.subscribe("room", "client")
    while True:
        for _ in range(RETAINED):
            manager.publish("room", MESSAGE)
        yield repeat(sub.try_recv, RETAINED)
        assert sub.try_recv() is None
        assert sub.missed_count == 0


def try_recv_nothing(api: ModuleType, where: dict[str, Any]) -> Iterator[float]:
    manager = api.ChannelManager(**where)
    manager.create_channel("room")
    sub = manager.subscribe("room", "client")
    while True:
        yield repeat(sub.try_recv)


def track_new(api: ModuleType, where: dict[str, Any]) -> Iterator[float]:
    tracker = api.PresenceTracker(**where)
    clients = [f"client-{number}" for number in range(CLIENTS)]
    metadata = {"name": "Alice"}
    while True:
        yield each(lambda client: tracker.track("room", client, metadata), clients)
        for client in clients:
            tracker.untrack("room", client)
        tracker.flush_diff("room")


def touch(api: ModuleType, where: dict[str, Any]) -> Iterator[float]:
    tracker = api.PresenceTracker(**where)
    for number in range(100):
        tracker.track("room", f"client-{number}")
    while True:
        yield repeat(lambda: tracker.touch("room", "client-50"))


def list_100(api: ModuleType, where: dict[str, Any]) -> Iterator[float]:
    tracker = api.PresenceTracker(**where)
    for number in range(100):
        tracker.track("room", f"client-{number}", {"name": "Alice"})
    while True:
        yield repeat(lambda: tracker.list("room"), CALLS // 100)


def hub_join(api: ModuleType, where: dict[str, Any]) -> Iterator[float]:
    hub = api.RealtimeHub(**where)
    hub.create_channel("room")
    clients = [f"client-{number}" for number in range(CLIENTS)]
    metadata = {"name": "Alice"}
    handles: list[Any] = []
    while True:
        yield each(lambda client: handles.append(hub.join("room", client, metadata)), clients)
        handles.clear()
        for client in clients:
            hub.disconnect(client)
        hub.presence.flush_diff("room")


def hub_disconnect(api: ModuleType, where: dict[str, Any]) -> Iterator[float]:
    hub = api.RealtimeHub(**where)
    hub.create_channel("room")
    clients = [f"client-{number}" for number in range(CLIENTS)]
    while True:
        handles = [hub.join("room", client) for client in clients]
        yield each(hub.disconnect, clients)
        handles.clear()
        hub.presence.flush_diff("room")


CASES: dict[str, Case] = {
    "publish 64 B, 1 subscriber": publish,
    "try_recv, a message of 64 B": try_recv_message,
    "try_recv, nothing there": try_recv_nothing,
    "presence.track, new member": track_new,
    "presence.touch": touch,
    "presence.list of 100": list_100,
    "hub.join, new member": hub_join,
    "hub.disconnect": hub_disconnect,
}


def compare(case: Case, name: str, rounds: int) -> dict[str, Any]:
    """Both in turns; the first round of each warms up and does not count."""
    one, other = case(ours, {"segment": name}), case(theirs, {})
    pairs = [(next(one), next(other)) for _ in range(rounds + 1)][1:]
    a, b = ([pair[index] for pair in pairs] for index in (0, 1))
    one.close()  # type: ignore[attr-defined]
    other.close()  # type: ignore[attr-defined]
    return {
        "shm_ns": round(statistics.median(a), 1),
        "in_process_ns": round(statistics.median(b), 1),
        "ratio": round(statistics.median(a) / statistics.median(b), 2),
        "shm_rounds_ns": [round(value, 1) for value in a],
        "in_process_rounds_ns": [round(value, 1) for value in b],
    }


def main() -> None:
    rounds = max(5, int(sys.argv[1]) if len(sys.argv) > 1 else 7)
    gc.disable()
    results: dict[str, Any] = {}
    print(f"median of {rounds} rounds in turns, ns a call{'shm':>19}{'in-process':>12}{'ratio':>8}")
    for title, case in CASES.items():
        name = unique_name("bench")
        try:
            results[title] = found = compare(case, name, rounds)
        finally:
            unlink_segment(name)
        print(f"{title:<48}{found['shm_ns']:>10,.0f}{found['in_process_ns']:>12,.0f}{found['ratio']:>8.2f}", flush=True)
        gc.collect()
    report = {
        "rounds": rounds,
        "python": platform.python_version(),
        "cpus": os.cpu_count(),
        "hypern_realtime_shm": ours.__version__,
        "hypern": version("hypern"),
        "results": results,
    }
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "publish.json").write_text(json.dumps(report, indent=2) + "\n")
    (RESULTS / "publish.md").write_text(as_table(report))


def as_table(report: dict[str, Any]) -> str:
    """The results for people."""
    lines = [
        "# Common calls: named segment against in-process original",
        "",
        f"hypern_realtime_shm {report['hypern_realtime_shm']} and hypern {report['hypern']}, in one process, in turns.",
        f"Median of {report['rounds']} rounds, ns a call; CPython {report['python']}, {report['cpus']} CPUs.",
        "The ratio is the result.",
        "",
        "| call | shm | in-process | ratio |",
        "|---|---:|---:|---:|",
    ]
    for title, found in report["results"].items():
        lines.append(f"| {title} | {found['shm_ns']:,.0f} | {found['in_process_ns']:,.0f} | **{found['ratio']:.2f}** |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
