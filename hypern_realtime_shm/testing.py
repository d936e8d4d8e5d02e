"""For tests: segments of their own, and nothing left behind.

Use as a pytest plugin: ``pytest_plugins = ["hypern_realtime_shm.testing"]`` in the root conftest.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator

import pytest

from . import _engine
from .errors import SegmentNotFound
from .segment import Segment


def unlink_segment(name: str, missing_ok: bool = True) -> bool:
    """Removes a segment's name; who is attached goes on. Returns whether there was one.

    Raises:
        SegmentNotFound: there was none, and ``missing_ok`` is False.
    """
    removed = _engine.unlink_segment(name)
    if not removed and not missing_ok:
        raise SegmentNotFound(f"no segment is named {name!r}")
    return removed


def unique_name(prefix: str = "test") -> str:
    """A segment name that nobody else uses."""
    return f"{prefix}-{os.getpid()}-{secrets.token_hex(4)}"


@pytest.fixture
def realtime_segment() -> Iterator[Segment]:
    """A named segment of the test's own, closed and unlinked afterwards."""
    segment = Segment.open(unique_name(), size="4MiB")
    yield segment
    if not segment.closed:
        segment.close()
    assert segment.name is not None
    unlink_segment(segment.name)


__all__ = ["realtime_segment", "unique_name", "unlink_segment"]
