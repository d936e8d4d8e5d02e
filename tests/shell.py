"""hypern-shm as a shell runs it, and what it prints held against the published schemas."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any
from unittest import mock

import jsonschema
import pytest

from hypern_realtime_shm.cli import main

SCHEMAS = Path(__file__).parent.parent / "docs" / "schema"
COMMAND = [sys.executable, "-W", "error", "-m", "hypern_realtime_shm"]


# Verbs that only look are run in this process, where they start at once; the others would meet its own attachments.
HERE = frozenset(
    {"ls", "inspect", "channels", "channel", "presence", "clients", "topics", "processes", "tail", "check"}
)


def clean(env: dict[str, str]) -> dict[str, str]:
    """The environment without the segment of whoever runs the tests, and with these."""
    return {key: value for key, value in os.environ.items() if not key.startswith("HYPERN_SHM_")} | env


def _here(arguments: tuple[str, ...], env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    out, errors = io.StringIO(), io.StringIO()
    environment = mock.patch.dict(os.environ, clean(env), clear=True)
    with environment, redirect_stdout(out), redirect_stderr(errors), pytest.raises(SystemExit) as end:
        main(list(arguments))
    assert isinstance(end.value.code, int)
    return subprocess.CompletedProcess(arguments, end.value.code, out.getvalue(), errors.getvalue())


def run(
    *arguments: str, code: int | None = 0, stdin: str | None = None, **env: str
) -> subprocess.CompletedProcess[str]:
    """Runs one verb; it must end with this code (None: with any) and never with a traceback."""
    if arguments and arguments[0] in HERE and stdin is None:
        ended = _here(arguments, env)
    else:
        ended = subprocess.run(
            [*COMMAND, *arguments],
            input=stdin,
            stdin=None if stdin is not None else subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            env=clean(env),
        )
    said = f"hypern-shm {' '.join(arguments)} ended with {ended.returncode}\n{ended.stdout}\n{ended.stderr}"
    assert "Traceback" not in ended.stderr, said
    assert "\x1b" not in ended.stdout + ended.stderr, f"colours or control characters in a pipe: {said!r}"
    assert code is None or ended.returncode == code, said
    return ended


def is_as_described(verb: str, value: Any) -> None:
    """Holds what a verb printed against its schema."""
    jsonschema.validate(value, json.loads((SCHEMAS / f"{verb}.json").read_text()))


def ask(verb: str, *arguments: str, code: int | None = 0, **env: str) -> Any:
    """What a verb prints with --json, as its schema says; None: nothing, as it failed."""
    ended = run(verb, *arguments, "--json", code=code, **env)
    if not ended.stdout:
        return None
    value = json.loads(ended.stdout)
    is_as_described(verb, value)
    return value


def lines(verb: str, text: str) -> list[Any]:
    """Objects, one a line, each as the schema says."""
    values = [json.loads(line) for line in text.splitlines()]
    for value in values:
        is_as_described(verb, value)
    return values
