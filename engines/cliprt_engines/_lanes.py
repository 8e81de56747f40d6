"""A worker: what one batch at a time needs on the GPU.

Each of its lanes holds one piece of a batch: input and output in page-locked memory and on the GPU,
at addresses that never change, and a stream on which copy, computation and copy follow each other.
While one lane computes, the other copies. Computations of a worker never overlap: they share the
memory for intermediate values.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cliprt._errors import DeploymentError
from cliprt_engines._batches import Piece, in_turn
from cliprt_engines._cuda import (
    Cuda,
    DeviceBuffer,
    Event,
    ForeignStream,
    Graph,
    PinnedBuffer,
    Stream,
)
from cliprt_engines._device_arrays import DeviceArray
from cliprt_engines._graphs import GraphCache
from cliprt_engines._loaded import LoadedPlan
from cliprt_engines._tower import Inputs

LANES = 2
"""One computes while the other copies."""

_UNKNOWN = -1

Shape = tuple[int, ...]
_Key = tuple[int, int, Shape]


class Lane:
    """Place for one piece of a batch."""

    def __init__(self, cuda: Cuda, input_bytes: int, output_bytes: int) -> None:
        """Takes memory for the greatest piece.

        Raises:
            DeploymentError: there is not enough.
        """
        self._cuda = cuda
        with ExitStack() as held:

            def hold(thing: Any) -> Any:
                held.callback(thing.close)
                return thing

            self.stream: Stream = hold(Stream(cuda))
            self.arrived: Event = hold(Event(cuda))
            self.computed: Event = hold(Event(cuda))
            self.sent: PinnedBuffer = hold(PinnedBuffer(cuda, input_bytes))
            self.received: PinnedBuffer = hold(PinnedBuffer(cuda, output_bytes))
            self.input: DeviceBuffer = hold(DeviceBuffer(cuda, input_bytes))
            self.output: DeviceBuffer = hold(DeviceBuffer(cuda, output_bytes))
            self._held = held.pop_all()

    def upload(self, rows: Inputs) -> None:
        """Begins to copy an array of the host to the input."""
        # What is copied from must stay as it is until the copy is done; the caller's array may not.
        dtype: np.dtype[Any] = rows.dtype
        self.sent.array(rows.shape, dtype)[...] = rows
        self.stream.upload(self.input.pointer, self.sent.pointer, rows.nbytes)

    def take(self, array: DeviceArray, piece: Piece) -> None:
        """Begins to copy rows of an array on the GPU to the input, once they are ready."""
        if array.stream is not None:
            ForeignStream(self._cuda, array.stream).record(self.arrived)
            self.stream.wait(self.arrived)
        row = int(np.prod(array.shape[1:], dtype=np.int64)) * array.dtype.itemsize
        start = array.pointer + piece.start * row
        self.stream.copy(self.input.pointer, start, piece.rows * row)

    def download(self, size: int) -> None:
        """Begins to copy the output to the host."""
        self.stream.download(self.received.pointer, self.output.pointer, size)

    def close(self) -> None:
        """Gives everything back."""
        self._held.close()


class Bound:
    """An execution context that always reads one address and writes another."""

    def __init__(self, plan: LoadedPlan, memory: DeviceBuffer, lane: Lane) -> None:
        """Makes the context.

        Args:
            plan: the engine.
            memory: for intermediate values, used by one computation at a time.
            lane: whose input and output it uses.
        """
        self._plan, self._context = plan, plan.context(memory.pointer)
        self._addresses = (lane.input.pointer, lane.output.pointer)
        # A new context is under profile 0, and has neither shape nor addresses.
        self._profile, self._shape = 0, Shape()

    def enqueue(self, profile: int, shape: Shape, stream: Stream) -> None:
        """Begins a computation."""
        changed, new = profile != self._profile, not self._shape
        reshaped = changed or shape != self._shape
        # What a refused run leaves behind is not known; the next one sets everything.
        self._profile, self._shape = _UNKNOWN, Shape()
        self._plan.enqueue(
            self._context,
            profile if changed else None,
            # A change of profile forgets what was set for the one before.
            shape if reshaped else None,
            self._addresses if changed or new else None,
            int(stream.handle),
        )
        self._profile, self._shape = profile, shape

    def close(self) -> None:
        """Lets the context go."""
        self._context = None


@dataclass(frozen=True)
class Captured:
    """A graph, and the context that it was captured from.

    A graph holds on to the state of its context, so nothing else may use that one: sharing it among
    shapes is how a graph comes to answer with what was there before.
    """

    graph: Graph
    bound: Bound

    def close(self) -> None:
        """Gives both back, the graph first."""
        self.graph.close()
        self.bound.close()


class Worker:
    """Lanes, their contexts, and the graphs captured from further contexts."""

    def __init__(
        self, cuda: Cuda, plan: LoadedPlan, *, input_bytes: int, output_bytes: int, graphs: int
    ) -> None:
        """Takes what the greatest piece needs.

        Args:
            cuda: the GPU.
            plan: the engine.
            input_bytes: of the greatest piece.
            output_bytes: of the greatest piece.
            graphs: most captured graphs.

        Raises:
            DeploymentError: there is not enough memory.
        """
        self._plan = plan
        with ExitStack() as held:
            self._memory = DeviceBuffer(cuda, plan.shared_memory_bytes)
            held.callback(self._memory.close)
            self._lanes: list[Lane] = []
            self._bound: list[Bound] = []
            for _ in range(LANES):
                self._lanes.append(Lane(cuda, input_bytes, output_bytes))
                held.callback(self._lanes[-1].close)
                self._bound.append(Bound(plan, self._memory, self._lanes[-1]))
                held.callback(self._bound[-1].close)
            self._graphs: GraphCache[_Key, Captured] = GraphCache(graphs)
            held.callback(self._graphs.close)
            held.callback(self._settle)
            self._held = held.pop_all()

    @property
    def graphs(self) -> int:
        """How many graphs are captured."""
        return len(self._graphs)

    def run(
        self, source: Inputs | DeviceArray, pieces: Sequence[Piece], out: NDArray[np.float32]
    ) -> None:
        """Embeds a batch.

        Args:
            source: the batch, on the host or on the GPU.
            pieces: how it is cut.
            out: float32 [batch, dim], where the answers go.

        Raises:
            DeploymentError: CUDA or TensorRT failed.
        """
        try:
            for what, number, lane in in_turn(len(pieces), len(self._lanes)):
                if what == "begin":
                    self._begin(lane, pieces[number], source, out)
                else:
                    self._collect(lane, pieces[number], out)
        except BaseException:
            # Nothing may be under way when the next batch fills these buffers.
            self._settle()
            raise

    def close(self) -> None:
        """Gives everything back."""
        self._held.close()

    def _begin(
        self,
        number: int,
        piece: Piece,
        source: Inputs | DeviceArray,
        out: NDArray[np.float32],
    ) -> None:
        lane = self._lanes[number]
        if isinstance(source, DeviceArray):
            lane.take(source, piece)
        else:
            lane.upload(source[piece.start : piece.start + piece.rows])
        for other in self._lanes:
            if other is not lane:
                lane.stream.wait(other.computed)
        self._compute(number, piece.profile, (piece.rows, *source.shape[1:]))
        lane.stream.record(lane.computed)
        lane.download(out[piece.start : piece.start + piece.rows].nbytes)

    def _collect(self, number: int, piece: Piece, out: NDArray[np.float32]) -> None:
        lane = self._lanes[number]
        lane.stream.synchronise()
        rows = out[piece.start : piece.start + piece.rows]
        rows[...] = lane.received.array(rows.shape, rows.dtype)

    def _compute(self, number: int, profile: int, shape: Shape) -> None:
        lane, key = self._lanes[number], (number, profile, shape)
        if (captured := self._graphs.get(key)) is not None:
            captured.graph.launch(lane.stream)
        elif self._graphs.due(key):
            self._capture(key, lane)
        else:
            self._bound[number].enqueue(profile, shape, lane.stream)

    def _capture(self, key: _Key, lane: Lane) -> None:
        """Runs a shape in a context of its own, and captures the same for later.

        Where that cannot be made or captured, the shape runs, and no graph of it is tried again.
        """
        number, profile, shape = key
        with ExitStack() as held:
            try:
                bound = Bound(self._plan, self._memory, lane)
                held.callback(bound.close)
                # The run before the capture gives this batch its answer, and settles in the context
                # what depends on the shape.
                bound.enqueue(profile, shape, lane.stream)
            except DeploymentError:
                # For want of memory, say; the lane's own context runs the shape as before.
                self._graphs.refuse(key)
                self._bound[number].enqueue(profile, shape, lane.stream)
                return
            held.pop_all()
        # A graph that has to go for this one may be under way.
        for each in self._lanes:
            each.stream.synchronise()
        try:
            graph = _captured(bound, profile, shape, lane.stream)
        except DeploymentError:
            # Some engines cannot be captured; they run as they are.
            bound.close()
            self._graphs.refuse(key)
            return
        self._graphs.put(key, Captured(graph, bound))

    def _settle(self) -> None:
        """Waits for all that is under way; after an error this may fail as well."""
        for lane in self._lanes:
            with suppress(DeploymentError):
                lane.stream.synchronise()


def _captured(bound: Bound, profile: int, shape: Shape, stream: Stream) -> Graph:
    stream.begin_capture()
    try:
        bound.enqueue(profile, shape, stream)
    except BaseException:
        # The stream must leave the capture, whatever comes of it.
        with suppress(DeploymentError):
            stream.end_capture().close()
        raise
    return stream.end_capture()
