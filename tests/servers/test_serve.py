"""``hypern-shm serve`` on a segment that real workers use: the page in a real browser, who may see it, its metrics."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
from prometheus_client.parser import text_string_to_metric_families as families

from hypern_realtime_shm import RealtimeHub, Segment
from hypern_realtime_shm._page import app
from hypern_realtime_shm._page.tail import tail
from hypern_realtime_shm.inspect import Inspector
from tests.shell import COMMAND, run

from .harness import ROOT, Server, free_port, gunicorn, needs_browser, wait_for

CLIENTS = [f"client-{number:02}" for number in range(12)]
HOSTILE = "<script>document.title='taken'</script><img src=x onerror=\"document.title='taken'\">\u202e\x1b[31m"
LONG = "<b>" + "x" * 4000


def serving(name: str, log: Path, *options: str, **env: str) -> Server:
    """``hypern-shm serve``, with what it prints in the log."""
    port = free_port()
    return Server([*COMMAND, "serve", name, "--port", str(port), *options], port, log, env)


def status(server: Server, path: str = "/", **headers: str) -> int:
    """What it answers."""
    return server.request("GET", path, headers={key.replace("_", "-"): value for key, value in headers.items()})[0]


# ---- without a browser


def test_metrics_health_and_no_place_taken(segment: Segment, log: Path) -> None:
    name = str(segment.name)
    hub = RealtimeHub(segment=segment)
    hub.create_channel("room")
    before = Inspector(name).overview()["totals"]["attached_total"]
    with serving(name, log, "--top-channels", "1") as server:
        server.ready("/healthz")
        assert hub.publish("room", "hello") == 0
        code, body = server.request("GET", "/metrics")
        found = {sample.name: sample for family in families(body.decode()) for sample in family.samples}
        assert code == 200
        assert found["hypern_realtime_messages_published_total"].value == 1
        assert found["hypern_realtime_channel_published_total"].labels["channel"] == "room"
        assert [row["pid"] for row in Inspector(name).processes()["processes"]] == [os.getpid()]
        assert Inspector(name).overview()["totals"]["attached_total"] == before
        assert status(server, "/static/../app.py") == 404
        assert status(server, "/tail") == status(server, "/tail?channel=room&kind=else") == 400
        server.process.send_signal(signal.SIGTERM)
        server.process.wait(10)
        assert "Traceback" not in server.output()


@contextlib.contextmanager
def stream(server: Server, path: str, last_id: str | None = None) -> Iterator[http.client.HTTPResponse]:
    """An open stream of events."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
    with contextlib.closing(connection):
        connection.request("GET", path, headers={"Last-Event-ID": last_id} if last_id else {})
        with connection.getresponse() as response:
            yield response


def ids(response: http.client.HTTPResponse, count: int) -> list[str]:
    """The next so many ids."""
    found: list[str] = []
    while len(found) < count:
        line = response.readline().decode()
        assert line, "the stream has ended"
        if line.startswith("id: "):
            found.append(line[4:].strip())
    return found


def test_streams_go_on_where_they_were_and_are_not_without_end(segment: Segment, log: Path) -> None:
    hub = RealtimeHub(segment=segment)
    hub.create_channel("room")
    with serving(str(segment.name), log, "--interval", "0.1") as server:
        server.ready("/healthz")
        assert server.request("GET", "/")[0] == 200
        with stream(server, "/events") as first:
            assert (first.status, first.readline()) == (200, b"retry: 1000\n")
            seen = ids(first, 3)
        with stream(server, "/events", seen[0]) as again:
            assert ids(again, 2) == seen[1:]
        for number in range(3):
            hub.publish("room", f"message {number}")
        with stream(server, "/tail?channel=room") as first:
            told = ids(first, 3)
        with stream(server, "/tail?channel=room", told[0]) as again:
            assert ids(again, 2) == told[1:]
        # So many at once and no more; those that are closed make room.
        with contextlib.ExitStack() as opened:
            statuses = [
                opened.enter_context(stream(server, "/tail?channel=room")).status for _ in range(app.STREAMS + 1)
            ]
            assert statuses[:-8] == [200] * (len(statuses) - 8)  # those before may not have been closed yet
            assert statuses[-1] == 503

        def answers() -> bool:
            with stream(server, "/tail?channel=room") as one:
                return one.status == 200

        wait_for(answers, "there is room again", 20)


async def test_silence_is_broken_by_comments(segment: Segment, monkeypatch: pytest.MonkeyPatch) -> None:
    RealtimeHub(segment=segment).create_channel("room")
    monkeypatch.setattr(app, "KEEP_ALIVE", 0.3)
    page = app.Page(str(segment.name))
    written = page._written(tail(page.watch, "room", "", "channel", ""))
    while await asyncio.wait_for(anext(written), 10) != b": still there\n\n":
        pass
    await written.aclose()
    assert page._streams == 0


def test_what_a_page_may_load(segment: Segment, log: Path) -> None:
    with serving(str(segment.name), log) as server:
        server.ready("/healthz")
        for path in ("/", "/static/page.js", "/nothing", "/metrics"):
            connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
            connection.request("GET", path)
            policy = connection.getresponse().getheader("Content-Security-Policy") or ""
            connection.close()
            assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self';"), path
            assert "unsafe" not in policy
    for script in (ROOT / "hypern_realtime_shm/_page/static").glob("*.js"):
        assert not re.search(r"innerHTML|outerHTML|insertAdjacent|document\.write|eval\(", script.read_text()), script


def test_only_names_of_its_own_are_answered(segment: Segment, log: Path) -> None:
    with serving(str(segment.name), log, "--allow-host", "inside.example") as server:
        server.ready("/healthz")
        for host in ("localhost", f"127.0.0.1:{server.port}", "[::1]:80", "inside.example"):
            assert status(server, Host=host) == 200, host
        for host in ("evil.example", f"evil.example:{server.port}", "127.0.0.1.evil.example", "localhost.evil.example"):
            assert status(server, Host=host) == status(server, "/metrics", Host=host) == 421, host


@pytest.mark.parametrize("given", [None, 'a long + "odd"; secret%20'])
def test_beyond_loopback_a_token_is_needed(segment: Segment, log: Path, given: str | None) -> None:
    env = {"HYPERN_SHM_TOKEN": given} if given else {}
    with serving(str(segment.name), log, "--host", "0.0.0.0", **env) as server:
        server.ready("/healthz")
        shown = re.search(r"\?token=(\S.*)$", server.output(), re.MULTILINE)
        assert shown is not None
        token = unquote(shown[1])
        assert token == given if given else len(token) >= 32
        for path in ("/", "/metrics", "/events", "/tail?channel=a", "/static/page.js"):
            assert status(server, path) == 401, path
            for wrong in (token[:-1], token + "x", "", "é"):
                assert status(server, path, Authorization=f"Bearer {wrong}".encode().decode("latin-1")) == 401
        assert status(server, "/?token=wrong") == 401
        assert status(server, "/metrics", Authorization=f"Bearer {token}") == 200

        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
        connection.request("GET", f"/?token={shown[1]}")
        answer = connection.getresponse()
        cookie = answer.getheader("Set-Cookie") or ""
        assert (answer.status, answer.getheader("Location")) == (303, "/"), "the token leaves the address"
        connection.close()
        assert "HttpOnly" in cookie
        assert "samesite=lax" in cookie.lower()
        assert status(server, "/static/page.js", Cookie=cookie.partition("; ")[0]) == 200
        assert status(server, "/static/page.js", Cookie=cookie.partition("=")[0] + "=wrong") == 401


def test_mistakes_are_told_before_it_listens(name: str, segment: Segment) -> None:
    assert "no segment" in run("serve", "nothing-of-this-name", code=3).stderr
    for token in ("", "é", "a\nb"):
        assert "printable" in run("serve", name, "--token", token, code=2).stderr
    without = "import sys; sys.modules['uvicorn'] = None; from hypern_realtime_shm.cli import main; main()"
    ended = subprocess.run([sys.executable, "-c", without, "serve", name], capture_output=True, text=True, timeout=30)
    assert ended.returncode == 2
    assert "pip install 'hypern-realtime-shm[serve]'" in ended.stderr
    assert segment.name == name


@pytest.mark.parametrize(
    ("app", "options"),
    [("metrics_app:application", ()), ("metrics_app:app", ("--worker-class", "uvicorn_worker.UvicornWorker"))],
)
def test_mounted_metrics_are_of_the_whole_whichever_worker_answers(
    name: str, log: Path, app: str, options: tuple[str, ...]
) -> None:
    with gunicorn(log, *options, app=app, workers=4, env={"HYPERN_SHM_NAME": name}) as server:
        workers = server.ready().pids(4)
        taken = server.join(CLIENTS)
        assert len(set(taken.values())) > 1
        for number in range(50):
            server.get("/publish", text=f"message {number}")
        wanted = {"messages_published_total": 50, "members": 12, "clients": 12, "handles": 12}
        answered: set[int] = set()

        def scrape(_: int) -> int:
            connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
            try:
                connection.request("GET", "/metrics", headers={"Connection": "close"})
                answer = connection.getresponse()
                text = answer.read().decode()
            finally:
                connection.close()
            assert answer.status == 200
            found = {sample.name: sample.value for family in families(text) for sample in family.samples}
            assert {key: found[f"hypern_realtime_{key}"] for key in wanted} == wanted
            return int(answer.getheader("X-Pid") or 0)

        with ThreadPoolExecutor(8) as pool:
            wait_for(
                lambda: answered.update(pool.map(scrape, range(16))) or answered >= workers, "all were scraped", 30
            )
        assert answered == workers


# ---- the page


class Visitor:
    """A page that must log no error."""

    def __init__(self, browser: Any, address: str, **options: Any) -> None:
        self.context = browser.new_context(**options)
        self.page = self.context.new_page()
        self.errors: list[str] = []
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("console", lambda said: self.errors.append(said.text) if said.type == "error" else None)
        self.page.goto(address)
        self.page.wait_for_selector("#channels tbody tr", timeout=15_000)

    def names(self) -> list[str]:
        """The channels shown, in order."""
        return list(self.page.eval_on_selector_all("#channels td:first-child", "all => all.map(e => e.textContent)"))

    def log(self) -> list[str]:
        """The messages shown."""
        return list(self.page.eval_on_selector_all("#log li", "all => all.map(e => e.lastChild.textContent)"))

    def focused(self) -> str:
        return str(self.page.evaluate("document.activeElement.textContent"))

    def press_tab_until(self, text: str) -> None:
        for _ in range(40):
            if self.focused() == text:
                break
            self.page.keyboard.press("Tab")
        assert self.focused() == text
        outline = "getComputedStyle(document.activeElement).outlineStyle"
        assert self.page.evaluate(outline) != "none", "who goes by keyboard must see where he is"

    def close(self) -> None:
        assert self.errors == []
        self.context.close()


@needs_browser
def test_the_page_shows_what_workers_do(browser: Any, name: str, log: Path, tmp_path: Path) -> None:
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(gunicorn(log, workers=4, env={"HYPERN_SHM_NAME": name}))
        workers = server.ready().pids(4)
        taken = server.join(CLIENTS)
        with Segment.attach(name) as segment:
            hub = RealtimeHub(segment=segment)
            for hostile in (HOSTILE, LONG):
                hub.create_channel(hostile)
            for number in range(20):
                hub.create_channel(f"quiet:{number:02}", buffer_size=16)
        serve = stack.enter_context(serving(name, tmp_path / "serve.log")).ready("/healthz")
        address = f"http://127.0.0.1:{serve.port}/"
        light = Visitor(browser, address, viewport={"width": 1180, "height": 900})
        page = light.page
        assert page.text_content("#name") == name

        # Channels, members with their workers, processes.
        wait_for(lambda: len(light.names()) == 23, "all channels are shown", 10)
        wait_for(lambda: page.locator("#members tbody tr").count() == len(CLIENTS), "all members are shown", 10)
        rows = page.eval_on_selector_all("#members tbody tr", "all => all.map(e => [...e.cells].map(c => c.innerText))")
        assert {row[0]: int(row[2]) for row in rows} == taken
        pids = page.eval_on_selector_all("#processes tbody tr", "all => all.map(e => +e.cells[0].innerText)")
        assert set(pids) == {server.pid, *workers}

        # A channel's live tail, opened by keyboard; messages are text.
        light.press_tab_until("room")
        page.keyboard.press("Enter")
        page.wait_for_selector("#tail:not([hidden])")
        said = [f"message {number} {HOSTILE[:-5]}" for number in range(5)]
        for text in said:
            assert server.get("/publish", text=text)["count"] == len(CLIENTS)
        shown = [text.replace("\u202e", "\\u{202e}") for text in said]
        wait_for(lambda: light.log() == shown, "the messages are shown", 10)
        page.wait_for_selector("#handles tbody tr")
        assert page.locator("#handles tbody tr").count() == len(CLIENTS)
        assert page.locator("#log script, #log img, #channels script, #channels img").count() == 0
        wait_for(lambda: "5" in page.inner_text("#figures div:nth-child(2) dd"), "the sum is shown", 10)
        page.wait_for_selector("#throughput polyline[points*=' ']", state="attached")

        light.press_tab_until("Published")
        page.keyboard.press("Enter")
        assert light.names()[0] == "room", "most messages first"

        # Pause: what comes meanwhile is shown afterwards, once.
        page.click("#tail-pause")
        server.get("/publish", text="meanwhile")
        page.click("#tail-pause")
        wait_for(lambda: light.log() == [*shown, "meanwhile"], "it goes on where it was", 10)
        page.keyboard.press("Escape")
        assert page.locator("#tail").is_hidden()
        assert page.evaluate("document.activeElement.id") == "wanted"

        # Filter and sort by keyboard.
        page.keyboard.type("QUIET:1")
        wait_for(lambda: light.names() == [f"quiet:{number}" for number in range(10, 20)], "filtered, by name", 5)
        light.press_tab_until("Channel")
        page.keyboard.press("Enter")
        assert page.get_attribute("#channels th:first-child", "aria-sort") == "ascending"
        page.keyboard.press("Enter")
        assert page.get_attribute("#channels th:first-child", "aria-sort") == "descending"
        assert light.names() == [f"quiet:{number}" for number in range(19, 9, -1)]
        light.press_tab_until("quiet:19")
        looks = page.inner_text("#throughput-from")
        wait_for(lambda: page.inner_text("#throughput-from") != looks, "the next look", 10)
        assert light.focused() == "quiet:19", "a look must not take the focus"
        page.keyboard.press("/")
        page.keyboard.press("Escape")
        assert len(light.names()) == 23

        # Hostile names are text, escaped where they cannot be seen, and can be opened.
        escaped = HOSTILE.replace("\u202e", "\\u{202e}").replace("\x1b", "\\u{1b}")
        assert escaped in light.names()
        assert LONG in light.names()
        heights = page.eval_on_selector_all("#channels tbody tr", "all => all.map(e => e.offsetHeight)")
        assert max(heights) < 4 * min(heights), "a long name must not fill the page"
        page.locator("#channels button", has_text="<script>").click()
        hub_attached = Segment.attach(name)
        try:
            RealtimeHub(segment=hub_attached).publish(HOSTILE, "heard")
        finally:
            hub_attached.close()
        wait_for(lambda: light.log() == ["heard"], "its messages are shown", 10)
        assert page.title() == f"{name} · hypern-shm"
        page.screenshot(path=tmp_path / "light.png")

        # Dark, and a phone.
        grounds = {page.evaluate("getComputedStyle(document.body).backgroundColor")}
        for theme, width in (("dark", 1180), ("dark", 390), ("light", 390)):
            other = Visitor(browser, address, viewport={"width": width, "height": 844}, color_scheme=theme)
            other.page.locator("#channels button", has_text="room").click()
            wait_for(lambda other=other: other.log()[-1:] == ["meanwhile"], "the last messages are shown", 10)
            assert other.page.evaluate("document.documentElement.scrollWidth <= innerWidth"), (
                f"{width} px scrolls sideways"
            )
            grounds.add(other.page.evaluate("getComputedStyle(document.body).backgroundColor"))
            other.page.screenshot(path=tmp_path / f"{theme}-{width}.png", full_page=True)
            other.close()
        assert len(grounds) == 2

        # A stopped worker is seen.
        victim = min(workers)
        os.kill(victim, signal.SIGSTOP)
        try:
            wait_for(lambda: "stopped" in page.inner_text("#processes"), "the stopped worker is seen", 10)
        finally:
            os.kill(victim, signal.SIGCONT)
        light.close()
        serve.process.send_signal(signal.SIGTERM)
        serve.process.wait(10)
        assert "Traceback" not in serve.output()


@needs_browser
def test_a_page_with_a_token_and_one_that_comes_back(browser: Any, segment: Segment, log: Path) -> None:
    name = str(segment.name)
    hub = RealtimeHub(segment=segment)
    hub.create_channel("room")
    with serving(name, log, "--token", "secret") as server:
        server.ready("/healthz")
        visitor = Visitor(browser, f"http://127.0.0.1:{server.port}/?token=secret")
        page = visitor.page
        assert page.url == f"http://127.0.0.1:{server.port}/"
        page.locator("#channels button", has_text="room").click()
        hub.publish("room", "before")
        wait_for(lambda: visitor.log() == ["before"], "it is shown", 10)
        server.process.send_signal(signal.SIGTERM)
        server.process.wait(10)
        wait_for(lambda: "no connection" in page.inner_text("#status"), "the page says so", 10)
        hub.publish("room", "meanwhile")
    visitor.errors.clear()  # the browser logs that nobody answered
    again = Server([*COMMAND, "serve", name, "--port", str(server.port), "--token", "secret"], server.port, log, {})
    with again:
        again.ready("/healthz")
        hub.publish("room", "after")
        wait_for(lambda: visitor.log() == ["before", "meanwhile", "after"], "no message is missing, none is twice", 15)
        wait_for(lambda: page.inner_text("#status").startswith("live"), "it is live again", 10)
        visitor.context.close()
