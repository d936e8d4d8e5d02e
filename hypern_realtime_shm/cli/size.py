"""How large a segment must be: size."""

from __future__ import annotations

import click

from hypern_realtime_shm import _engine

from ._answers import Size
from ._common import facts, json_option, show_json
from ._common import size as in_words

# Payload bytes of a block of each size, and where a thing goes when its own kind is used up: as the engine does it.
_BLOCKS = (256, 2048, 16384)
_PAYLOAD = (192, 1984, 16320)
_PREFERENCE = ((0, 1, 2), (1, 2, 0), (2, 1, 0))
# Small blocks that each takes, with its share of the pages over it.
_PER_MEMBER, _PER_CLIENT, _PER_SUBSCRIBER, _PER_CHANNEL = 3, 2, 3, 2
# More than was asked for: pages that are being replaced, messages that are being written, growth.
_HEADROOM = 1.25
_SMALLEST, _LARGEST = 256 << 10, 64 << 30


def _blocks_of(payload: int) -> tuple[int, int]:
    """Which blocks hold so many bytes, and how many of them."""
    for kind, most in enumerate(_PAYLOAD):
        if payload <= most:
            return kind, 1
    return 2, -(-payload // _PAYLOAD[2])


def _fits(needed: list[int], there: list[int]) -> bool:
    """Do they find room, each in its own kind of block or in the next that the engine tries?"""
    left = list(there)
    for kind, count in enumerate(needed):
        for other in _PREFERENCE[kind]:
            # A larger thing in smaller blocks takes several, which a message can and a record mostly need not.
            each = 1 if other >= kind else -(-_PAYLOAD[kind] // _PAYLOAD[other])
            taken = min(count, left[other] // each)
            left[other] -= taken * each
            count -= taken
        if count:
            return False
    return True


def plan(
    channels: int,
    buffer: int,
    message_bytes: int,
    members: int,
    clients: int,
    subscribers: int,
    processes: int,
    waiters: int | None,
) -> Size:
    """The smallest sound size for so much, to the next 64 KiB, with a quarter to spare.

    Raises:
        ValueError: more than any segment holds.
    """
    slots = channels * max(16, 1 << (buffer - 1).bit_length())
    if slots >= 1 << 30:
        raise ValueError(
            f"{channels} channels of {buffer} messages are {slots} slots of rings; they must be below 2^30"
        )
    needed = [0.0, 0.0, 0.0]
    kind, blocks = _blocks_of(message_bytes)
    needed[kind] += channels * buffer * blocks
    needed[0] += members * _PER_MEMBER + clients * _PER_CLIENT
    needed[0] += subscribers * _PER_SUBSCRIBER + channels * _PER_CHANNEL
    wanted = [int(count * _HEADROOM) + 64 for count in needed]
    settings = {"max_processes": processes, "channels": channels, "ring_slots": slots, "waiters": waiters}

    def divided(size: int) -> tuple[int, int, int, int, int, list[int]] | None:
        try:
            return _engine.divide(size=size, **settings)  # type: ignore[arg-type]
        except ValueError:  # too small for its fixed parts
            return None

    def holds(size: int) -> bool:
        found = divided(size)
        return found is not None and _fits(wanted, found[5])

    step = 64 << 10
    low, high = _SMALLEST // step, _LARGEST // step
    if not holds(high * step):
        # What the engine says about the largest tells which of the numbers is beyond all bounds.
        _engine.divide(size=_LARGEST, **settings)  # type: ignore[arg-type]
        raise ValueError("this is more than the largest segment, 64 GiB, holds")
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(middle * step) else (middle + 1, high)
    bytes_ = low * step
    found = divided(bytes_)
    assert found is not None, "it holds"
    variables = {
        "HYPERN_SHM_SIZE": str(bytes_),
        "HYPERN_SHM_MAX_PROCESSES": str(processes),
        "HYPERN_SHM_CHANNELS": str(channels),
        "HYPERN_SHM_RING_SLOTS": str(slots),
    }
    if waiters is not None:
        variables["HYPERN_SHM_WAITERS"] = str(waiters)
    there = found[5]
    return {
        "size": bytes_,
        "settings": variables,
        "blocks_needed": {str(size): int(count) for size, count in zip(_BLOCKS, needed, strict=True)},
        "blocks": {str(size): count for size, count in zip(_BLOCKS, there, strict=True)},
        "fixed": bytes_ - sum(size * count for size, count in zip(_BLOCKS, there, strict=True)),
    }


@click.command(short_help="How large must a segment be?")
@click.option("--channels", type=click.IntRange(1, 1 << 22), default=100, show_default=True, help="At once.")
@click.option("--messages", type=click.IntRange(1, 1 << 20), default=256, show_default=True, help="Kept per channel.")
@click.option("--message-bytes", type=click.IntRange(0, 1 << 30), default=150, show_default=True, help="Of a message.")
@click.option("--members", type=click.IntRange(0, 1 << 26), default=1000, show_default=True, help="In all channels.")
@click.option("--clients", type=click.IntRange(0, 1 << 26), default=1000, show_default=True, help="With heartbeats.")
@click.option("--subscribers", type=click.IntRange(0, 1 << 26), default=1000, show_default=True, help="Open handles.")
@click.option("--processes", type=click.IntRange(1, 4095), default=128, show_default=True, help="Attached at once.")
@click.option("--waiters", type=click.IntRange(1, 1 << 14), help="Event loops and threads; else it follows from size.")
@json_option
def size(
    channels: int,
    messages: int,
    message_bytes: int,
    members: int,
    clients: int,
    subscribers: int,
    processes: int,
    waiters: int | None,
    as_json: bool,
) -> None:
    """How large a segment must be for so many channels, messages, members and clients.

    A quarter more than asked for is added. All of it is reserved when the segment is made, so /dev/shm must have it.
    """
    answer = plan(channels, messages, message_bytes, members, clients, subscribers, processes, waiters)
    if as_json:
        show_json(answer)
        return
    facts(
        [
            ("size", f"{in_words(answer['size'])} ({answer['size']} bytes)"),
            ("of it fixed", f"{in_words(answer['fixed'])}: header, processes, channels, rings"),
            *(
                (f"blocks of {bytes_}", f"{answer['blocks_needed'][bytes_]} needed, {there} there")
                for bytes_, there in answer["blocks"].items()
            ),
        ]
    )
    click.echo()
    for variable, value in answer["settings"].items():
        click.echo(f"{variable}={value}")


def register(group: click.Group) -> None:
    """Adds the verb."""
    group.add_command(size)
