"""A segment name of its own and a place for the log, for each test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from hypern_realtime_shm.testing import unlink_segment

from .harness import segment_name


@pytest.fixture
def name() -> Iterator[str]:
    """The name of a segment that no other test uses, gone afterwards."""
    chosen = segment_name()
    yield chosen
    unlink_segment(chosen, missing_ok=True)


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """Where the server logs to."""
    return tmp_path / "server.log"
