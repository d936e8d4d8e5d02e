"""Verbs that look after segments: check, reap, unlink."""

from __future__ import annotations

import click

from hypern_realtime_shm import _engine
from hypern_realtime_shm.errors import SegmentError, SegmentNotFound
from hypern_realtime_shm.inspect import Inspector, segments
from hypern_realtime_shm.segment import Segment

from ._answers import Check, Reaped, Unlinked
from ._common import ExitCode, Fails, json_option, name_argument, plain, show_json


@click.command(short_help="Says what is wrong with a segment.")
@name_argument
@json_option
@click.pass_context
def check(context: click.Context, name: str, as_json: bool) -> None:
    """Walks the whole segment and says what is wrong with it; exit code 1 where something is.

    Nothing is written. On a live segment a finding counts when it lasts over several looks; what a stopped process was
    just changing is listed until it goes on, and a dead one until it is reaped.
    """
    try:
        findings = Inspector(name).check()
    except SegmentNotFound:
        raise
    except SegmentError as error:
        if not as_json:
            raise
        findings = [str(error)]
    if as_json:
        answer: Check = {"segment": name, "sound": not findings, "findings": findings}
        show_json(answer)
    elif findings:
        for finding in findings:
            click.echo(plain(finding))
        click.echo(f"{len(findings)} findings", err=True)
    else:
        click.echo("nothing is wrong")
    context.exit(ExitCode.WRONG if findings else ExitCode.DONE)


@click.command(short_help="Settles dead processes now.")
@name_argument
@json_option
def reap(name: str, as_json: bool) -> None:
    """Settles dead processes now: what each alone had leaves, what it held is given back.

    Workers do this by themselves within a second. This verb attaches for a moment. Where nobody else is attached, that
    alone clears what belongs to connections (members, subscriptions, heartbeats); channels and history stay, unless
    the segment goes with its last process.
    """
    inspector = Inspector(name)
    alone = inspector.alive() == 0
    before = inspector.overview()["totals"]["reaped_total"]
    with Segment.attach(name) as segment:
        segment.reap()
    reaped = inspector.overview()["totals"]["reaped_total"] - before
    if as_json:
        answer: Reaped = {"segment": name, "reaped": reaped, "scavenged": alone}
        show_json(answer)
    else:
        click.echo(f"{reaped} dead processes settled" + ("; nobody else is attached" if alone else ""))


@click.command(short_help="Removes a segment.")
@name_argument
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--force", is_flag=True, help="Also while processes are attached: they go on without its name.")
@json_option
def unlink(name: str, yes: bool, force: bool, as_json: bool) -> None:
    """Removes a segment: asks first, and refuses while processes are attached.

    Whoever is attached goes on with what it has; who comes later makes a new, empty segment. Its memory is freed with
    the last process.
    """
    row = next((row for row in segments() if row["name"] == name and row["layout"] == _engine.LAYOUT_VERSION), None)
    if row is None:
        Inspector(name)  # says that the name is none, or that there is no segment of it
        raise SegmentNotFound(f"no segment is named {name!r}")
    if not force and row["state"] in {"in use", "damaged", "refused"}:
        known = row["processes"] is not None
        who = f"attached processes: {row['processes']}" if known else "who uses it cannot be told"
        raise Fails(f"segment {name!r} is {row['state']}, {who}; --force unlinks it all the same", ExitCode.REFUSED)
    if not yes and not click.confirm(f"Unlink segment {plain(name)!r} ({row['state']})?", err=True):
        raise Fails("not unlinked", ExitCode.REFUSED)
    answer: Unlinked = {"segment": name, "unlinked": _engine.unlink_segment(name)}
    if as_json:
        show_json(answer)
    else:
        click.echo("unlinked" if answer["unlinked"] else "it was gone")


def register(group: click.Group) -> None:
    """Adds the verbs."""
    for verb in (check, reap, unlink):
        group.add_command(verb)
