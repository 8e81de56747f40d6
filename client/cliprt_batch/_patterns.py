"""Several files in one address: braces and wildcards."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterator

from cliprt._errors import InvalidInput
from cliprt_batch._addresses import (
    absolute,
    address_of,
    filesystem,
    local_path,
    reason,
    scheme,
    shown,
)

MAX_FILES = 1_000_000
"""Files that one pattern may name: {0..999999999999} is a slip."""

# The innermost braces that hold a range or a choice.
_BRACES = re.compile(r"\{(?:(-?\d+)\.\.(-?\d+)|([^{}]*,[^{}]*))\}")
_WILD = re.compile(r"[*?\[]")


def is_pattern(address: str) -> bool:
    """Whether an address names several files; a file of just that name is one file."""
    if not (_BRACES.search(address) or _WILD.search(address)):
        return False
    return bool(scheme(address)) or not os.path.lexists(local_path(address))


def matching(pattern: str) -> list[str]:
    """The addresses that a pattern names: those of braces in their order, of wildcards sorted.

    Braces name files whether they are there or not, as in a shell.

    Raises:
        InvalidInput: wildcards match nothing, or braces name too many.
    """
    found: list[str] = []
    for one in braces(pattern):
        if not _WILD.search(one):
            found.append(absolute(one))
            continue
        matches = _stored(one) if scheme(one) else _local(one)
        if not matches:
            raise InvalidInput(f"nothing matches {shown(one)}")
        found.extend(matches)
    return found


def braces(pattern: str) -> list[str]:
    """What a pattern with ``{00..12}`` and ``{a,b}`` stands for, nothing twice.

    Raises:
        InvalidInput: more than MAX_FILES.
    """
    done = [pattern]
    while any(_BRACES.search(one) for one in done):
        more: list[str] = []
        for one in done:
            match = _BRACES.search(one)
            if match is None:
                more.append(one)
                continue
            for choice in _choices(match):
                more.append(one[: match.start()] + choice + one[match.end() :])
                if len(more) > MAX_FILES:
                    raise InvalidInput(f"{shown(pattern)} stands for more than {MAX_FILES:,} files")
        # Of braces within braces the outer ones would give the inner ones' neighbours twice.
        done = list(dict.fromkeys(more))
    return done


def _choices(match: re.Match[str]) -> Iterator[str]:
    if match[3] is not None:
        yield from match[3].split(",")
        return
    first, last = int(match[1]), int(match[2])
    # As in a shell: {08..11} has as many digits everywhere as its longer end.
    padded = any(re.match(r"-?0\d", end) for end in (match[1], match[2]))
    width = max(len(match[1]), len(match[2])) if padded else 0
    step = 1 if first <= last else -1
    for number in range(first, last + step, step):
        yield f"{number:0{width}d}"


def _local(pattern: str) -> list[str]:
    # os.path.abspath would take .. away from behind a link; glob gives what it was given.
    found = glob.glob(local_path(pattern), recursive=True)  # noqa: PTH207 - of bytes
    return [absolute(address_of(path)) for path in sorted(found)]


def _stored(pattern: str) -> list[str]:
    store, path = filesystem(pattern)
    try:
        found = store.glob(path)
    except Exception as error:  # noqa: BLE001 - every store has its own
        raise InvalidInput(f"{shown(pattern)} cannot be listed: {reason(error)}") from None
    kind = scheme(pattern)
    return [f"{kind}://{name.lstrip('/')}" for name in sorted(found, key=str.encode)]
