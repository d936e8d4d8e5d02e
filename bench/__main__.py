"""Runs benches: all, or those that are named.

python -m bench                                     # all; writes bench/results/
python -m bench calls --only 'track|join'           # some rows of one: printed, not written
python -m bench calls --rounds 3 --quick            # a look
python -m bench --list
"""

from __future__ import annotations

import argparse
import importlib
import sys
import time

from .harness import Options

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
    options = Options(max(1, arguments.rounds), arguments.only, arguments.quick)
    begun = time.monotonic()
    for name in arguments.names or BENCHES:
        print(f"==> {name}: {about(name)}", flush=True)
        start = time.monotonic()
        importlib.import_module(f"bench.{name}").run(options)
        print(f"==> {name} took {time.monotonic() - start:.0f} s", flush=True)
    print(f"==> {time.monotonic() - begun:.0f} s in all")
    return 0


if __name__ == "__main__":
    sys.exit(main())
