"""Which shapes have a captured CUDA graph, and which of the graphs is let go for another.

Nothing here touches a GPU.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, Protocol, TypeVar

_REMEMBERED = 256
"""How many shapes without a graph are remembered; more are seldom in use at a time."""


class Closing(Protocol):
    """Something that is given back."""

    def close(self) -> None:
        """Gives it back."""


K = TypeVar("K", bound=Hashable)
V = TypeVar("V", bound=Closing)


class GraphCache(Generic[K, V]):
    """Captured graphs by shape; the one unused for longest goes first.

    A shape gets a graph when it comes a second time: capturing costs more than a run, and many
    shapes come once.
    """

    def __init__(self, limit: int) -> None:
        """Begins empty.

        Args:
            limit: most graphs; 0 captures none.

        Raises:
            ValueError: a negative limit.
        """
        if limit < 0:
            raise ValueError(f"the number of graphs must not be negative, got {limit}")
        self._limit = limit
        self._graphs: OrderedDict[K, V] = OrderedDict()
        self._seen: OrderedDict[K, bool] = OrderedDict()

    def __len__(self) -> int:
        return len(self._graphs)

    def get(self, key: K) -> V | None:
        """The graph of a shape, which from now on is the one used last."""
        if key not in self._graphs:
            return None
        self._graphs.move_to_end(key)
        return self._graphs[key]

    def due(self, key: K) -> bool:
        """Notes that a shape without a graph came; whether it should get one now."""
        if not self._limit:
            return False
        due = self._seen.get(key, False)
        self._seen.setdefault(key, True)
        self._seen.move_to_end(key)
        while len(self._seen) > _REMEMBERED:
            self._seen.popitem(last=False)
        return due

    def put(self, key: K, graph: V) -> None:
        """Keeps the graph of a shape; closes what it takes the place of."""
        if (former := self._graphs.pop(key, None)) is not None:
            former.close()
        self._graphs[key] = graph
        self._seen.pop(key, None)
        while len(self._graphs) > self._limit:
            _, oldest = self._graphs.popitem(last=False)
            oldest.close()

    def refuse(self, key: K) -> None:
        """Notes that a shape cannot be captured, so that it is not tried again and again."""
        self._seen[key] = False

    def close(self) -> None:
        """Closes all graphs."""
        while self._graphs:
            _, graph = self._graphs.popitem()
            graph.close()
        self._seen.clear()
