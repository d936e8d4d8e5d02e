"""A short soak; ``make soak`` runs longer ones."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path


def test_kills_and_stops_at_random() -> None:
    seed = random.SystemRandom().randrange(1 << 30)
    # A process of its own: it forks often, and pytest's has threads.
    run = subprocess.run(
        [sys.executable, "-m", "tests.soak", "--seconds", "20", "--seed", str(seed), "--at-any-rate"],
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    print(run.stdout, run.stderr)
    assert run.returncode == 0, run.stderr[-4000:]
