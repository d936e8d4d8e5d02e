"""Verbs that look: ls, inspect, channels, channel, presence, clients, topics, processes."""

from __future__ import annotations

from datetime import datetime

import click

from hypern_realtime_shm.inspect import Inspector, Overview, segments

from ._common import (
    broadcast_option,
    channel_argument,
    every_namespace_option,
    facts,
    json_option,
    kind_of,
    name_argument,
    namespace_option,
    namespaced,
    owners,
    percent,
    plain,
    show_json,
    show_problems,
    size,
    span,
    table,
)


def when(seconds: float | None) -> str:
    """A moment, in local time."""
    return "-" if seconds is None else datetime.fromtimestamp(seconds).strftime("%Y-%m-%d %H:%M:%S")


def _pairs(metadata: dict[str, str]) -> str:
    return " ".join(f"{plain(key)}={plain(value)}" for key, value in metadata.items())


@click.command("ls", short_help="Segments of this user: use, size, age.")
@json_option
def list_segments(as_json: bool) -> None:
    """The segments of this user on this machine.

    in use: somebody alive is attached. abandoned: nobody is; it stays until it is used again or unlinked. unfinished:
    its creator is at work, or died. Of other layout versions only file and use can be told.
    """
    rows = segments()
    if as_json:
        show_json({"segments": rows})
        return
    if not rows:
        click.echo("no segments", err=True)
        return
    shown = [
        (
            plain(row["name"]),
            f"v{row['layout']}",
            size(row["size"]),
            "-" if row["processes"] is None else row["processes"],
            span(row["age_seconds"]),
            row["state"] + (f": {plain(row['problem'])}" if row["problem"] else ""),
        )
        for row in rows
    ]
    table(("name", "layout", "size", "processes", "age", "state"), shown, right="size processes age")


@click.command(short_help="A segment at a glance: what, how full.")
@name_argument
@json_option
def inspect(name: str, as_json: bool) -> None:
    """A segment at a glance: what is in it, how full it is, who keeps it."""
    overview = Inspector(name).overview()
    if as_json:
        show_json(overview)
        return
    _show_overview(overview)
    show_problems(overview["problems"])


def _show_overview(seen: Overview) -> None:
    totals, memory, keeper = seen["totals"], seen["memory"], seen["keeper"]
    owner = keeper["owner"]
    kept = "nobody yet" if owner is None else f"{owners([owner])}, {span(keeper['beat_age_seconds'])} ago"
    facts(
        [
            ("segment", plain(seen["name"]) + ("" if seen["current"] else "  (unlinked; whoever is attached goes on)")),
            ("size", f"{size(seen['size'])}, layout {seen['layout']}, created {when(seen['created_at'])}"),
            ("goes with its last process", "yes" if seen["unlink_when_unused"] else "no"),
            ("processes", f"{seen['processes']} alive; ever: {totals['attached_total']}"),
            ("reaped", f"{totals['reaped_total']} dead processes; keeper: {kept}"),
            ("channels", f"{totals['channels']}, broadcasts {totals['broadcasts']}, removed {totals['retired']}"),
            ("handles", f"{totals['handles']}, registered subscribers {totals['subscribers']}"),
            (
                "members",
                f"{totals['members']}, heartbeat clients {totals['clients']}, topic patterns {totals['topics']}",
            ),
            ("published", f"{totals['published_total']}, missed {totals['missed_total']}"),
            ("given up", f"{totals['evicted_total']} messages because the arena was full"),
        ]
    )
    click.echo()
    rows = [
        (each["what"], each["used"], each["capacity"], percent(each["used"], each["capacity"]), each["setting"])
        for each in seen["capacities"]
    ]
    table(("what", "used", "of", "full", "raised by"), rows, right="used of full")
    click.echo()
    parts = [(what, memory[what]) for what in ("messages", "records", "pages", "continued", "held", "free")]
    table(
        ("memory", "bytes", "of all"),
        [(what, size(count), percent(count, memory["total"])) for what, count in parts],
        right="bytes",
    )
    if len(seen["namespaces"]) > 1:
        click.echo()
        counts = ("channels", "broadcasts", "groups", "clients", "topics")
        table(
            ("namespace", *counts),
            [
                (
                    plain(each["namespace"]) or "(none)",
                    each["channels"],
                    each["broadcasts"],
                    each["groups"],
                    each["clients"],
                    each["topics"],
                )
                for each in seen["namespaces"]
            ],
            right=" ".join(counts),
        )


@click.command(short_help="Channels: buffer, subscribers, lag.")
@name_argument
@every_namespace_option
@json_option
def channels(name: str, namespace: str | None, as_json: bool) -> None:
    """Channels and broadcasts: buffer, messages, subscribers, the largest lag."""
    seen = Inspector(name).channels(namespace)
    if as_json:
        show_json(seen)
        return
    rows = [
        (
            namespaced(row["namespace"], row["name"]),
            row["kind"] if row["state"] == "open" else f"{row['kind']}, {row['state']}",
            row["published"],
            f"{row['retained']}/{row['buffer_size']}",
            row["subscribers"],
            row["handles"],
            "-" if row["max_lag"] is None else row["max_lag"],
            row["missed"],
        )
        for row in seen["channels"]
    ]
    headings = ("channel", "kind", "published", "retained", "subscribers", "handles", "lag", "missed")
    table(headings, rows, right="published retained subscribers handles lag missed")
    show_problems(seen["problems"])


@click.command(short_help="One channel: subscribers, lag of each.")
@name_argument
@channel_argument
@namespace_option
@broadcast_option
@json_option
def channel(name: str, channel: str, namespace: str, broadcast: bool, as_json: bool) -> None:
    """One channel: what it retains, who subscribed on which worker, and how far behind each handle is.

    A busy handle shows how far it is only now and then; its lag may be shown too large by as many messages as is said.
    """
    seen = Inspector(name).channel(channel, namespace, kind_of(broadcast))
    if as_json:
        show_json(seen)
        return
    row = seen["channel"]
    facts(
        [
            (row["kind"], namespaced(row["namespace"], row["name"])),
            ("published", f"{row['published']}, missed {row['missed']}, refused {row['refused']}"),
            ("retained", f"{seen['retained_messages']} of {row['buffer_size']}, {size(seen['retained_bytes'])}"),
            ("range", f"{row['oldest_id'] or '-'} … {row['newest_id']}"),
            ("duplicates", f"{row['deduplicated']} skipped, window {row['dedup_window']}"),
            ("when nobody listens", "a send fails" if row["fail_when_unheard"] else "a send counts as missed"),
            ("metadata", _pairs(row["metadata"]) or "-"),
        ]
    )
    click.echo()
    table(
        ("subscriber", "workers"),
        [(plain(each["client"]), owners(each["owners"])) for each in seen["subscribers"]],
    )
    click.echo()
    rows = [
        (
            plain(each["client"]) or "(broadcast)",
            owners([each["owner"]]),
            "-" if each["lag"] is None else each["lag"],
            each["lost"],
            each["position_id"] or "-",
            each["state"] + (", by pattern" if each["by_pattern"] else ""),
        )
        for each in seen["handles"]
    ]
    table(("handle", "worker", "lag", "lost", "received up to", "state"), rows, right="lag lost")
    if rows and seen["lag_precision"]:
        click.echo(f"\nA lag may be shown up to {seen['lag_precision']} messages too large.")
    show_problems(seen["problems"])


@click.command(short_help="Who is present, in one channel or all.")
@name_argument
@click.argument("channel", required=False)
@every_namespace_option
@click.option("--limit", type=click.IntRange(min=0), default=1000, show_default=True, help="Members shown at most.")
@json_option
def presence(name: str, channel: str | None, namespace: str | None, limit: int, as_json: bool) -> None:
    """Who is present: how many in each channel, or everybody in one CHANNEL."""
    seen = Inspector(name).members(channel, namespace, limit if channel is not None else 0)
    if as_json:
        show_json(seen)
        return
    if channel is None:
        rows = [(namespaced(each["namespace"], each["channel"]), each["members"]) for each in seen["groups"]]
        table(("channel", "members"), rows, right="members")
    else:
        shown = [
            (
                namespaced(each["namespace"], each["client"]),
                owners(each["owners"]),
                when(each["joined_at"]),
                when(each["last_seen"]),
                _pairs(each["metadata"]),
            )
            for each in seen["members"]
        ]
        table(("client", "workers", "joined", "last seen", "metadata"), shown)
        left = sum(each["members"] for each in seen["groups"]) - len(shown)
        if left > 0:
            click.echo(f"… and {left} more (--limit)", err=True)
    show_problems(seen["problems"])


@click.command(short_help="Heartbeats: alive, due, late, dead.")
@name_argument
@every_namespace_option
@click.option("--interval", type=float, default=30.0, show_default=True, help="Seconds between pings.")
@click.option("--timeout", type=float, default=90.0, show_default=True, help="Seconds without a pong until late.")
@click.option("--retries", type=click.IntRange(min=0), default=5, show_default=True, help="Timeouts until dead.")
@json_option
def clients(name: str, namespace: str | None, interval: float, timeout: float, retries: int, as_json: bool) -> None:
    """Heartbeat clients: alive, due, late or dead, the longest silent first.

    The configuration of heartbeats belongs to the application and is not in the segment: give what yours has.
    """
    seen = Inspector(name).clients(namespace, interval_secs=interval, timeout_secs=timeout, max_retries=retries)
    if as_json:
        show_json(seen)
        return
    rows = [
        (
            namespaced(each["namespace"], each["client"]),
            each["state"],
            span(each["last_pong_ago"]),
            span(each["last_ping_ago"]),
            each["timeouts"],
            owners(each["owners"]),
            plain(each["last_event_id"]),
        )
        for each in seen["clients"]
    ]
    table(("client", "state", "pong", "ping", "timeouts", "workers", "last event"), rows, right="pong ping timeouts")
    show_problems(seen["problems"])


@click.command(short_help="Topic patterns and their subscribers.")
@name_argument
@every_namespace_option
@json_option
def topics(name: str, namespace: str | None, as_json: bool) -> None:
    """Topic patterns, and who subscribed to them."""
    seen = Inspector(name).topics(namespace)
    if as_json:
        show_json(seen)
        return
    rows = [
        (namespaced(each["namespace"], each["pattern"]), each["of"], plain(each["client"]), owners(each["owners"]))
        for each in seen["topics"]
    ]
    table(("pattern", "of", "client", "workers"), rows)
    show_problems(seen["problems"])


@click.command(short_help="Who is attached, and what each holds.")
@name_argument
@json_option
def processes(name: str, as_json: bool) -> None:
    """Who is attached: alive, stopped or dead, asleep or awake, and what each holds."""
    seen = Inspector(name).processes()
    if as_json:
        show_json(seen)
        return
    rows = []
    for each in seen["processes"]:
        holds = each["holds"]
        rows.append(
            (
                each["slot"],
                each["pid"],
                each["state"] + (", keeper" if each["keeper"] else ""),
                each["waiting"] or "-",
                span(each["attached_seconds"]),
                holds["handles"],
                holds["subscriptions"],
                holds["members"],
                holds["clients"],
                holds["topics"],
                holds["blocks"],
                plain(each["command"])[:40],
            )
        )
    numbers = ("handles", "subs", "members", "clients", "topics", "blocks")
    headings = ("slot", "pid", "state", "waiting", "since", *numbers, "command")
    table(headings, rows, right=f"slot pid since {' '.join(numbers)}")
    if seen["ownerless_members"] or seen["ownerless_clients"]:
        left = f"{seen['ownerless_members']} members and {seen['ownerless_clients']} clients"
        click.echo(f"\nof nobody: {left}, whose processes left in order")
    show_problems(seen["problems"])


def register(group: click.Group) -> None:
    """Adds the verbs."""
    for verb in (list_segments, inspect, channels, channel, presence, clients, topics, processes):
        group.add_command(verb)
