"""Settings from the environment: argument, then variable, then default.

Promise: a value that makes no sense is a ``ValueError`` that names the argument or variable and the
value.
"""

from __future__ import annotations

import math
import os
import re
import reprlib

from ._arguments import wrong_type

_told = reprlib.repr  # long values are cut in the middle
_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "K": 2**10, "M": 2**20, "G": 2**30}
_UNITS |= {"KIB": 2**10, "MIB": 2**20, "GIB": 2**30}
_SIZE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*")
_TRUE = {"1", "true", "yes", "on"}
_FALSE = {"", "0", "false", "no", "off"}


def parse_size(size: int | str, name: str = "size") -> int:
    """Bytes out of ``33554432``, ``"32MiB"``, ``"64MB"`` or ``"1GiB"``. How many there may be, the engine knows.

    Raises:
        ValueError: it is no size.
        TypeError: it is neither int nor str.
    """
    if isinstance(size, int):
        return size
    if not isinstance(size, str):
        raise wrong_type(name, size, "an int or a str")
    found = _SIZE.fullmatch(size)
    unit = _UNITS.get(found.group(2).upper()) if found else None
    if found is None or unit is None:
        raise ValueError(
            f"{name} is {_told(size)}; it must be a number of bytes, or one with KiB, MiB, GiB, KB, MB or GB"
        )
    bytes_ = float(found.group(1)) * unit
    if math.isinf(bytes_):
        raise ValueError(f"{name} is {_told(size)}; it must be a number of bytes that a float holds")
    return int(bytes_)


def variable_size(variable: str) -> int | None:
    """A size from a variable; None where it is not set."""
    value = os.environ.get(variable)
    return None if not value else parse_size(value, variable)


def variable_int(variable: str) -> int | None:
    """A whole number from a variable; None where it is not set."""
    value = os.environ.get(variable)
    if not value:
        return None
    try:
        return int(value)
    except ValueError:
        raise ValueError(f"{variable} is {_told(value)}; it must be a whole number") from None


def variable_share(variable: str) -> float | None:
    """A share between 0 and 1 from a variable; None where it is not set."""
    value = os.environ.get(variable)
    if not value:
        return None
    try:
        share = float(value)
    except ValueError:
        share = math.nan
    if not 0.0 <= share <= 1.0:
        raise ValueError(f"{variable} is {_told(value)}; it must be a number between 0 and 1")
    return share


def variable_bool(variable: str) -> bool | None:
    """Yes or no from a variable; None where it is not set."""
    value = os.environ.get(variable)
    if value is None:
        return None
    if value.strip().lower() in _TRUE:
        return True
    if value.strip().lower() in _FALSE:
        return False
    raise ValueError(f"{variable} is {_told(value)}; it must be 1 or 0")
