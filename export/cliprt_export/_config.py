"""Values of a configuration, of the type and in the range that they must have.

Each raises a ValueError that names the key; the reader adds which checkpoint it is about.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

# Beyond every tensor that there is, and small enough for products of a few such numbers.
_LARGEST = 2**31 - 1


def whole(section: Mapping[str, Any], key: str, *, low: int = 1) -> int:
    """A whole number of at least low."""
    value = section[key]
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= _LARGEST:
        raise ValueError(f"{key} must be a whole number of at least {low}, got {value!r}")
    return value


def positive(section: Mapping[str, Any], key: str) -> float:
    """A number above 0."""
    value = section[key]
    if not _is_number(value) or value <= 0:
        raise ValueError(f"{key} must be a number above 0, got {value!r}")
    return float(value)


def triple(section: Mapping[str, Any], key: str) -> tuple[float, float, float]:
    """One number for each of red, green and blue."""
    values = section[key]
    if not isinstance(values, list) or len(values) != 3 or not all(map(_is_number, values)):
        raise ValueError(f"{key} must be three numbers, got {values!r}")
    red, green, blue = map(float, values)
    return red, green, blue


def _is_number(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    # A whole number in JSON may have any number of digits.
    return abs(value) < 1e300 and math.isfinite(value)
