"""The demonstration as people see it: two pages on different workers, in a real browser."""

from __future__ import annotations

import os
import re
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from .harness import ROOT, Server, free_port, needs_browser, segment_files, wait_for

pytestmark = needs_browser


@pytest.fixture
def server(name: str, log: Path) -> Iterator[Server]:
    """The demonstration's own script, on a port and a segment of the test's."""
    port = free_port()
    env = {"PORT": str(port), "WORKERS": "4", "PYTHON": sys.executable, "HYPERN_SHM_NAME": name}
    with Server([str(ROOT / "examples/chat/run.sh"), "--no-control-socket"], port, log, env) as started:
        started.ready("/state?room=lobby")
        yield started


class Page:
    """One person's page, which must log no error; ``stream`` is the worker its stream is on."""

    def __init__(self, browser: Any, server: Server, person: str, **options: Any) -> None:
        self.person = person
        self.context = browser.new_context(**options)
        self.page = self.context.new_page()
        self.errors: list[str] = []
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.goto(f"http://127.0.0.1:{server.port}/?room=lobby&name={person}")
        self.stream = self.live()

    def live(self) -> int:
        """Wait for the stream; the pid of its worker."""
        return int(self.page.wait_for_selector("#status .worker", timeout=10_000).inner_text())

    def say(self, text: str) -> int:
        """Say it; the pid of the worker that took it."""
        self.page.evaluate("() => document.getElementById('sent').replaceChildren()")
        self.page.fill("#text", text)
        self.page.press("#text", "Enter")
        return int(self.page.wait_for_selector("#sent .worker", timeout=5_000).inner_text())

    def members(self) -> dict[str, int]:
        """Who the page says is online, and on which worker."""
        found = {}
        for line in self.page.query_selector_all("#members li"):
            found[line.query_selector(".who").inner_text()] = int(line.query_selector(".worker").inner_text())
        return found

    def messages(self) -> list[tuple[str, str, int]]:
        """(who, text, worker) of every message on the page."""
        lines = """() => [...document.querySelectorAll("#log li:not(.note)")].map(
            (line) => [".who", ".text", ".worker"].map((part) => line.querySelector(part).innerText))"""
        return [(who, text, int(worker)) for who, text, worker in self.page.evaluate(lines)]

    def notes_of(self, beginning: str) -> list[str]:
        """What the page noted that begins with these words."""
        noted = [line.inner_text() for line in self.page.query_selector_all("#log li.note")]
        return [line for line in noted if line.startswith(beginning)]

    def wait_for_members(self, *people: str, timeout: float = 5.0) -> None:
        expected = sorted(f"{person} (you)" if person == self.person else person for person in people)
        wait_for(lambda: sorted(self.members()) == expected, f"{people} online", timeout)

    def close(self) -> None:
        assert self.errors == []
        self.context.close()


def open_on_another_worker(browser: Any, server: Server, person: str, *taken: int, **options: Any) -> Page:
    """The kernel chooses the worker of each stream; try until it is another one. Nothing is left of the attempts."""
    for _ in range(30):
        page = Page(browser, server, person, **options)
        if page.stream not in taken:
            return page
        page.close()
        wait_for(lambda: person not in online(server), f"the page of {person} that was closed is gone", 5)
    raise AssertionError(f"thirty streams in a row were on {taken}")


def online(server: Server) -> list[str]:
    """The names of who is in the lobby, as the server says."""
    return [member["name"] for member in server.get("/state?room=lobby")["members"]]


def test_two_pages_on_different_workers(browser: Any, server: Server, name: str, tmp_path: Path) -> None:
    ada = Page(browser, server, "Ada", viewport={"width": 1100, "height": 760})
    ada.wait_for_members("Ada")
    bob = open_on_another_worker(
        browser, server, "Bob", ada.stream, viewport={"width": 390, "height": 844}, color_scheme="dark"
    )
    assert ada.stream != bob.stream

    # They see each other join, each on its worker.
    ada.wait_for_members("Ada", "Bob")
    bob.wait_for_members("Ada", "Bob")
    assert ada.members()["Bob"] == bob.members()["Bob (you)"] == bob.stream
    assert bob.members()["Ada"] == ada.members()["Ada (you)"] == ada.stream
    assert f"Bob joined on {bob.stream}" in ada.notes_of("Bob joined")

    # They see each other speak, in the same order, whoever took it; markup is only text.
    said = []
    for number in range(12):
        page = ada if number % 2 else bob
        text = f"message {number}" if number % 2 else f"<b onclick='x'>{number}</b> & <script>1</script>"
        said.append((page.person, text, page.say(text)))
    for page in (ada, bob):
        wait_for(lambda page=page: len(page.messages()) >= len(said), "all arrived", 5)
        assert page.messages() == said
        assert page.page.query_selector("#log b, #log script") is None
    assert len({pid for _, _, pid in said}) > 1, "one worker took every message"
    tally = [int(count) for count in re.findall(r"× (\d+)", ada.page.inner_text("#tally"))]
    assert sum(tally) == len(said)
    assert len(tally) > 1

    # Many at once: the log follows.
    ada.page.evaluate("() => Promise.all([...Array(20).keys()].map((n) => say(`burst ${n}`)))")
    wait_for(lambda: len(ada.messages()) == len(said) + 20, "the burst arrived", 5)
    below = "(log => log.scrollHeight - log.scrollTop - log.clientHeight)(document.getElementById('log'))"
    wait_for(lambda: ada.page.evaluate(below) < 80, "the log shows the last message", 3)

    ada.page.screenshot(path=tmp_path / "ada-light.png")
    bob.page.screenshot(path=tmp_path / "bob-dark-phone.png", full_page=True)
    assert bob.page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "a phone must not scroll sideways"

    # By keyboard alone: the skip link is the first stop, and leads to the message field.
    ada.page.reload()
    ada.live()
    ada.page.keyboard.press("Tab")
    assert ada.page.evaluate("document.activeElement.className") == "skip"
    ada.page.keyboard.press("Enter")
    ada.page.keyboard.type("typed")
    ada.page.keyboard.press("Enter")
    wait_for(lambda: bob.messages()[-1][1] == "typed", "it arrived", 5)
    bob.wait_for_members("Ada", "Bob")

    # Another room is another room.
    ada.page.fill("#new-room", "quiet")
    ada.page.press("#new-room", "Enter")
    ada.live()
    ada.wait_for_members("Ada")
    bob.wait_for_members("Bob")
    ada.say("nobody hears this")
    ada.page.click("#rooms button[data-room=lobby]")
    ada.live()
    bob.wait_for_members("Ada", "Bob")
    assert bob.messages()[-1][1] == "typed"

    # They see each other leave.
    bob.close()
    ada.wait_for_members("Ada")
    assert ada.notes_of("Bob left")
    ada.close()
    server.stop()
    assert not segment_files(name)
    assert "Traceback" not in server.output()


def test_a_killed_worker_takes_only_its_own_pages_and_they_come_back(browser: Any, server: Server) -> None:
    ada = Page(browser, server, "Ada")
    bob = open_on_another_worker(browser, server, "Bob", ada.stream)
    wait_for(lambda: ada.members().get("Bob") == bob.stream, "Ada sees Bob where he is", 5)
    left_before = len(ada.notes_of("Bob left"))  # by attempts of his on her worker

    os.kill(bob.stream, signal.SIGKILL)
    ada.say("while you were away")
    wait_for(lambda: len(ada.notes_of("Bob left")) > left_before, "Bob is gone", 2)
    wait_for(lambda: ada.members().get("Bob", bob.stream) != bob.stream, "Bob is back", 8)
    assert ada.members()["Ada (you)"] == ada.stream
    wait_for(lambda: bob.live() == ada.members().get("Bob"), "his page says where", 5)
    ada.say("welcome back")
    wait_for(lambda: len(bob.messages()) >= 2, "Bob hears again", 5)
    assert [message[:2] for message in bob.messages()] == [("Ada", "while you were away"), ("Ada", "welcome back")]
    ada.close()
    bob.close()
    server.stop()
