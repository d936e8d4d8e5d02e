"""Runs benches: all, or those that are named.

python -m bench                                     # all; writes bench/results/
python -m bench calls --only 'track|join'           # some rows of one: printed, not written
python -m bench calls --rounds 3 --quick            # a look
python -m bench --list
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import os
import signal
import subprocess
import sys
import time

from .harness import Options

# Seconds after which a bench counts as stuck.
PATIENCE = 400
# In this order, so that what needs a quiet machine most comes first.
BENCHES = ("limit", "calls", "wake", "brokers", "growth", "server")


def about(name: str) -> str:
    return (importlib.import_module(f"bench.{name}").__doc__ or "").partition("\n")[0]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"which: {', '.join(BENCHES)} (all)")
    parser.add_argument("--rounds", type=int, default=7, help="rounds that count (7); fewer than 5 are not written")
    parser.add_argument("--only", default="", metavar="REGEX", help="only rows whose title matches")
    parser.add_argument("--quick", action="store_true", help="a fraction of the work a round")
    parser.add_argument("--list", action="store_true", help="say what there is")
    arguments = parser.parse_args()
    if arguments.list:
        for name in BENCHES:
            print(f"{name:<10}{about(name)}")
        return 0
    unknown = set(arguments.names) - set(BENCHES)
    if unknown:
        parser.error(f"no bench is named {', '.join(sorted(unknown))}; there are {', '.join(BENCHES)}")
    begun = time.monotonic()
    names = arguments.names or BENCHES
    if len(names) > 1:
        # Each by itself and bounded: what hangs in one takes nothing from the others.
        late = [name for name in names if not alone(name, arguments)]
        print(f"==> {time.monotonic() - begun:.0f} s in all" + (f"; not done: {', '.join(late)}" if late else ""))
        return 1 if late else 0
    for name in names:
        print(f"==> {name}: {about(name)}", flush=True)
        importlib.import_module(f"bench.{name}").run(Options(max(1, arguments.rounds), arguments.only, arguments.quick))
        print(f"==> {name} took {time.monotonic() - begun:.0f} s", flush=True)
    return 0


def alone(name: str, arguments: argparse.Namespace) -> bool:
    """Runs one bench as a program of its own; it and all that it started are gone afterwards."""
    command = [sys.executable, "-m", "bench", name, f"--rounds={arguments.rounds}", f"--only={arguments.only}"]
    process = subprocess.Popen(command + ["--quick"] * arguments.quick, start_new_session=True)
    try:
        return process.wait(PATIENCE) == 0
    except subprocess.TimeoutExpired:
        print(f"==> {name} is not done after {PATIENCE} s", file=sys.stderr, flush=True)
        return False
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


if __name__ == "__main__":
    sys.exit(main())
