"""What holds for every test run, as a pytest plugin that conftest.py loads.

- No test runs without a time-out.
- Nothing of the run is left at its end: no process, and no segment (or bell of one) whose name a test made up
  (``unique_name``).
- The seed of everything random is printed; ``TEST_SEED=… pytest …`` runs the same again.
- A run in which no test passed is a failure.
"""

from __future__ import annotations

import contextlib
import os
import random
import re
import secrets
import time
from pathlib import Path
from typing import Any

import pytest

SEED = "TEST_SEED"
RUN = "TEST_RUN"  # set for every process that the run starts, so that those it leaves behind can be told
SHM = Path("/dev/shm")
GRACE = 5.0  # seconds in which what a test has just killed or closed may go
# The names that unique_name makes up hold the pid of the process that did.
MADE_BY = re.compile(r"-(\d+)-[0-9a-f]{8}$")

_before = pytest.StashKey[set[str]]()
_testers = pytest.StashKey[set[int]]()


def segments() -> set[str]:
    """The segments of this user, their files' names."""
    return {path.name for path in SHM.glob(f"hypern-rt.{os.geteuid()}.*")}


def processes(run: str) -> dict[int, str]:
    """The living processes of a run: pid and command line."""
    found = {}
    mark = f"{RUN}={run}".encode()
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if entry.name.isdigit() and mark in (entry / "environ").read_bytes().split(b"\0"):
                words = (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")
                found[int(entry.name)] = " ".join(words)[:120]
    return found


def is_worker(config: pytest.Config) -> bool:
    """Is this one of xdist's workers?"""
    return hasattr(config, "workerinput")


def pytest_configure(config: pytest.Config) -> None:
    if not config.pluginmanager.hasplugin("timeout") or float(config.getini("timeout") or 0) <= 0:
        raise pytest.UsageError("tests run with time-outs only: pytest-timeout must be there, and `timeout` set")
    if is_worker(config):
        return
    # Workers, and whatever the tests start, inherit both.
    os.environ.setdefault(SEED, secrets.token_hex(4))
    os.environ[RUN] = secrets.token_hex(8)
    config.stash[_before] = segments()
    config.stash[_testers] = {os.getpid()}


@pytest.fixture(autouse=True)
def seeded(request: pytest.FixtureRequest) -> None:
    """``random`` starts anew for each test, from the run's seed and the test's name."""
    random.seed(f"{os.environ[SEED]} {request.node.nodeid}")


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    if output := getattr(node, "workeroutput", None):
        node.config.stash[_testers].add(output["pid"])


def leaked(config: pytest.Config) -> list[str]:
    """What this run has left behind, in words."""
    testers = config.stash[_testers]
    left = [
        f"process {pid}: {command}"
        for pid, command in processes(os.environ[RUN]).items()
        # multiprocessing's tracker goes with the tester that started it
        if pid not in testers and "multiprocessing.resource_tracker" not in command
    ]
    for name in sorted(segments() - config.stash[_before]):
        made_by = MADE_BY.search(name.partition("@")[0])  # behind the @: a bell of the segment
        if made_by is not None and int(made_by[1]) in testers:  # the rest may belong to anybody on this machine
            left.append(f"segment {SHM / name}")
    return left


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    config = session.config
    if is_worker(config):
        config.workeroutput["pid"] = os.getpid()
    if is_worker(config) or config.option.collectonly:
        return
    deadline = time.monotonic() + GRACE
    while (left := leaked(config)) and time.monotonic() < deadline:
        time.sleep(0.05)
    config.stash[_left] = left
    if left:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
    reporter = config.pluginmanager.getplugin("terminalreporter")
    if session.exitstatus == pytest.ExitCode.OK and reporter is not None and not reporter.stats.get("passed"):
        session.exitstatus = pytest.ExitCode.NO_TESTS_COLLECTED


_left = pytest.StashKey[list[str]]()


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    if left := config.stash.get(_left, []):
        terminalreporter.section("left behind by this run", red=True, bold=True)
        for line in left:
            terminalreporter.line(line)
    terminalreporter.line(f"random seed: {SEED}={os.environ[SEED]}")
