"""``hypern-shm``: see inside segments, and look after them, from a shell.

One module here is one group of verbs; it has a function ``register(group)`` that adds them, and is found by being
here. A module whose name begins with an underscore is not asked. What a verb alone needs it imports when it runs, so
that the others start quickly.

Exit codes, the same for every verb::

    0    done; check and doctor: nothing is wrong
    1    check and doctor: something is wrong
    2    wrong usage: an option, an argument, a value out of its bounds
    3    no such segment, channel or client
    4    refused: another user's, another version's, still in use, or the question was answered with no
    5    damaged, so that it cannot be looked into or used
    6    the system says no: no room, no permission, a part of the segment is full
    130  ended by Ctrl+C
    141  whoever read the output has closed it
"""

from __future__ import annotations

import os
import pkgutil
import sys
from importlib import import_module
from typing import Any

import click

from hypern_realtime_shm import __version__

from ._common import ExitCode, Fails, explain


class _Closed(Exception):
    """Whoever read the output has closed it. No OSError: click would end with 1, as if something were wrong."""


class _Group(click.Group):
    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            raise _Closed from None


@click.group(
    cls=_Group,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Exit codes: 0 done, 1 something is wrong, 2 wrong usage, 3 not found, 4 refused, 5 damaged, 6 the system "
    "says no. HYPERN_SHM_NAME names the segment where one NAME is wanted and none is given.",
)
@click.version_option(__version__, prog_name="hypern-shm")
def group() -> None:
    """See inside the shared-memory segments of hypern_realtime_shm, and look after them.

    Verbs that only look map the segment read-only: they take no place in it and cannot disturb a server, however busy
    it is. With --json each prints one object that docs/schema describes.
    """


for _module in sorted(module.name for module in pkgutil.iter_modules(__path__)):
    if not _module.startswith("_"):
        import_module(f"{__name__}.{_module}").register(group)


def main(arguments: list[str] | None = None) -> None:
    """Runs the command line and ends the process with its exit code; a user's mistake is one line, no traceback."""
    try:
        code = group.main(arguments, prog_name="hypern-shm", standalone_mode=False)
        sys.stdout.flush()
    except (BrokenPipeError, _Closed):
        # Nobody reads any more: what is still buffered goes nowhere, quietly.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(ExitCode.CLOSED)
    except click.exceptions.Abort:
        click.echo(err=True)
        sys.exit(ExitCode.INTERRUPTED)
    except click.ClickException as error:
        error.show()
        sys.exit(error.code if isinstance(error, Fails) else error.exit_code)
    except Exception as error:
        if (known := explain(error)) is None:
            raise
        text, code = known
        click.echo(f"Error: {text}", err=True)
        sys.exit(code)
    sys.exit(code if isinstance(code, int) else 0)


__all__ = ["group", "main"]
