"""A live view in the browser, and metrics: serve."""

from __future__ import annotations

import secrets
import socket
from urllib.parse import quote

import click

from hypern_realtime_shm.inspect import Inspector

from ._common import name_argument, plain


@click.command(short_help="A live page, /metrics, /healthz.")
@name_argument
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", type=click.IntRange(0, 65535), default=8765, show_default=True, help="0: any that is free.")
@click.option(
    "--token",
    envvar="HYPERN_SHM_TOKEN",
    show_envvar=True,
    help="What visitors must bring. Where others than this machine can ask, one is made and printed if none is given.",
)
@click.option("--allow-host", "hosts", multiple=True, metavar="NAME", help="A name it is asked for under; repeatable.")
@click.option("--interval", type=click.FloatRange(min=0.1), default=1.0, show_default=True, help="Seconds.")
@click.option(
    "--top-channels", type=click.IntRange(min=0), default=0, metavar="N", help="/metrics of the N busiest channels."
)
def serve(
    name: str, host: str, port: int, token: str | None, hosts: tuple[str, ...], interval: float, top_channels: int
) -> None:
    """Serves a page that shows the segment live: throughput, memory, channels, presence, processes, a channel's tail.

    It looks from outside, read-only, and takes no place in the segment. /metrics is for Prometheus (with a token:
    Authorization: Bearer), /healthz says whether the segment can be read. Every user of this machine reaches a page on
    127.0.0.1: give a --token where they should not read messages. It speaks HTTP; for HTTPS put a proxy before it.
    """
    try:
        from hypern_realtime_shm._page.guard import is_loopback
        from hypern_realtime_shm._page.run import run
    except ModuleNotFoundError as error:
        raise click.UsageError(
            f"serve needs {error.name}: pip install 'hypern-realtime-shm[serve]' brings it"
        ) from None
    if token is not None and not (token and token.isascii() and token.isprintable()):
        raise click.BadParameter("it must be printable ASCII, and not empty", param_hint="--token")
    if token is None and not is_loopback(host):
        token = secrets.token_urlsafe(24)
    Inspector(name)  # now: nobody wants to read in a browser that the name is wrong
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, port), family=family) as listening:
        shown = f"[{host}]" if family == socket.AF_INET6 else host
        address = f"http://{shown}:{listening.getsockname()[1]}/"
        click.echo(f"{plain(name)} is shown on {address}{f'?token={quote(token)}' if token else ''}")
        run(
            listening,
            name,
            token=token,
            hosts=(host, *hosts),
            interval=interval,
            top_channels=top_channels,
        )


def register(group: click.Group) -> None:
    """Adds the verb."""
    group.add_command(serve)
