"""What all benches share: rounds in turns, medians with their spread, the machine, and where results go."""

from __future__ import annotations

import gc
import json
import os
import platform
import re
import statistics
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from itertools import repeat, starmap
from pathlib import Path
from typing import Any

from hypern_realtime_shm.testing import unique_name, unlink_segment

RESULTS = Path(__file__).with_name("results")
now = time.perf_counter_ns

# A side of a comparison: each step makes one round and says what it cost; closed, it puts away what it made.
Side = Generator[float, None, None]


@dataclass(frozen=True)
class Options:
    """What the command line says. A run that leaves something out is printed and not kept."""

    rounds: int = 7
    only: str = ""
    quick: bool = False  # a fraction of the work a round, for trying things out

    @property
    def whole(self) -> bool:
        return not (self.only or self.quick) and self.rounds >= 5

    def wants(self, title: str) -> bool:
        return re.search(self.only, title) is not None

    def scaled(self, count: int, divisor: int = 5) -> int:
        """How much of something, less when it is to be quick."""
        return max(1, count // divisor) if self.quick else count


@dataclass
class Samples:
    """The rounds of one side."""

    rounds: list[float] = field(default_factory=list)

    @property
    def median(self) -> float:
        return statistics.median(self.rounds)

    @property
    def spread(self) -> float:
        """How far the middle half of the rounds reaches, as a part of the median."""
        if len(self.rounds) < 2 or not self.median:
            return 0.0
        low, _, high = statistics.quantiles(self.rounds, n=4, method="inclusive")
        return (high - low) / self.median

    def over(self, other: Samples) -> Samples:
        """The ratios of the rounds that stand side by side: what slows the machine slows both."""
        return Samples([a / b for a, b in zip(self.rounds, other.rounds, strict=True)])

    def by(self, turns: int) -> Samples:
        """Each so many of them as one: their mean."""
        return Samples([statistics.mean(batch) for batch in zip(*[iter(self.rounds)] * turns, strict=True)])

    def as_json(self) -> dict[str, Any]:
        return {
            "median": short(self.median),
            "spread": round(self.spread, 3),
            "rounds": [short(value) for value in self.rounds],
        }

    def as_ratio(self) -> dict[str, float]:
        return {"ratio": short(self.median), "ratio_spread": round(self.spread, 3)}


def short(value: float) -> float:
    """Four digits that count."""
    return float(f"{value:.4g}")


def in_turns(sides: Mapping[str, Side], rounds: int, warm_up: int = 1) -> dict[str, Samples]:
    """One round of each side after the other (A B A B …); the first ones warm up and do not count."""
    found = {name: Samples() for name in sides}
    gc.collect()
    gc.disable()
    try:
        for number in range(warm_up + rounds):
            for name, side in sides.items():
                value = next(side)
                if number >= warm_up:
                    found[name].rounds.append(value)
    finally:
        gc.enable()
        for side in sides.values():
            side.close()
    return found


def repeated(calls: int, call: Callable[..., Any], *arguments: Any) -> float:
    """Nanoseconds a call, always with the same arguments. The loop has no Python frame; it is the same for all."""
    start = now()
    deque(starmap(call, repeat(arguments, calls)), maxlen=0)
    return (now() - start) / calls


def each(call: Callable[..., Any], rows: Sequence[tuple[Any, ...]], kept: list[Any] | None = None) -> float:
    """Nanoseconds a call, one for each row of arguments; the results are kept where a list for them is given."""
    start = now()
    if kept is None:
        deque(starmap(call, rows), maxlen=0)
    else:
        kept.extend(starmap(call, rows))
    return (now() - start) / len(rows)


@contextmanager
def segment_name() -> Iterator[str]:
    """The name of a segment that is gone afterwards."""
    name = unique_name("bench")
    try:
        yield name
    finally:
        unlink_segment(name)


def cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def machine(*packages: str) -> dict[str, Any]:
    """Where and with what a run was made."""
    return {
        "cpu": cpu_model(),
        "cpus": len(os.sched_getaffinity(0)),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "load_before": round(os.getloadavg()[0], 2),
        "versions": {package: version(package) for package in ("hypern-realtime-shm", *packages)},
    }


def said(about: Mapping[str, Any]) -> str:
    """The machine in a sentence."""
    versions = ", ".join(f"{package} {number}" for package, number in about["versions"].items())
    return (
        f"{about['cpu']}, {about['cpus']} CPUs, Linux {about['kernel']}, CPython {about['python']}; {versions}. "
        f"Load before the run: {about['load_before']}."
    )


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table; the first column to the left, numbers to the right."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def number(value: float) -> str:
    """Three digits that count, in groups of thousands."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def keep(options: Options, name: str, report: Mapping[str, Any], text: str) -> None:
    """Writes a whole run to `results/`, as JSON with every round and as Markdown; a part of one is not kept."""
    if not options.whole:
        print(f"(a part of {name}, or a quick run: not written)")
        return
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps(report, indent=1) + "\n")
    (RESULTS / f"{name}.md").write_text(text.rstrip() + "\n")
    print(f"written: {RESULTS.name}/{name}.json, .md", flush=True)
