"""Against the limit: a call in the core alone, through Python, and a call through Python that does nothing.

In instructions (callgrind, the same in every run) and in nanoseconds. The no-op is a method of a class of
the same kind with the same arguments and result, built the same way (`bench/noop`); and not the only one that takes
arguments, as then the compiler would make PyO3's trampoline a part of it, which saves a fifth and which no class has
that is of use. What a call takes through Python beyond the core is Python's share: the interpreter, the binding, and
the `str` that is made.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from importlib.machinery import ExtensionFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from typing import Any, NamedTuple

import hypern_realtime_shm as ours

from . import counts
from .harness import Options, Samples, Side, in_turns, keep, machine, number, repeated, said, segment_name, short, table

MESSAGE = "x" * 64
CALLS = 2_048  # on end; what a channel retains
SIDES = ("core", "python", "noop")


class Row(NamedTuple):
    """A call, its name among the core's, and the aims: nanoseconds in the core, and times the no-op through Python."""

    core: str
    aim_core: float
    aim_noop: float | None


ROWS = {
    "publish 64 B": Row("publish 64 B", 25, 1.8),
    "try_recv, a message of 64 B": Row("take 64 B", 12, None),
    "try_recv, nothing there": Row("try_recv, nothing there", 12, None),
}

# Runs in an interpreter of its own under callgrind, which writes what it has counted at each mark.
SCRIPT = """
import sys
from itertools import repeat
sys.path.insert(0, sys.argv[1])
calls, message = int(sys.argv[2]), sys.argv[3]
import hypern_shm_noop, hypern_realtime_shm
noop = hypern_shm_noop.Noop()
manager = hypern_realtime_shm.ChannelManager(calls)
manager.create_channel("room")
sub = manager.subscribe("room", "client")
def two(call):
    for _ in repeat(None, calls):
        call("room", message)
def none(call):
    for _ in repeat(None, calls):
        call()
def all_of_it():
    for loop, call in ((two, manager.publish), (none, sub.try_recv), (none, sub.try_recv)):
        noop.mark()
        loop(call)
    for loop, call in ((two, noop.publish), (none, noop.receive), (none, noop.try_recv)):
        noop.mark()
        loop(call)
all_of_it()
all_of_it()
noop.mark()
assert sub.received_count == 2 * calls
"""


def package(directory: Path) -> None:
    """The package and the no-op, built so that valgrind can run them."""
    built = counts.build("hypern-shm-noop", "hypern-shm-python")
    shutil.copytree(
        Path(ours.__file__).parent, directory / "hypern_realtime_shm", ignore=shutil.ignore_patterns("*.so")
    )
    shutil.copy(built / "lib_engine.so", directory / "hypern_realtime_shm" / "_engine.abi3.so")
    shutil.copy(built / "libhypern_shm_noop.so", directory / "hypern_shm_noop.abi3.so")


def through_python(directory: Path) -> dict[str, dict[str, float]]:
    """Instructions of a call, for each row through Python and of the no-op; the first time warms up."""
    out = directory / "out"
    script = [sys.executable, "-c", SCRIPT, str(directory), str(CALLS), MESSAGE]
    command = [*counts.VALGRIND, "--dump-before=hypern_shm_noop::mark", f"--callgrind-out-file={out}", *script]
    environment = os.environ | {"PYTHONHASHSEED": "0"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, env=environment)
    if done.returncode:
        raise RuntimeError(f"valgrind failed with {done.returncode}:\n{done.stderr}")
    found: dict[str, dict[str, float]] = {title: {} for title in ROWS}
    parts = [(title, side) for side in ("python", "noop") for title in ROWS]
    for place, (title, side) in enumerate(parts, start=len(parts) + 2):
        found[title][side] = counts.instructions(directory / f"out.{place}") / CALLS
    return found


def instructions_of() -> dict[str, dict[str, float]]:
    """For each row: in the core, through Python, and of the no-op."""
    core = counts.count()
    with tempfile.TemporaryDirectory() as name:
        package(Path(name))
        found = through_python(Path(name))
    return {title: {"core": core[row.core], **found[title]} for title, row in ROWS.items()}


def native(package: str) -> Path:
    command = ["cargo", "build", "-q", "--release", "--locked", "-p", package]
    subprocess.run(command, cwd=counts.ROOT, env=os.environ | {"PYO3_PYTHON": sys.executable}, check=True)
    return counts.ROOT / "target" / "release"


def noop_class() -> Any:
    path = native("hypern-shm-noop") / "libhypern_shm_noop.so"
    loader = ExtensionFileLoader("hypern_shm_noop", str(path))
    spec = spec_from_loader("hypern_shm_noop", loader)
    assert spec is not None
    module = module_from_spec(spec)
    loader.exec_module(module)
    return module.Noop


def core_alone(case: str, fastest: list[float]) -> Side:
    program = native("hypern-shm-cost") / "hypern-shm-cost"
    while True:
        done = subprocess.run([program, "times", case, "1"], capture_output=True, text=True, timeout=60, check=True)
        round_, _, part = done.stdout.split("\t")
        fastest.append(float(part))
        yield float(round_)


def calling(call: Any, *arguments: Any) -> Side:
    while True:
        yield repeated(CALLS, call, *arguments)


def receiving(manager: Any, sub: Any) -> Side:
    while True:
        repeated(CALLS, manager.publish, "room", MESSAGE)
        yield repeated(CALLS, sub.try_recv)
        assert sub.missed_count == 0


@dataclass(frozen=True)
class Times:
    """Nanoseconds a call: each side's rounds, its fastest calls on end, which nobody disturbed, and our ratio."""

    rounds: dict[str, Samples]
    undisturbed: dict[str, float]
    ratio: Samples


def times_of(title: str, noop: Any, options: Options) -> Times:
    """Ours and the no-op take turns many times a round: the machine may change its pace within one."""
    turns = options.scaled(32, 4)
    with segment_name() as name:
        manager = ours.ChannelManager(CALLS, segment=name)
        manager.create_channel("room")
        sub = manager.subscribe("room", "client")
        sides: dict[str, tuple[Side, Side]] = {
            "publish 64 B": (
                calling(manager.publish, "room", MESSAGE),
                calling(noop.publish, "room", MESSAGE),
            ),
            "try_recv, a message of 64 B": (receiving(manager, sub), calling(noop.receive)),
            "try_recv, nothing there": (calling(sub.try_recv), calling(noop.try_recv)),
        }
        through = dict(zip(("python", "noop"), sides[title], strict=True))
        found = in_turns(through, options.rounds * turns, warm_up=turns)
    fastest: list[float] = []
    core = in_turns({"core": core_alone(ROWS[title].core, fastest)}, options.rounds)
    return Times(
        core | {side: samples.by(turns) for side, samples in found.items()},
        {"core": short(min(fastest))} | {side: short(min(samples.rounds)) for side, samples in found.items()},
        found["python"].over(found["noop"]),
    )


def run(options: Options) -> None:
    about = machine()
    names = [title for title in ROWS if options.wants(title)]
    counted, noop = instructions_of(), noop_class()()
    results: dict[str, Any] = {}
    print(f"{'instructions; nanoseconds':<32}{'core':>12}{'python':>14}{'no-op':>14}{'share':>8}{'x no-op':>9}")
    for title in names:
        instructions, times = counted[title], times_of(title, noop, options)
        results[title] = {
            "instructions": {side: round(value, 1) for side, value in instructions.items()},
            "ns": {side: samples.as_json() for side, samples in times.rounds.items()},
            "undisturbed_ns": times.undisturbed,
            "python_share": short(1 - instructions["core"] / instructions["python"]),
            "times_noop_instructions": short(instructions["python"] / instructions["noop"]),
            "times_noop": short(times.ratio.median),
            "times_noop_spread": round(times.ratio.spread, 3),
            "undisturbed_times_noop": short(times.undisturbed["python"] / times.undisturbed["noop"]),
            "aim_core_ns": ROWS[title].aim_core,
            "aim_times_noop": ROWS[title].aim_noop,
        }
        cells = [f"{instructions[side]:,.0f}; {number(times.rounds[side].median)}" for side in SIDES]
        print(
            f"{title:<32}{cells[0]:>12}{cells[1]:>14}{cells[2]:>14}{results[title]['python_share']:>8.0%}"
            f"{results[title]['times_noop']:>9.2f}"
        )
    report = {"machine": about, "rounds": options.rounds, "results": results}
    keep(options, "limit", report, text(about, options, results))


def text(about: dict[str, Any], options: Options, results: dict[str, Any]) -> str:
    instructions, times = [], []
    for title, found in results.items():
        row = ROWS[title]
        count, ns = found["instructions"], found["ns"]
        instructions.append((title, *(number(count[side]) for side in SIDES), f"{found['python_share']:.0%}"))
        core = found["undisturbed_ns"]["core"]
        reached = "" if core <= row.aim_core else " ✗"
        ratio = f"**{found['times_noop']:.2f}** (±{found['times_noop_spread'] / 2:.0%})"
        if row.aim_noop is not None:
            ratio += f", aim {row.aim_noop}{'' if found['times_noop'] <= row.aim_noop else ' ✗'}"
        times.append(
            (
                title,
                number(ns["core"]["median"]),
                f"{core:.1f} (aim {row.aim_core:.0f}){reached}",
                number(ns["python"]["median"]),
                number(ns["noop"]["median"]),
                ratio,
                f"{found['undisturbed_times_noop']:.2f}",
            )
        )
    return f"""# Against the limit: the core, Python, and a call that does nothing

{said(about)}

Instructions a call, by callgrind. Through Python is an interpreter's loop and the call. The no-op is a method of the
same kind that does nothing with the same arguments and makes the same result, one of several of its class (the only one
with arguments would be a fifth cheaper, as the compiler makes PyO3's part one with it). Python's share is what is not
the core.

{table(("call", "core", "through Python", "no-op", "Python's share"), instructions)}

Nanoseconds a call, median of {options.rounds} rounds. Python and the no-op take turns of {CALLS:,} calls, and their
ratio is the median of those of turns side by side. The core is timed in Rust, by itself. Nobody contends but who else
is on the machine: undisturbed are the core's fastest 256 calls on end, and the fastest turn of the others. Whether a
message is text is found out by who makes a `str` of it, so through Python only.

{table(("call", "core", "undisturbed", "through Python", "no-op", "Python : no-op", "undisturbed"), times)}
"""
