"""Waiting for a state instead of a time: a machine may be as slow as it likes."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

Seen = TypeVar("Seen")


def until(true: Callable[[], object], seconds: float = 60.0) -> None:
    """Waits until something is true; AssertionError if it never is."""
    ends = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < ends, f"not so within {seconds:g} s"
        time.sleep(0.01)


def settled(read: Callable[[], Seen]) -> Seen:
    """What is read once it has been the same for a second: Triton counts behind its answers."""
    ends = time.monotonic() + 60
    found, since = read(), time.monotonic()
    while time.monotonic() < since + 1:
        assert time.monotonic() < ends, "it never stands still"
        time.sleep(0.1)
        if (again := read()) != found:
            found, since = again, time.monotonic()
    return found
