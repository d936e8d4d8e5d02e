"""Every test its own segment. What holds for the whole run (leaks, seeds, time-outs) is in house.py."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from hypern_realtime_shm import Segment
from hypern_realtime_shm.testing import unique_name, unlink_segment

pytest_plugins = ["tests.house", "tests.public"]


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
        if not made.closed:
            made.reap()
            assert made.check() == [], "the test left the segment unsound"
