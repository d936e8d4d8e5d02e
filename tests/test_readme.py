"""The README says what is so: its example runs, its tables are complete, its commands exist."""

from __future__ import annotations

import builtins
import http.client
import re
import subprocess
import sys
from pathlib import Path

from hypern_realtime_shm import errors
from tests.servers.harness import Server, free_port, segment_files, wait_for

ROOT = Path(__file__).parent.parent
PACKAGE = Path(errors.__file__).parent
README = (ROOT / "README.md").read_text()


def section(heading: str) -> str:
    """The text under a heading of the second level."""
    return README.split(f"\n## {heading}\n", 1)[1].split("\n## ", 1)[0]


def test_the_example_runs(tmp_path: Path, name: str) -> None:
    source = re.search(r"<!-- example: app\.py -->\n```python\n(.*?)```", README, re.DOTALL)
    assert source is not None
    lines = source[1].replace('segment="chat"', f'segment="{name}"')
    assert name in lines
    assert len(lines.splitlines()) <= 36, "a short example is meant"
    (tmp_path / "app.py").write_text(lines)
    port = free_port()
    options = ["--workers", "4", "--worker-class", "gthread", "--threads", "16"]
    command = [
        sys.executable,
        "-m",
        "gunicorn",
        *options,
        "--bind",
        f"127.0.0.1:{port}",
        "--no-control-socket",
        "app:app",
    ]
    with Server(command, port, tmp_path / "server.log", {}, cwd=tmp_path) as server:
        server.ready("/")

        def get(path: str) -> str:
            status, body = server.request("GET", path)
            assert status == 200, server.output()
            return body.decode()

        alice, bob = Listener(port, "alice"), Listener(port, "bob")
        wait_for(lambda: sorted(get("/").splitlines()) == ["alice is here", "bob is here"], "both are here")
        said = [f"message-{number}" for number in range(20)]
        for text in said:
            assert get(f"/say?user=carol&text={text}") == "heard by 2, whatever worker they are on\n"
        expected = [f"data: carol: {text}" for text in said]
        assert alice.lines(len(said)) == bob.lines(len(said)) == expected
        alice.close()
        wait_for(lambda: get("/") == "bob is here\n", "alice has gone")
        bob.close()
        wait_for(lambda: get("/") == "", "bob has gone")


class Listener:
    """Somebody who reads an event stream."""

    def __init__(self, port: int, user: str) -> None:
        self.connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        self.connection.request("GET", f"/stream?user={user}")
        self.response = self.connection.getresponse()

    def lines(self, count: int) -> list[str]:
        """The next lines that carry data."""
        found: list[str] = []
        while len(found) < count:
            line = self.response.readline().decode().rstrip("\n")
            if line.startswith("data:"):
                found.append(line)
        return found

    def close(self) -> None:
        self.response.close()
        self.connection.close()


def test_the_test_example_passes_and_leaves_nothing(tmp_path: Path) -> None:
    source = re.search(r"```python\n(.*?)```", section("In your tests"), re.DOTALL)
    assert source is not None
    (tmp_path / "test_app.py").write_text(source[1])
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_app.py"]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 0, output
    assert "1 passed" in output
    assert not segment_files(f"test-{process.pid}-")


def test_every_setting_is_in_the_table() -> None:
    listed = set(re.findall(r"^\| `(HYPERN_SHM_\w+)`", section("Settings"), re.MULTILINE))
    sources = Path(errors.__file__).parent.glob("*.py")  # of the package that is tested
    assert listed == {found for path in sources for found in re.findall(r"\bHYPERN_SHM_\w+", path.read_text())}


def test_every_exception_is_in_the_tree() -> None:
    tree = section("Exceptions")
    classes = {name: getattr(errors, name) for name in errors.__all__}
    for name, cls in classes.items():
        line = next((line for line in tree.splitlines() if re.search(rf"\b{name}\b", line)), None)
        assert line is not None, f"{name} is not in the tree"
        builtin = re.search(rf"{name}\s+\((\w+)", line)
        if builtin is not None:
            assert issubclass(cls, getattr(builtins, builtin[1])), line


def test_every_command_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for document in (*ROOT.glob("*.md"), *ROOT.glob("*/README.md"), *ROOT.glob("docs/*.md")):
        commands = re.findall(r"(?:`|^ *)make ([a-z-]+)", document.read_text(), re.MULTILINE)
        assert set(commands) <= targets, document


def test_every_link_leads_somewhere() -> None:
    for document in (*ROOT.glob("*.md"), *ROOT.glob("*/README.md"), *ROOT.glob("docs/*.md")):
        for link in re.findall(r"\]\(([^)#]+)\)", document.read_text()):
            target = (document.parent / link).resolve()
            if target.is_relative_to(ROOT / PACKAGE.name):  # which is elsewhere, where a wheel is tested
                target = PACKAGE / target.relative_to(ROOT / PACKAGE.name)
            assert "://" in link or target.exists(), f"{document}: {link}"
