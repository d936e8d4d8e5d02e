"""Does matching cost what it finds, or what there is? The same result from 100 and from 100,000 patterns.

In turns (A B A B …), the median of the rounds; the ratio is the result. Beside it the in-process original, which
looks at every pattern; what a match costs after one pattern changed, as another worker sees it; and what the first
match of a process costs, which copies all patterns once.

    python bench/match.py [rounds]        # 7 rounds; writes bench/results/match.json and .md
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hypern import realtime as theirs

import hypern_realtime_shm as ours
from hypern_realtime_shm.testing import unique_name, unlink_segment

RESULTS = Path(__file__).with_name("results")
TOPIC = "shop:42:orders:new"
MATCHING = ["shop:42:#", "shop:*:orders:*", "#:new", TOPIC]
FEW, MANY = 100, 100_000
now = time.perf_counter_ns


def fill(matcher: Any, count: int) -> Any:
    for number in range(count - len(MATCHING)):
        matcher.subscribe(f"shop:{1000 + number}:orders:*", "somebody")
    for number, pattern in enumerate(MATCHING):
        matcher.subscribe(pattern, f"client-{number}")
    return matcher


def timed(call: Callable[[], Any], calls: int) -> float:
    start = now()
    for _ in range(calls):
        call()
    return (now() - start) / calls


def main() -> None:
    rounds = max(5, int(sys.argv[1]) if len(sys.argv) > 1 else 7)
    name = unique_name("bench")
    try:
        segment = ours.Segment.open(name, size="256MiB", members=200_000)
        few, many = (fill(ours.TopicMatcher(segment=segment, namespace=str(n)), n) for n in (FEW, MANY))
        original = fill(theirs.TopicMatcher(), FEW)
        # Another worker's view of the same patterns.
        watching = ours.TopicMatcher(segment=segment, namespace=str(MANY))
        expected = {f"client-{number}" for number in range(len(MATCHING))}
        start = now()
        assert set(watching.match_topic(TOPIC)) == expected
        first = (now() - start) / 1e6
        assert set(few.match_topic(TOPIC)) == set(many.match_topic(TOPIC)) == expected
        assert expected == set(original.match_topic(TOPIC))

        def changed() -> float:
            total = 0
            for number in range(200):
                many.subscribe("other:*", f"x{number}")
                start = now()
                watching.match_topic(TOPIC)
                total += now() - start
                many.unsubscribe("other:*", f"x{number}")
                watching.match_topic(TOPIC)
            return total / 200

        cases: dict[str, Callable[[], float]] = {
            "few": lambda: timed(lambda: few.match_topic(TOPIC), 20_000),
            "many": lambda: timed(lambda: many.match_topic(TOPIC), 20_000),
            "original_few": lambda: timed(lambda: original.match_topic(TOPIC), 2_000),
            "after_a_change": changed,
        }
        found: dict[str, list[float]] = {case: [] for case in cases}
        for _ in range(rounds + 1):
            for case, measure in cases.items():
                found[case].append(measure())
        median = {case: statistics.median(values[1:]) for case, values in found.items()}
        segment.close()
    finally:
        unlink_segment(name)
    ratio = round(median["many"] / median["few"], 2)
    rows = [
        (f"match, {FEW} patterns", f"{median['few']:,.0f} ns"),
        (f"match, {MANY:,} patterns, the same result", f"{median['many']:,.0f} ns"),
        (f"**ratio {MANY:,} : {FEW}**", f"**{ratio:.2f}**"),
        (f"the original, {FEW} patterns", f"{median['original_few']:,.0f} ns"),
        (f"match after one of {MANY:,} changed, in another worker", f"{median['after_a_change']:,.0f} ns"),
        (f"first match of a process, {MANY:,} patterns", f"{first:,.0f} ms"),
    ]
    for title, value in rows:
        print(f"{title.replace('*', ''):<60}{value.replace('*', ''):>14}")
    RESULTS.mkdir(exist_ok=True)
    report = {
        "rounds": rounds,
        "python": platform.python_version(),
        "cpus": os.cpu_count(),
        "ratio": ratio,
        "first_match_ms": round(first, 1),
        "rounds_ns": {case: [round(value) for value in values[1:]] for case, values in found.items()},
    }
    (RESULTS / "match.json").write_text(json.dumps(report, indent=2) + "\n")
    table = "\n".join(f"| {title} | {value} |" for title, value in rows)
    (RESULTS / "match.md").write_text(
        f"# Matching a topic: what it finds, or what there is\n\nMedian of {rounds} rounds in turns; CPython "
        f"{report['python']}, {report['cpus']} CPUs.\n\n| what | |\n|---|---:|\n{table}\n"
    )


if __name__ == "__main__":
    main()
