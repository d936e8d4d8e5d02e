"""Starts a server on a free loopback port, talks to it, stops it, and leaves nothing behind."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
needs_browser = pytest.mark.skipif(
    CHROMIUM is None and not os.environ.get("REQUIRE_BROWSER"),
    reason="there is no chromium (Debian: apt-get install chromium)",
)
SPIN = 0.004  # how long a request keeps its worker busy, so that others take their share


def free_port() -> int:
    """A port that nobody listens on just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def segment_files(name: str) -> list[str]:
    """What there is of a segment in shared memory: its file, its bells."""
    return sorted(str(path) for path in Path("/dev/shm").iterdir() if name in path.name)


def wait_for(condition: Callable[[], Any], what: str, timeout: float = 15.0, pause: float = 0.02) -> Any:
    """Wait until the condition holds, and give what it gave."""
    deadline = time.monotonic() + timeout
    while True:
        found = condition()
        if found:
            return found
        if time.monotonic() > deadline:
            raise AssertionError(f"after {timeout} s still not: {what}")
        time.sleep(pause)


def processes() -> Iterator[tuple[int, int, int, str]]:
    """(pid, parent, session, state) of every process."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                stat = (entry / "stat").read_text()
                state, parent, _group, session = stat.rpartition(")")[2].split()[:4]
                yield int(entry.name), int(parent), int(session), state


def alive(pid: int) -> bool:
    """Whether it runs, or is stopped; a zombie does not."""
    return any(each == pid and state not in "ZX" for each, _, _, state in processes())


@contextlib.contextmanager
def stopped(pids: Iterable[int]) -> Iterator[None]:
    """Processes that do nothing meanwhile."""
    pids = set(pids)
    try:
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        wait_for(lambda: all(state == "T" for pid, _, _, state in processes() if pid in pids), f"{pids} stand still")
        yield
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)


class Server:
    """A server process with workers, in a session of its own."""

    def __init__(self, command: Sequence[str], port: int, log: Path, env: dict[str, str], cwd: Path = ROOT) -> None:
        self.port = port
        self.log = log
        self.scratch = tempfile.TemporaryDirectory(prefix="rt-")  # a short path: gunicorn puts sockets there
        inherited = {key: value for key, value in os.environ.items() if not key.startswith("HYPERN_SHM_")}
        with log.open("ab") as output:
            self.process = subprocess.Popen(
                command,
                cwd=cwd,
                env=inherited | {"PYTHONUNBUFFERED": "1", "TMPDIR": self.scratch.name} | env,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.pid = self.process.pid

    def __enter__(self) -> Server:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.kill()
        if kind is not None:
            print(f"---- {self.log}\n{self.output()}")

    def output(self) -> str:
        """Everything it and its workers have logged."""
        return self.log.read_text(errors="replace")

    def everybody(self) -> list[int]:
        """Every process of the session that lives."""
        return [pid for pid, _, session, state in processes() if session == self.pid and state not in "ZX"]

    def children(self, of: int | None = None) -> set[int]:
        """The living children of the master, or of another process."""
        of = self.pid if of is None else of
        return {pid for pid, parent, _, state in processes() if parent == of and state not in "ZX"}

    def kill(self) -> None:
        """The end of everything that is left."""
        for _ in range(200):
            left = self.everybody()
            if not left:
                break
            for pid in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            self.process.poll()
            time.sleep(0.02)
        self.process.wait(timeout=10)
        self.scratch.cleanup()

    def stop(self, number: int = signal.SIGTERM, timeout: float = 20.0) -> None:
        """Stop it in order: it must end by itself, with status 0, and leave no process."""
        os.kill(self.pid, number)
        status = self.process.wait(timeout=timeout)
        assert status == 0, f"it ended with status {status}"
        wait_for(lambda: not self.everybody(), "every process of the server has ended", 5.0)

    # ---- HTTP, each request on a connection of its own

    def request(
        self, method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None
    ) -> tuple[int, bytes]:
        """One request: status and body."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        try:
            connection.request(method, path, body, {"Connection": "close", **(headers or {})})
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()

    def get(self, path: str, **query: Any) -> Any:
        """One request that must succeed, decoded. A worker that is just going may drop one; the next takes it."""
        for attempt in range(20):
            try:
                status, body = self.request("GET", path + (f"?{urlencode(query)}" if query else ""))
                break
            except (ConnectionError, http.client.HTTPException):
                if attempt == 19:
                    raise
                time.sleep(0.1)
        assert status == 200, f"{path}: {status} {body[:500]!r}\n{self.output()[-3000:]}"
        return json.loads(body)

    def ready(self, path: str = "/pid", timeout: float = 30.0) -> Server:
        """Wait until it answers."""

        def answers() -> bool:
            if self.process.poll() is not None:
                raise AssertionError(f"the server ended with status {self.process.returncode}\n{self.output()}")
            try:
                return self.request("GET", path)[0] == 200
            except (OSError, http.client.HTTPException):
                return False

        try:
            wait_for(answers, f"the server answers {path}", timeout)
        except BaseException:
            print(self.output())
            raise
        return self

    def pids(self, count: int, timeout: float = 20.0) -> set[int]:
        """The workers that answer, once all so many do (and no other does any more)."""
        deadline = time.monotonic() + timeout
        with ThreadPoolExecutor(8) as pool:
            while True:
                found = {each["pid"] for each in pool.map(lambda _: self.get("/pid", spin=SPIN), range(10 * count))}
                if len(found) == count and all(alive(pid) for pid in found):
                    return found
                assert time.monotonic() < deadline, f"{count} workers should answer; it was {found}"

    def from_each(self, path: str, workers: Iterable[int], timeout: float = 20.0, **query: Any) -> dict[int, list[Any]]:
        """Ask until every one of these workers has answered: what each said, in order."""
        answers: dict[int, list[Any]] = {pid: [] for pid in workers}
        deadline = time.monotonic() + timeout
        with ThreadPoolExecutor(8) as pool:
            while not all(answers.values()):
                silent = [pid for pid, given in answers.items() if not given]
                assert time.monotonic() < deadline, f"these did not answer {path}: {silent}"
                for answer in pool.map(lambda _: self.get(path, spin=SPIN, **query), range(4 * len(answers))):
                    answers.setdefault(answer.pop("pid"), []).append(answer)
        return answers

    def join(self, clients: Iterable[str]) -> dict[str, int]:
        """Everybody joins, concurrently: which worker took whom."""
        clients = list(clients)
        with ThreadPoolExecutor(12) as pool:
            taken = list(pool.map(lambda client: self.get("/join", client=client, spin=SPIN)["pid"], clients))
        return dict(zip(clients, taken, strict=True))

    def received(self, workers: Iterable[int]) -> dict[str, list[str]]:
        """What the subscribers of these workers have received since the last time, in order."""
        received: dict[str, list[str]] = {}
        for answers in self.from_each("/drain", workers).values():
            for answer in sorted(answers, key=lambda answer: int(answer["number"])):
                for client, messages in answer["received"].items():
                    received.setdefault(client, []).extend(messages)
        return received

    def one_report(self, workers: Iterable[int]) -> Any:
        """What every one of these workers reports, which must be one and the same."""
        workers = set(workers)
        reports = self.from_each("/report", workers)
        assert set(reports) <= workers, f"a worker that should be gone answered: {set(reports) - workers}"
        first = reports[next(iter(workers))][0]
        for pid, answers in reports.items():
            for each in answers:
                assert each == first, f"worker {pid} sees something else"
        return first


def gunicorn(
    log: Path,
    *arguments: str,
    app: str = "apps:application",
    workers: int = 3,
    config: str | None = "gunicorn_conf.py",
    env: dict[str, str] | None = None,
) -> Server:
    """gunicorn with the probe, and this repository's configuration unless told otherwise."""
    port = free_port()
    command = [sys.executable, "-m", "gunicorn", "--bind", f"127.0.0.1:{port}", "--workers", str(workers)]
    command += ["--pythonpath", str(HERE), "--no-control-socket", "--keep-alive", "0", "--graceful-timeout", "8"]
    command += ["--name", log.stem + secrets.token_hex(3), *(["--config", config] if config else []), *arguments, app]
    return Server(command, port, log, env or {})
