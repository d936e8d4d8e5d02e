"""``hypern-shm top`` in a real terminal: tmux draws it, keys are pressed, the screen is read."""

from __future__ import annotations

import os
import re
import secrets
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from .procs import Process, eventually

SERVER = """
import threading
hub = rt.RealtimeHub(segment=sys.argv[1])
hub.create_channel("busy", buffer_size=64)
hub.create_channel("calm", buffer_size=64)
sub, slow = hub.join("busy", "ada"), hub.join("calm", "slow")
for number in range(50):
    hub.publish("calm", str(number))
say("ready")
threading.Thread(target=hear, daemon=True).start()
while True:
    for _ in range(20):
        hub.publish("busy", "x" * 500)
    sub.drain()
    time.sleep(0.01)
"""


class Terminal:
    """A terminal of its own (a tmux server of its own, too)."""

    def __init__(self, width: int, height: int, *command: str, **env: str) -> None:
        self.socket = f"rt-{os.getpid()}-{secrets.token_hex(4)}"
        size = ["-x", str(width), "-y", str(height)]
        variables = [part for key, value in env.items() for part in ("-e", f"{key}={value}")]
        line = " ".join(
            [sys.executable, *(command if command[0].endswith(".py") else ["-m", "hypern_realtime_shm", *command])]
        )
        # What the shell says at its end tells that the terminal is whole again.
        self.tmux(
            "new-session", "-d", *size, *variables, f"sh -c '{line}; echo ended with $?; stty -a; exec sleep 600'"
        )

    def tmux(self, *arguments: str) -> str:
        command = ["tmux", "-L", self.socket, "-f", "/dev/null", *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True, timeout=20).stdout

    def screen(self) -> list[str]:
        return self.tmux("capture-pane", "-p").splitlines()

    def press(self, *keys: str) -> None:
        self.tmux("send-keys", *keys)

    def shows(self, pattern: str) -> list[str]:
        """The screen, once it shows this."""

        def found() -> list[str] | None:
            screen = self.screen()
            return screen if re.search(pattern, "\n".join(screen), re.MULTILINE) else None

        try:
            return eventually(found)  # type: ignore[no-any-return]
        except AssertionError:
            raise AssertionError("\n".join([f"never shown: {pattern}", *self.screen()])) from None

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *_: object) -> None:
        self.tmux("kill-server")


@pytest.fixture(autouse=True)
def _needs_tmux() -> None:
    assert shutil.which("tmux"), "the Debian package tmux is missing: make test-python installs it"


@pytest.fixture
def server(name: str) -> Iterator[Process]:
    with Process(SERVER, name) as process:
        assert process.hear() == "ready"
        yield process


def channels(screen: list[str]) -> list[str]:
    """The names of the channels shown, in order."""
    return [line.strip("▲ ").split()[0] for line in screen if re.match(r"[▲ ] (busy|calm)", line)]


def test_one_screen_of_80_by_24(server: Process, name: str) -> None:
    with Terminal(80, 24, "top", name, "--interval", "0.2") as terminal:
        screen = terminal.shows(r"^published [\d.]+k?/s +missed")
        terminal.shows(r"^published [1-9]")
        screen = terminal.screen()
        assert len(screen) == 24
        assert all(len(line) <= 80 for line in screen)
        assert screen[0].startswith(name)
        assert re.search(rf"● +{server.popen.pid} (sleeping|running) K", "\n".join(screen))
        assert channels(screen) == ["busy", "calm"], "by traffic"
        assert re.search(r"^▲ calm.* 50 ", "\n".join(screen), re.MULTILINE), "50 of 64 behind is marked by a sign"
        assert "memory M" in screen[3]
        assert screen[23].startswith("q quit")


@pytest.mark.usefixtures("server")
def test_keys_sort_filter_pause_and_quit(name: str) -> None:
    with Terminal(100, 30, "top", name, "--interval", "0.2") as terminal:
        terminal.shows("RATE▼")
        terminal.press("s")
        assert channels(terminal.shows("LAG▼")) == ["calm", "busy"]
        terminal.press("r")
        assert channels(terminal.shows("LAG▲")) == ["busy", "calm"]
        terminal.press("/", "c", "a", "x", "BSpace")
        screen = terminal.shows("^filter: ca▏")
        assert channels(screen) == ["calm"]
        terminal.press("Enter")
        terminal.shows(r"filter: ca +1 channels")
        terminal.press("Escape")
        assert len(channels(terminal.shows("2 channels"))) == 2
        terminal.press("p")
        paused = terminal.shows("PAUSED")
        assert terminal.screen()[1] == paused[1]
        terminal.press("p")
        eventually(lambda: "PAUSED" not in terminal.screen()[0])
        terminal.press("+")
        terminal.shows(r"0\.4 s")
        terminal.press("q")
        # As it was: lines are edited, and shown as they are typed.
        terminal.shows(r"ended with 0(.|\n)*(?<!-)icanon(.|\n)*(?<!-)echo ")


@pytest.mark.usefixtures("server")
def test_a_larger_screen_shows_more(name: str) -> None:
    with Terminal(80, 24, "top", name, "--interval", "0.2") as terminal:
        terminal.shows("RATE▼")
        terminal.tmux("resize-window", "-x", "160", "-y", "50")
        screen = terminal.shows("● .*python.*-c")
        assert len(screen) == 50
        terminal.tmux("resize-window", "-x", "40", "-y", "10")
        eventually(lambda: len(terminal.screen()) == 10 and terminal.screen()[9].startswith("q quit"))
        assert all(len(line) <= 40 for line in terminal.screen())


def test_who_is_stopped_and_who_is_dead_is_said_in_words(server: Process, name: str) -> None:
    with Terminal(80, 24, "top", name, "--interval", "0.2", NO_COLOR="1") as terminal:
        terminal.shows("● ")
        os.kill(server.popen.pid, signal.SIGSTOP)
        terminal.shows(rf"‖ +{server.popen.pid} stopped")
        terminal.shows("‖ 1 stopped")
        server.kill()
        terminal.shows(rf"✖ +{server.popen.pid} dead")
        colours = terminal.tmux("capture-pane", "-p", "-e")
        assert not re.search(r"\x1b\[(?:\d+;)*3[1-6]m", colours), "NO_COLOR is respected"


@pytest.mark.usefixtures("server")
def test_nothing_flickers(name: str) -> None:
    """A frame is written over the last one: no line is cleared, the screen is not, in between."""
    with Terminal(80, 24, "top", name, "--interval", "0.2") as terminal:
        terminal.shows("^q quit")
        for _ in range(60):
            screen = terminal.screen()
            assert screen[0].startswith(name)
            assert screen[23].startswith("q quit")
            assert "RATE▼" in "\n".join(screen)


@pytest.mark.usefixtures("server")
def test_count_ends_it_and_a_new_segment_of_the_name_is_shown(name: str) -> None:
    with Terminal(80, 24, "top", name, "--interval", "0.2", "--count", "2") as terminal:
        terminal.shows("ended with 0")
    with Terminal(80, 24, "top", name, "--interval", "0.2") as terminal:
        terminal.shows("^. busy")
        subprocess.run(
            [sys.executable, "-m", "hypern_realtime_shm", "unlink", name, "--yes", "--force"],
            check=True,
            capture_output=True,
        )
        terminal.shows("UNLINKED")
        with Process(
            "hub = rt.RealtimeHub(segment=sys.argv[1])\nhub.create_channel('fresh')\nsay('x')\nhear()", name
        ) as next_:
            next_.hear()
            assert "UNLINKED" not in terminal.shows("^  fresh")[0]
            next_.say("")
            next_.end()


@pytest.mark.usefixtures("server")
def test_without_its_extra_it_says_which(name: str, tmp_path: Path) -> None:
    program = tmp_path / "without.py"
    program.write_text("import sys\nsys.modules['rich'] = None\nfrom hypern_realtime_shm.cli import main\nmain()\n")
    with Terminal(80, 24, str(program), "top", name) as terminal:
        screen = "".join(terminal.shows("ended with 2"))
        assert "hypern-realtime-shm[inspector]" in screen
        assert "Traceback" not in screen
