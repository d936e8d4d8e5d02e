"""The engine's calls in instructions, under callgrind: the same in every run, to one percent, whatever else runs.

    python -m bench.counts            # against the committed baseline: what differs by more than 3 % fails
    python -m bench.counts --renew    # writes the baseline

A count says nothing of caches, contention or the kernel; it says whether a change made a call do more. The only
difference between two runs is random hash keys, so the median of several runs counts. Another compiler may count
otherwise: the baseline names its own.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).parent.parent
TARGET = ROOT / "target" / "counts"
BASELINE = Path(__file__).with_name("baseline.json")
TOLERANCE = 0.03
RUNS = 9  # one in twelve has a heap in which match_topic searches longer: the median must not meet it
# valgrind hides the vDSO, which rustix otherwise looks for by itself; through libc it is not missed.
FLAGS = "--cfg rustix_use_libc"
VALGRIND = ("valgrind", "--tool=callgrind", "--error-exitcode=0")


def build(*packages: str) -> Path:
    """Builds packages so that valgrind can run them; returns where they are."""
    command = ["cargo", "build", "-q", "--release", "--locked", *(f"-p{package}" for package in packages)]
    environment = os.environ | {
        "RUSTFLAGS": FLAGS,
        "CARGO_TARGET_DIR": str(TARGET),
        "PYO3_PYTHON": sys.executable,
        "RUSTC_WORKSPACE_WRAPPER": str(ROOT / ".ci" / "rustc"),
    }
    subprocess.run(command, cwd=ROOT, env=environment, check=True)
    return TARGET / "release"


def count() -> dict[str, float]:
    """Instructions a call, the median of several runs: how the tries fall differs from one hash key to the next."""
    program = build("hypern-shm-cost") / "hypern-shm-cost"
    with ThreadPoolExecutor(2) as pool:
        runs = list(pool.map(lambda _: count_once(program), range(RUNS)))
    return {name: statistics.median(run[name] for run in runs) for name in runs[0]}


def count_once(program: Path) -> dict[str, float]:
    # Nothing of this machine's on the stack, and a path that is as long everywhere: where the stack lies seeds private
    # hashes, and moves how many steps a search takes.
    with tempfile.TemporaryDirectory(dir="/tmp") as directory:
        out = f"{directory}/out"
        shutil.copy(program, directory)
        command = [
            shutil.which(VALGRIND[0]) or VALGRIND[0],
            *VALGRIND[1:],
            "--dump-before=hypern_shm_cost::mark",
            f"--callgrind-out-file={out}",
            f"{directory}/{program.name}",
            "counts",
        ]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, cwd=directory, env={})
        if done.returncode:
            raise RuntimeError(f"valgrind failed with {done.returncode}:\n{done.stderr}")
        found = {}
        for number, line in enumerate(done.stdout.splitlines()):
            calls, name = line.split("\t")
            # What was counted before a case's first mark is its making; before its second, its calls.
            found[name] = instructions(Path(f"{out}.{2 * number + 2}")) / int(calls)
    if not found:
        raise RuntimeError("nothing was counted")
    return found


def instructions(profile: Path) -> int:
    """What a file that callgrind has written adds up to."""
    summary = re.search(r"^summary: (\d+)$", profile.read_text(), re.MULTILINE)
    if summary is None:
        raise RuntimeError(f"{profile} has no summary")
    return int(summary[1])


def compiler() -> str:
    return subprocess.run(["rustc", "--version"], capture_output=True, text=True, check=True).stdout.strip()


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.counts", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--renew", action="store_true", help="write the baseline instead of comparing with it")
    renew = parser.parse_args().renew
    found = {name: round(value, 1) for name, value in count().items()}
    if renew:
        BASELINE.write_text(json.dumps({"compiler": compiler(), "instructions": found}, indent=1) + "\n")
        print(f"written: {BASELINE.relative_to(ROOT)}, {len(found)} calls")
        return 0
    kept = json.loads(BASELINE.read_text())
    expected: dict[str, float] = kept["instructions"]
    wrong = [f"{name}: in the baseline, and not counted" for name in expected.keys() - found.keys()]
    print(f"{'instructions a call':<42}{'baseline':>12}{'now':>12}{'change':>9}")
    for name, value in found.items():
        if name not in expected:
            wrong.append(f"{name}: not in the baseline")
            continue
        change = value / expected[name] - 1
        print(f"{name:<42}{expected[name]:>12,.0f}{value:>12,.0f}{change:>+9.1%}")
        if abs(change) > TOLERANCE:
            wrong.append(f"{name}: {change:+.1%}, more than {TOLERANCE:.0%} from the baseline")
    if wrong:
        print("\n".join(wrong), file=sys.stderr)
        if kept["compiler"] != compiler():
            print(f"the baseline was counted with {kept['compiler']}, this is {compiler()}", file=sys.stderr)
        print("if that is meant, or the compiler's doing: make bench-baseline", file=sys.stderr)
        return 1
    print(f"==> {len(found)} calls within {TOLERANCE:.0%} of the baseline")
    return 0


if __name__ == "__main__":
    sys.exit(main())
