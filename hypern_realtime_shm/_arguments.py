"""Arguments that the engine does not see, or knows by another name than the caller.

Promise: what is refused here reads as what the engine refuses: the argument's name, its value or type, what it must
be; and nothing has been done.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any


def wrong_type(name: str, value: object, wanted: str) -> TypeError:
    """The error for an argument of the wrong type; ``wanted`` with its article."""
    return TypeError(f"{name} must be {wanted}, not {type(value).__name__!r}")


def need_callable(name: str, value: object, *, plain: bool = False) -> None:
    """Refuses what cannot be called, and if it must be ``plain``, coroutine functions.

    Raises:
        TypeError: it is one of those.
    """
    if not callable(value):
        raise wrong_type(name, value, "callable")
    if plain and inspect.iscoroutinefunction(value):
        raise TypeError(f"{name} must be a plain function, not a coroutine function")


@contextmanager
def known_as(names: Mapping[str, str]) -> Iterator[None]:
    """What is refused inside under one name is told under another: that of the argument, or of the variable, that the
    value came from. ``names``: the one to the other."""
    try:
        yield
    except UnicodeEncodeError as error:
        what, _, theirs = error.reason.rpartition(" ")
        error.reason = f"{what} {names.get(theirs, theirs)}"
        raise
    except (TypeError, ValueError) as error:
        theirs, _, rest = str(error).partition(" ")
        if theirs in names:
            error.args = (f"{names[theirs]} {rest}",)
        raise


def need_items(name: str, value: Any) -> None:
    """Refuses what has no items, as a dict has.

    Raises:
        TypeError: it has none.
    """
    if not hasattr(value, "items"):
        raise wrong_type(name, value, "a dict")
