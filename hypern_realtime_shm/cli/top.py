"""A live view in the terminal: top."""

from __future__ import annotations

import json
import sys
import time

import click

from hypern_realtime_shm.inspect import Inspector

from ._common import name_argument


@click.command(short_help="A live view: rates, lag, memory, processes.")
@name_argument
@click.option("--interval", type=click.FloatRange(min=0.1), default=1.0, show_default=True, help="Seconds.")
@click.option("--count", type=click.IntRange(min=1), metavar="N", help="End after N looks.")
@click.option("--filter", "wanted", default="", metavar="TEXT", help="Only channels whose names contain it.")
@click.option("--json", "as_json", is_flag=True, help="One look a line, as docs/schema describes it.")
def top(name: str, interval: float, count: int | None, wanted: str, as_json: bool) -> None:
    """What a segment does right now: messages a second, channels by traffic, lag, memory by use, processes.

    \b
    s  next column to sort by     r  the other way round     /  filter by name (Esc: all)
    ↑ ↓ PgUp PgDn  scroll         p  pause                   + -  slower, faster         q  quit

    It looks from outside, once an interval, and costs the server nothing but the memory bandwidth of that look.
    """
    inspector = Inspector(name)
    if as_json:
        looks = 0
        while count is None or looks < count:
            if looks:
                time.sleep(interval)
            click.echo(json.dumps(inspector.snapshot(), ensure_ascii=False))
            sys.stdout.flush()
            looks += 1
        return
    if not sys.stdout.isatty():
        raise click.UsageError("top needs a terminal; --json is for programs")
    try:
        from ._screen import show
    except ModuleNotFoundError as error:
        raise click.UsageError(
            f"top needs {error.name}: pip install 'hypern-realtime-shm[inspector]' brings it; --json works without"
        ) from None
    show(inspector, interval, count, wanted)


def register(group: click.Group) -> None:
    """Adds the verb."""
    group.add_command(top)
