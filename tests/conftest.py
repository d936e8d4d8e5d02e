"""Every test its own segment; nothing may be left in /dev/shm by this run."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from hypern_realtime_shm import Segment
from hypern_realtime_shm.testing import realtime_segment, unique_name, unlink_segment

__all__ = ["realtime_segment"]  # the fixture the package offers, used by its own tests

SHM = Path("/dev/shm")


def segments() -> set[str]:
    return {path.name for path in SHM.glob(f"hypern-rt.{os.getuid()}.*")}


@pytest.fixture
def name() -> Iterator[str]:
    """A segment name of the test's own."""
    made = unique_name()
    yield made
    unlink_segment(made)


@pytest.fixture
def segment(name: str) -> Iterator[Segment]:
    """A segment of the test's own that others can attach to by name."""
    with Segment.open(name, size="8MiB") as made:
        yield made


def pytest_configure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):
        config.stash[BEFORE] = segments()


BEFORE = pytest.StashKey[set[str]]()


def pytest_sessionfinish(session: pytest.Session) -> None:
    """The leak check: what this run made in /dev/shm is gone at its end."""
    if hasattr(session.config, "workerinput"):
        return
    # Processes that tests have just killed may take a moment to be gone.
    for _ in range(50):
        left = segments() - session.config.stash[BEFORE]
        if not left:
            return
        time.sleep(0.1)
    session.exitstatus = pytest.ExitCode.TESTS_FAILED
    print(f"\nleft in {SHM}: {sorted(left)}")
