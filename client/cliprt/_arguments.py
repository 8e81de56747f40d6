"""Checks of what callers pass, before anything is sent."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TypeVar

from cliprt._errors import InvalidInput

_T = TypeVar("_T")

_MAX_TIMEOUT_S = 86_400.0


def iterate(items: Iterable[_T], what: str) -> Iterator[_T]:
    """Iterates over items, and refuses values that are no collection or an empty one."""
    # All of these can be iterated over, and none yields what the caller meant. Sets have no order.
    others = (bytes, bytearray, memoryview, Mapping, set, frozenset)
    if isinstance(items, others) or hasattr(items, "read"):
        raise InvalidInput(f"{what} must be a list, got {type(items).__name__}")
    try:
        iterator = iter(items)
    except TypeError:
        raise InvalidInput(f"{what} must be a list, got {type(items).__name__}") from None
    empty = True
    for item in iterator:
        empty = False
        yield item
    if empty:
        raise InvalidInput(f"the batch is empty; pass at least one of the {what}")


def checked_labels(labels: Sequence[str]) -> Sequence[str]:
    """The labels of a classification, if they are not one string, whose letters would be taken."""
    if isinstance(labels, str):
        raise InvalidInput("labels must be a list of strings, got one string")
    return labels


def checked_timeout(timeout_s: float) -> float:
    """A deadline in seconds, if it is one."""
    if not 0 < timeout_s <= _MAX_TIMEOUT_S:
        raise ValueError(
            f"timeout_s must be a positive number of seconds, at most {_MAX_TIMEOUT_S:,.0f}, "
            f"got {timeout_s}"
        )
    return float(timeout_s)


def checked_address(address: str) -> str:
    """Takes ``host:port``, and the same behind ``grpc://``."""
    plain = address.removeprefix("grpc://")
    host, _, port = plain.rpartition(":")
    # Without brackets nobody can say where an IPv6 address ends and its port begins.
    bare_ipv6 = ":" in host and not (host.startswith("[") and host.endswith("]"))
    if not host or bare_ipv6 or not port.isdecimal() or not 0 < int(port) < 65536 or "/" in plain:
        raise ValueError(f"the address must look like host:8001, got {address!r}")
    return plain
