"""What the verbs share: exit codes, options, completion, and how text, numbers and tables are shown."""

from __future__ import annotations

import json
import sys
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from enum import IntEnum
from typing import Any, TypeVar

import click
from click.shell_completion import CompletionItem

from hypern_realtime_shm.errors import (
    NoSubscribers,
    SegmentCorrupt,
    SegmentNotFound,
    SegmentRefused,
    SegmentVersionMismatch,
    UnknownChannel,
)
from hypern_realtime_shm.inspect import Inspector, Kind, Owner, segments

F = TypeVar("F", bound=Callable[..., Any])


class ExitCode(IntEnum):
    """See the package's documentation."""

    DONE = 0
    WRONG = 1
    USAGE = 2
    NOT_FOUND = 3
    REFUSED = 4
    DAMAGED = 5
    SYSTEM = 6
    INTERRUPTED = 130
    CLOSED = 141


# The first that fits counts: more special ones come first.
_CODES: tuple[tuple[type[Exception], ExitCode], ...] = (
    (SegmentNotFound, ExitCode.NOT_FOUND),
    (UnknownChannel, ExitCode.NOT_FOUND),
    (SegmentRefused, ExitCode.REFUSED),
    (SegmentVersionMismatch, ExitCode.REFUSED),
    (NoSubscribers, ExitCode.REFUSED),
    (SegmentCorrupt, ExitCode.DAMAGED),
    (MemoryError, ExitCode.SYSTEM),
    (OSError, ExitCode.SYSTEM),
    (ValueError, ExitCode.USAGE),
)


def explain(error: Exception) -> tuple[str, ExitCode] | None:
    """What to say and how to end; None: nobody's mistake but ours."""
    for kind, code in _CODES:
        if isinstance(error, kind):
            # A KeyError shows its message quoted, an OSError behind its number.
            text = error.args[0] if isinstance(error, KeyError) else getattr(error, "strerror", None)
            return str(text or error), code
    return None


class Fails(click.ClickException):
    """Ends a verb with a message and a code."""

    def __init__(self, message: str, code: ExitCode) -> None:
        super().__init__(message)
        self.code = code


# ---- arguments and options


def complete_segments(_context: click.Context, _parameter: click.Parameter, typed: str) -> list[CompletionItem]:
    """Names of segments that begin so."""
    return [CompletionItem(row["name"], help=row["state"]) for row in segments() if row["name"].startswith(typed)]


def complete_channels(context: click.Context, _parameter: click.Parameter, typed: str) -> list[CompletionItem]:
    """Names of channels of the segment named before."""
    name = context.params.get("name")
    if not name:
        return []
    kind: Kind = "broadcast" if context.params.get("broadcast") else "channel"
    names = Inspector(name).names(context.params.get("namespace") or "", kind)
    return [CompletionItem(each) for each in names if each.startswith(typed)]


name_argument = click.argument("name", envvar="HYPERN_SHM_NAME", shell_complete=complete_segments)
channel_argument = click.argument("channel", shell_complete=complete_channels)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON, as docs/schema describes it.")
every_namespace_option = click.option("--namespace", metavar="NS", help="Only this namespace; else all.")
namespace_option = click.option(
    "--namespace", metavar="NS", default="", help="The namespace; else the one used when none is named."
)
broadcast_option = click.option("--broadcast", is_flag=True, help="A broadcast, not a channel.")


def kind_of(broadcast: bool) -> Kind:
    """What --broadcast chooses."""
    return "broadcast" if broadcast else "channel"


# ---- output


def show_json(value: Any) -> None:
    """One object, on one line where it is piped."""
    indent = 2 if sys.stdout.isatty() else None
    click.echo(json.dumps(value, ensure_ascii=False, indent=indent))


def show_problems(problems: Sequence[str]) -> None:
    """What could not be read, on the error output."""
    for problem in problems:
        click.echo(f"could not be read: {plain(problem)}", err=True)


def plain(text: str | None) -> str:
    """Text that others chose, safe for a terminal: what is not printable is shown escaped."""
    if text is None:
        return "-"
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in text)


def width(text: str) -> int:
    """Columns that a terminal gives it."""
    wide = sum(unicodedata.east_asian_width(each) in "WF" for each in text)
    return len(text) + wide - sum(unicodedata.combining(each) > 0 for each in text)


def size(count: float | None) -> str:
    """Bytes, short."""
    if count is None:
        return "-"
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024 or unit == "GiB":
            return f"{count:.0f} {unit}" if unit == "B" or count >= 100 else f"{count:.3g} {unit}"
        count /= 1024
    raise AssertionError("the last unit takes all")


def span(seconds: float | None) -> str:
    """A duration, short."""
    if seconds is None:
        return "-"
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    for unit, length in (("min", 60.0), ("h", 3600.0), ("d", 86400.0)):
        if seconds < length * (60 if unit == "min" else 48) or unit == "d":
            return f"{seconds / length:.0f} {unit}"
    raise AssertionError("the last unit takes all")


def percent(used: int, capacity: int) -> str:
    """How full, in whole percent."""
    return "-" if capacity == 0 else f"{100 * used / capacity:.0f} %"


def owners(row: Sequence[Owner]) -> str:
    """The processes that own something, by pid."""
    return ", ".join(str(owner["pid"]) if owner["pid"] is not None else "gone" for owner in row) or "nobody"


def namespaced(namespace: str | None, name: str | None) -> str:
    """A name, with its namespace where it has one."""
    shown = plain(name) if name is not None else "(no name)"
    return f"{plain(namespace)}/{shown}" if namespace else shown


def table(headings: Sequence[str], rows: Iterable[Sequence[object]], right: str = "") -> None:
    """Columns under headings; ``right``: the headings, by their first words, of numbers."""
    numbers = {index for index, heading in enumerate(headings) if heading in right.split()}
    lines = [[str(cell) for cell in row] for row in rows]
    widths = [max(map(width, column)) for column in zip(headings, *lines, strict=True)]

    def line(cells: Sequence[str]) -> str:
        padded = (
            " " * (wide - width(cell)) + cell if index in numbers else cell + " " * (wide - width(cell))
            for index, (cell, wide) in enumerate(zip(cells, widths, strict=True))
        )
        return "  ".join(padded).rstrip()

    click.echo(click.style(line([heading.upper() for heading in headings]), bold=True))
    for cells in lines:
        click.echo(line(cells))


def facts(rows: Iterable[tuple[str, object]]) -> None:
    """Names and values, one a line."""
    lines = [(name, str(value)) for name, value in rows]
    wide = max((len(name) for name, _ in lines), default=0)
    for name, value in lines:
        click.echo(f"{name:<{wide}}  {value}")
