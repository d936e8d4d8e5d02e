"""docs/guarantees.md names tests that exist, and names some for each promise."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "guarantees.md").read_text()
NAMED = re.findall(r"`([\w./]+)::(\w+)`", PAGE)


def test_every_named_test_exists() -> None:
    assert len(NAMED) > 40
    for path, name in NAMED:
        found = re.search(rf"(?:def|fn) {name}\(", (ROOT / path).read_text())
        assert found, f"{path} has no test {name}"
        before = (ROOT / path).read_text()[: found.start()].rstrip()
        assert name.startswith("test_") or re.search(r"#\[test\]$", before), f"{path}::{name} is no test"


def test_every_promise_has_a_test() -> None:
    rows = [line for line in PAGE.splitlines() if re.match(r"\| [A-Z`]", line)]
    assert len(rows) > 25
    assert all("::" in row.rsplit("|", 2)[1] for row in rows)
