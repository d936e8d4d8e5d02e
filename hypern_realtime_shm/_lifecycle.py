"""A clean exit detaches in order, so that a reload is not taken for a crash.

An interpreter that ends runs ``atexit``. A child that multiprocessing forked does not on every
version: it clears both registries at its start and leaves through ``os._exit`` after its own
finalizers. So one of those is registered, by the only hook that runs after the clearing:
``multiprocessing.util.register_after_fork``.
"""

from __future__ import annotations

import atexit
import os
import sys
from typing import Any

from . import _engine
from ._settings import variable_share

_installed = False


class _Anchor:
    """multiprocessing keeps its hooks weakly, by object."""


_anchor = _Anchor()


def _finalize(_: Any) -> None:
    from multiprocessing.util import Finalize

    Finalize(None, _engine.detach_all, exitpriority=0)


def _tell_multiprocessing() -> None:
    util = sys.modules.get("multiprocessing.util")
    if util is not None:
        util.register_after_fork(_anchor, _finalize)


def install() -> None:
    """Registers the hooks, once."""
    global _installed
    if _installed:
        return
    _installed = True
    share = variable_share("HYPERN_SHM_LAG_WARNING")
    if share is not None:
        _engine.warn_of_lag_above(share)
    # Run in reverse: who has left says so, then nobody logs any more.
    atexit.register(_engine.end_logging)
    atexit.register(_engine.detach_all)
    _tell_multiprocessing()
    # A fork by multiprocessing comes after its import, which may be later than now.
    os.register_at_fork(after_in_child=_tell_multiprocessing)
