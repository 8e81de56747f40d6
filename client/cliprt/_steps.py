"""Calls as generators: one logic for callers that block and for callers that await.

The work of a call is a generator. It prepares inputs, starts batches, and yields each answer that
it needs next; when it is resumed, that answer is there. Whoever runs it decides how to wait:
``finish`` blocks the thread, ``AsyncClient`` gives the event loop back.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any, Protocol, TypeAlias, TypeVar

from numpy.typing import NDArray

_T = TypeVar("_T")


class Pending(Protocol):
    """A batch under way."""

    def result(self) -> NDArray[Any]:
        """Waits for its embeddings."""

    def exception(self) -> BaseException | None:
        """Waits until there is an answer, None, or a reason why there is none."""

    def done(self) -> bool:
        """Whether ``result`` would not wait."""

    def cancel(self) -> object:
        """Lets go of it."""

    def add_done_callback(self, call: Callable[[Any], object]) -> object:
        """Calls a function, from any thread, once there is a result or a failure."""


Steps: TypeAlias = Generator[Pending, None, _T]
"""A call under way: yields what it waits for, returns its result."""


def finish(steps: Steps[_T]) -> _T:
    """Runs a call to its end in this thread."""
    while True:
        try:
            next(steps)  # it waits by itself when it takes the answer
        except StopIteration as end:
            result: _T = end.value
            return result
