"""Mixed traffic of many processes, briefly; ``make load`` is the whole of it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path


def test_everything_is_accounted_for_after_traffic_at_full_speed() -> None:
    # A process of its own: it forks, and pytest's has threads.
    small = ["--seconds", "5", "--processes", "24", "--channels", "1000", "--members", "6000", "--size", "64MiB"]
    run = subprocess.run(
        [sys.executable, "-m", "tests.load", *small, "--seed", str(int(os.environ["TEST_SEED"], 16))],
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    print(run.stdout, run.stderr)
    assert run.returncode == 0, run.stderr[-4000:]
