"""A place for each server's log."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """Where the server logs to."""
    return tmp_path / "server.log"
