"""The terminal under ``top``: one screen of lines, and keys. Needs rich, which the extra ``inspector`` brings.

Every frame is exactly as large as the terminal and is written over the last one, never cleared: nothing flickers. What
matters is said by a word or a sign; colours (blue, yellow: told apart by everybody) only underline it, and NO_COLOR
leaves them out.
"""

from __future__ import annotations

import os
import select
import sys
import termios
import time
import tty
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime

from rich.cells import cell_len, set_cell_size
from rich.console import Console, ConsoleDimensions, Group
from rich.live import Live
from rich.text import Text

from hypern_realtime_shm.errors import SegmentError
from hypern_realtime_shm.inspect import Capacity, Inspector, ProcessRow

from ._common import owners, plain, size, span
from ._view import Channel, View

STEP = 0.1  # seconds between two looks at the keyboard
_KEYS = {"[A": "up", "[B": "down", "[5~": "pgup", "[6~": "pgdn", "OA": "up", "OB": "down"}
_HELP = "q quit  s sort  r reverse  / filter  p pause  +- interval  ↑↓ scroll"
# How a process is, as a sign and a style.
_STATES = {
    "running": ("●", ""),
    "sleeping": ("●", ""),
    "alive": ("●", ""),
    "leaving": ("○", "dim"),
    "settled": ("○", "dim"),
    "stopped": ("‖", "bold yellow"),
    "dead": ("✖", "bold yellow"),
}


def number(count: float) -> str:
    """A count in five columns."""
    for unit in ("", "k", "M", "G"):
        if count < 10 and unit == "" and count != int(count):
            return f"{count:.1f}"
        if count < 1000 or (unit == "" and count < 10_000) or unit == "G":
            return f"{count:.0f}{unit}" if count >= 100 or unit == "" else f"{count:.3g}{unit}"
        count /= 1000
    raise AssertionError("the last unit takes all")


def _line(parts: list[tuple[str, str]], width: int) -> Text:
    """Texts with styles, as one line of exactly this width."""
    line = Text(no_wrap=True, overflow="crop")
    left = width
    for text, style in parts:
        fitting = text if cell_len(text) <= left else set_cell_size(text, left)
        line.append(fitting, style)
        left -= cell_len(fitting)
    line.append(" " * left)
    return line


def _bar(view: View, width: int) -> list[tuple[str, str]]:
    """Memory by use, as a bar of letters: each share says by its letter what it is."""
    assert view.now is not None
    memory = view.now["overview"]["memory"]
    total = max(1, memory["total"])
    parts: list[tuple[str, str]] = []
    left = width
    for letter, count, style in (
        ("M", memory["messages"], "blue"),
        ("C", memory["continued"], "blue"),
        ("R", memory["records"], "yellow"),
        ("P", memory["pages"], "yellow"),
        ("H", memory["held"], "bold"),
    ):
        columns = min(left, round(width * count / total) or (count > 0))
        parts.append((letter * columns, style))
        left -= columns
    return [*parts, ("·" * left, "dim")]


def _head(view: View, width: int) -> list[Text]:
    assert view.now is not None
    seen = view.now["overview"]
    totals, memory = seen["totals"], seen["memory"]
    rows = view.now["processes"]
    alive = sum(row["alive"] for row in rows)
    stopped = sum(row["state"] == "stopped" for row in rows)
    dead = sum(row["state"] == "dead" for row in rows)
    used = 100 * (1 - memory["free"] / max(1, memory["total"]))
    full: dict[str, Capacity] = {each["what"]: each for each in seen["capacities"]}

    def share(what: str) -> str:
        return f"{100 * full[what]['used'] / max(1, full[what]['capacity']):.0f}%"

    state = "" if seen["current"] else "  UNLINKED"
    state += "  PAUSED" if view.paused else ""
    state += f"  {len(view.now['problems'])} UNREADABLE" if view.now["problems"] else ""
    keeper = seen["keeper"]["owner"]
    clock = datetime.fromtimestamp(seen["taken_at"]).strftime("%H:%M:%S")
    title = f"{plain(seen['name'])}  {size(seen['size'])}"
    room = max(1, width - len(clock) - cell_len(title) - cell_len(state))
    missing = (f"  ‖ {stopped} stopped" if stopped else "") + (f"  ✖ {dead} dead" if dead else "")
    lost = "bold yellow" if view.missed_rate or view.evicted_rate else ""
    legend = "M messages C long R records P pages"
    return [
        _line([(title, "bold"), (state, "bold yellow"), (" " * room, ""), (clock, "")], width),
        _line(
            [
                (f"published {number(view.published_rate)}/s", "bold blue"),
                (f"  missed {number(view.missed_rate)}/s  given up {number(view.evicted_rate)}/s", lost),
                (f"  in all {number(totals['published_total'])}, missed {number(totals['missed_total'])}", ""),
            ],
            width,
        ),
        _line(
            [
                (f"processes {alive}", "bold"),
                (missing, "bold yellow"),
                (f"  reaped {totals['reaped_total']}  keeper {owners([keeper]) if keeper else '-'}", ""),
                (f"  members {number(totals['members'])}  clients {number(totals['clients'])}", ""),
                (f"  handles {number(totals['handles'])}", ""),
            ],
            width,
        ),
        _line([("memory ", ""), *_bar(view, max(10, width - 13)), (f" {used:4.0f}%", "bold")], width),
        _line(
            [
                (f"rings {share('ring slots')}  things {share('named things')}  waiters {share('waiters')}", ""),
                (f"  slots {share('processes')}  {legend}", "dim"),
            ],
            width,
        ),
    ]


def _process(row: ProcessRow, width: int) -> Text:
    sign, style = _STATES.get(row["state"], ("?", "bold"))
    holds = row["holds"]
    cells = (
        f"{sign} {row['pid']:>7} {row['state'] + (' K' if row['keeper'] else ''):<10} {row['waiting'] or '-':<7}"
        f"{span(row['attached_seconds']):>7}{number(holds['handles']):>8}{number(holds['members']):>8}"
        f"{number(holds['clients']):>8}{number(holds['topics']):>7}{holds['blocks']:>5}  "
    )
    return _line([(cells, style), (plain(row["command"]), "dim")], width)


def _channel(channel: Channel, width: int) -> Text:
    row = channel.row
    wide = max(12, width - 60)
    sign = "▲" if channel.lags else " "
    lag = "-" if row["max_lag"] is None else number(channel.lag)
    cells = (
        f"{number(channel.rate):>8}{lag:>7}{number(row['missed']):>8}{number(row['published']):>10}"
        f"{number(row['handles']):>8}{number(row['retained']):>9}/{number(row['buffer_size']):<7}"
    )
    name = plain(channel.name) + ("" if row["state"] == "open" else f" ({row['state']})")
    style = "bold yellow" if channel.lags else "bold" if channel.rate else ""
    return _line([(f"{sign} {set_cell_size(name, wide)}", style), (cells, style)], width)


def _headings(view: View, width: int) -> Text:
    wide = max(12, width - 60)
    arrow = "▲" if view.reverse else "▼"

    def titled(column: str) -> str:
        return (column + arrow if column == view.sort else column).upper()

    cells = (
        f"  {set_cell_size(titled('channel'), wide)}{titled('rate'):>8}{titled('lag'):>7}{titled('missed'):>8}"
        f"{titled('published'):>10}{titled('handles'):>8}{'RETAINED':>9}/{'BUFFER':<7}"
    )
    return _line([(cells, "reverse")], width)


def frame(view: View, width: int, height: int) -> list[Text]:
    """One screen: exactly ``height`` lines of ``width`` columns."""
    lines = _head(view, width)
    processes = view.processes()
    room = max(3, (height - 9) // 3)
    shown = processes[: room if len(processes) <= room else room - 1]
    headings = "      PID STATE      WAITING  SINCE HANDLES MEMBERS CLIENTS TOPICS HELD  COMMAND"
    lines += [_line([(headings, "reverse")], width), *(_process(row, width) for row in shown)]
    if len(shown) < len(processes):
        lines.append(_line([(f"  … and {len(processes) - len(shown)} more processes", "dim")], width))
    channels = view.shown()
    room = max(1, height - len(lines) - 2)
    view.scroll = max(0, min(view.scroll, len(channels) - room))
    lines.append(_headings(view, width))
    lines += [_channel(channel, width) for channel in channels[view.scroll : view.scroll + room]]
    lines += [_line([], width)] * (height - 1 - len(lines))
    if view.typing:
        foot = [("filter: ", "bold"), (view.wanted, "bold"), ("▏", ""), ("  Enter keeps it, Esc shows all", "dim")]
    else:
        wanted = f"  filter: {plain(view.wanted)}" if view.wanted else ""
        foot = [(_HELP, "dim"), (wanted, "bold"), (f"  {len(channels)} channels", ""), (f"  {view.interval:g} s", "")]
    return [*lines[: height - 1], _line(foot, width)]


@contextmanager
def _keyboard() -> Iterator[int | None]:
    """The keyboard, each key at once and none shown; None: the input is no terminal."""
    if not sys.stdin.isatty():
        yield None
        return
    number = sys.stdin.fileno()
    before = termios.tcgetattr(number)
    try:
        tty.setcbreak(number)
        yield number
    finally:
        termios.tcsetattr(number, termios.TCSADRAIN, before)


def _pressed(keyboard: int | None, seconds: float) -> list[str]:
    """Keys pressed within so long."""
    if keyboard is None:
        time.sleep(seconds)
        return []
    if not select.select([keyboard], [], [], seconds)[0]:
        return []
    text = os.read(keyboard, 256).decode(errors="replace")
    if not text:
        return ["q"]  # the terminal is gone
    keys = []
    while text:
        if text[0] == "\x1b":
            found = next((code for code in _KEYS if text.startswith(code, 1)), None)
            keys.append(_KEYS[found] if found else "escape")
            # What follows an escape that is none of these is a key's code, too.
            text = text[1 + len(found) :] if found else ""
        else:
            keys.append(text[0])
            text = text[1:]
    return keys


def _again(inspector: Inspector) -> Inspector:
    """The segment that the name leads to now, if it is another one; else the one there was."""
    if inspector.is_current():
        return inspector
    try:
        return Inspector(inspector.name)
    except SegmentError:
        return inspector


def show(inspector: Inspector, interval: float, count: int | None, wanted: str) -> None:
    """Shows the view until it is quit, or has looked ``count`` times."""
    console = Console()
    view = View(interval, wanted)
    looks, next_look, drawn = 0, 0.0, os.terminal_size((0, 0))
    with _keyboard() as keyboard, Live(console=console, screen=True, auto_refresh=False) as live:
        while True:
            now = time.monotonic()
            changed = False
            if now >= next_look and not (view.paused and view.now is not None):
                inspector = _again(inspector)
                view.take(inspector.snapshot())
                next_look, changed = now + view.interval, True
                looks += 1
            # Asked of the terminal: rich would believe COLUMNS and LINES, which do not follow a resize.
            there = os.get_terminal_size(sys.stdout.fileno())
            if changed or drawn != there:
                console.size, drawn = ConsoleDimensions(*there), there
                live.update(Group(*frame(view, *drawn)), refresh=True)
            if count is not None and looks >= count:
                return
            keys = _pressed(keyboard, max(0.0, min(STEP, next_look - time.monotonic())) or STEP)
            for key in keys:
                if not view.key(key):
                    return
            if keys:
                next_look = min(next_look, time.monotonic() + view.interval)
                live.update(Group(*frame(view, *drawn)), refresh=True)
