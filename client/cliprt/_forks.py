"""Forks of this process: gRPC's threads come to rest before, its channels are left alone after.

gRPC makes itself ready for a fork only if none of its calls moves at that moment; else it leaves it
("skipping fork() handlers"). The child then shares sockets and what watches them with its parent,
and either may hang or lose answers. So a fork waits here for the calls that are under way, and
calls that begin wait for the fork.
"""

from __future__ import annotations

import os
import threading
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

# A fork waits no longer than gRPC's own preparations do.
_REST_S = 5.0

# gRPC's threads tidy up after the last answer before they rest.
_TIDY_S = 0.002


_changed = threading.Condition()
_under_way = _forks = 0

# Channels of this process, and those that a forked child got from its parent. The latter must
# never be finalised there: that waits for threads of gRPC which the child does not have.
_channels: weakref.WeakSet[Any] = weakref.WeakSet()
_inherited: list[Any] = []


def keep_in_children(channel: Any) -> None:
    """Registers what holds a channel of gRPC: a forked child never finalises it."""
    _channels.add(channel)


def begin_call(*, within_another: bool = False) -> None:
    """A call begins, once no fork is being made. Every call has one ``end_call``.

    Args:
        within_another: it belongs to one under way, for which a fork would wait.
    """
    global _under_way
    with _changed:
        _changed.wait_for(lambda: within_another or not _forks)
        _under_way += 1


def end_call() -> None:
    """A call has ended."""
    global _under_way
    with _changed:
        _under_way -= 1
        _changed.notify_all()


@contextmanager
def call_under_way() -> Iterator[None]:
    """Is entered around what calls into gRPC and does not return before it is done."""
    begin_call()
    try:
        yield
    finally:
        end_call()


def _before() -> None:
    global _forks
    with _changed:
        _forks += 1
        busy = _under_way > 0
        _changed.wait_for(lambda: not _under_way, _REST_S)
    if busy:
        time.sleep(_TIDY_S)


def _after_in_parent() -> None:
    global _forks
    with _changed:
        _forks -= 1
        _changed.notify_all()


def _after_in_child() -> None:
    global _changed, _forks, _under_way
    # The threads that were in calls, and those that held the lock, are not in this process.
    _changed, _forks, _under_way = threading.Condition(), 0, 0
    _inherited.extend(_channels)


os.register_at_fork(
    before=_before, after_in_parent=_after_in_parent, after_in_child=_after_in_child
)
