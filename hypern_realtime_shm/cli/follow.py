"""Verbs on messages: tail, publish."""

from __future__ import annotations

import base64
import json
import sys

import click

from hypern_realtime_shm.broadcast import RealtimeBroadcast
from hypern_realtime_shm.channels import ChannelManager
from hypern_realtime_shm.errors import UnknownChannel
from hypern_realtime_shm.inspect import Inspector, Kind, MessageRow
from hypern_realtime_shm.segment import Segment

from ._answers import Published
from ._common import (
    broadcast_option,
    channel_argument,
    complete_channels,
    json_option,
    kind_of,
    name_argument,
    namespace_option,
    plain,
    show_json,
)


def _show(message: MessageRow | int, as_json: bool) -> None:
    if isinstance(message, int):
        if as_json:
            click.echo(json.dumps({"missed": message}))
        else:
            click.echo(f"… {message} missed: overwritten before they could be shown", err=True)
    elif as_json:
        click.echo(json.dumps(message, ensure_ascii=False))
    else:
        data = plain(message["text"]) if message["text"] is not None else f"base64:{message['base64']}"
        click.echo(
            f"{click.style(message['id'], dim=True)}  {click.style(plain(message['channel']), bold=True)}  {data}"
        )


@click.command(short_help="Messages of a channel as they come.")
@name_argument
@click.argument("pattern", shell_complete=complete_channels)
@namespace_option
@broadcast_option
@click.option("--last", type=click.IntRange(min=0), default=0, metavar="N", help="Begin with the last N messages.")
@click.option("--since", metavar="ID", help="Begin after this event id.")
@click.option("--count", type=click.IntRange(min=1), metavar="N", help="End after N messages.")
@click.option("--no-follow", is_flag=True, help="End once what is there is shown.")
@click.option("--interval", type=click.FloatRange(min=0.001), default=0.05, show_default=True, help="Seconds.")
@json_option
def tail(
    name: str,
    pattern: str,
    namespace: str,
    broadcast: bool,
    last: int,
    since: str | None,
    count: int | None,
    no_follow: bool,
    interval: float,
    as_json: bool,
) -> None:
    """Messages of a channel, or of all that match PATTERN (chat:*, events:#), as they come.

    It looks every --interval seconds, from outside: publishers do not count it, and nobody waits for it. What is
    overwritten between two looks is missed, and said. With --json each line is an object: a message, or {"missed": N}.
    """
    inspector = Inspector(name)
    kind = kind_of(broadcast)
    shown = inspector.follow(pattern, namespace, kind, after=since, last=last, interval=interval)
    left = sys.maxsize if count is None else count
    for message in shown:
        if message is None:
            sys.stdout.flush()
            if no_follow:
                return
            continue
        _show(message, as_json)
        if not isinstance(message, int):
            left -= 1
            if left == 0:
                return


@click.command(short_help="Publishes a message.")
@name_argument
@channel_argument
@click.argument("message")
@namespace_option
@broadcast_option
@click.option("--pattern", is_flag=True, help="CHANNEL is a topic pattern: to every channel that matches.")
@click.option("--base64", "is_base64", is_flag=True, help="MESSAGE is base64; it is published as bytes.")
@json_option
def publish(
    name: str,
    channel: str,
    message: str,
    namespace: str,
    broadcast: bool,
    pattern: bool,
    is_base64: bool,
    as_json: bool,
) -> None:
    """Publishes MESSAGE on a channel that is there; "-" reads it from the standard input.

    This verb takes part: it attaches for a moment, as one more process.
    """
    text = sys.stdin.read().removesuffix("\n") if message == "-" else message
    try:
        payload: str | bytes = base64.b64decode(text, validate=True) if is_base64 else text
    except ValueError as error:
        raise click.BadParameter(f"it is no base64: {error}", param_hint="MESSAGE") from None
    if pattern and broadcast:
        raise click.UsageError("--pattern is for channels, not for broadcasts")
    kind = kind_of(broadcast)
    # A manager would make the namespace; a typing error must not.
    if not pattern and channel not in Inspector(name).names(namespace, kind):
        raise UnknownChannel(f"{kind.capitalize()} '{channel}' does not exist")
    with Segment.attach(name) as segment:
        receivers = _publish(segment, channel, payload, namespace, kind, pattern)
    answer: Published = {"segment": name, "channel": channel, "receivers": receivers}
    if as_json:
        show_json(answer)
    else:
        click.echo(f"heard by {receivers}")


def _publish(segment: Segment, channel: str, payload: str | bytes, namespace: str, kind: Kind, pattern: bool) -> int:
    if kind == "broadcast":
        return RealtimeBroadcast(segment=segment, namespace=namespace).send(channel, payload)
    manager = ChannelManager(segment=segment, namespace=namespace)
    return manager.publish_to_topic(channel, payload) if pattern else manager.publish(channel, payload)


def register(group: click.Group) -> None:
    """Adds the verbs."""
    group.add_command(tail)
    group.add_command(publish)


__all__ = ["register"]
