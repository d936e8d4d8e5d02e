"""Real processes for tests: started from source text, spoken to over pipes, killed at the end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from typing import Any

PRELUDE = """
import os, signal, sys, time
import hypern_realtime_shm as rt
# One write: what another thread says, such as a logger's, must not come between a line and its end.
def say(*words): sys.stdout.write(" ".join(map(str, words)) + "\\n"); sys.stdout.flush()
def hear(): return sys.stdin.readline().strip()
"""


class Process:
    """A Python process running ``source``; ``say(...)`` in it is ``hear()`` here and the other way round."""

    def __init__(self, source: str, *args: str, env: dict[str, str] | None = None) -> None:
        self.popen = subprocess.Popen(
            [sys.executable, "-W", "error", "-c", PRELUDE + textwrap.dedent(source), *args],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **(env or {})},
        )

    def hear(self) -> str:
        assert self.popen.stdout is not None
        line = self.popen.stdout.readline()
        assert line, f"the process ended with {self.popen.wait(10)}"
        return line.strip()

    def say(self, text: str) -> None:
        assert self.popen.stdin is not None
        self.popen.stdin.write(text + "\n")
        self.popen.stdin.flush()

    def kill(self) -> None:
        self.popen.send_signal(signal.SIGKILL)
        self.popen.wait(10)

    def end(self, code: int = 0) -> None:
        """Waits for a clean end."""
        assert self.popen.stdin is not None
        self.popen.stdin.close()
        assert self.popen.wait(30) == code

    def __enter__(self) -> Process:
        return self

    def __exit__(self, *_: Any) -> None:
        if self.popen.poll() is None:
            self.popen.kill()
        self.popen.wait(10)
        for pipe in (self.popen.stdin, self.popen.stdout):
            if pipe is not None:
                pipe.close()


def eventually(condition: Callable[[], Any], seconds: float = 20.0) -> Any:
    """Waits until ``condition()`` is true; gives its value."""
    end = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < end, "it never became true"
        time.sleep(0.005)
    return value
