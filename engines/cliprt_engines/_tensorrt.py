"""A tower in process with TensorRT."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from math import prod
from pathlib import Path
from queue import LifoQueue
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cliprt._bundle import Bundle
from cliprt._errors import ClosedError, DeploymentError, InvalidInput
from cliprt_engines._batches import cut
from cliprt_engines._cuda import Cuda, Event, ForeignStream
from cliprt_engines._device import device_at_hand
from cliprt_engines._device_arrays import DeviceArray, OnDevice, device_array
from cliprt_engines._flavor import find_toolkit
from cliprt_engines._lanes import Worker
from cliprt_engines._loaded import LoadedPlan
from cliprt_engines._manifest import check_engine, open_engine, read_engine
from cliprt_engines._tower import Inputs, TowerInfo

GRAPHS = 16
"""Captured graphs of each context unless told otherwise."""

_CLOSED = "the tower was closed; load it again"


class TensorRtTower:
    """One tower of a bundle, computed by a TensorRT engine on a GPU.

    Threads may share it: as many batches run at once as it has contexts, others wait.
    """

    def __init__(
        self,
        engine: str | Path,
        *,
        bundle: Bundle | None = None,
        device: int = 0,
        contexts: int = 1,
        graphs: int = GRAPHS,
        overlap: bool = True,
        any_device: bool = False,
    ) -> None:
        """Loads an engine that its manifest vouches for.

        Args:
            engine: the engine's folder, as ``cliprt build`` made it.
            bundle: the bundle that it must have been built from. With it, token ids that the tower
                does not have are refused before they reach the GPU; without it nobody checks them.
            device: which GPU, as CUDA counts them.
            contexts: how many batches may run at once. Each takes memory for its own values.
            graphs: most CUDA graphs that a context captures, one for each shape that comes more
                than once; 0 captures none.
            overlap: whether 32 or more pictures that lie on the host are computed in two pieces, so
                that the second is copied meanwhile. Tokens are too small, and what lies on the GPU
                too near, for copies to matter.
            any_device: lets TensorRT alone say whether the plan runs on this GPU.

        Raises:
            ValueError: no contexts, or a negative number of graphs.
            EngineMismatch: the engine is for another TensorRT or GPU.
            EngineError: it is not of this bundle, or damaged.
            DeploymentError: there is no GPU, no driver, or not enough memory.
            MissingExtra: TensorRT or cuda-bindings is not installed.
        """
        if contexts < 1:
            raise ValueError(f"a tower needs at least one context, got {contexts}")
        if graphs < 0:
            raise ValueError(f"the number of graphs must not be negative, got {graphs}")
        found = read_engine(Path(engine))
        toolkit = find_toolkit(found.manifest.recipe.flavor)
        gpu = device_at_hand(device)
        self._cuda = cuda = Cuda(device)
        # Before all else that may be wrong: what is not for this machine need not be damaged.
        check_engine(found, bundle=None, toolkit=toolkit, device=None if any_device else gpu)
        opened = open_engine(
            engine, bundle=bundle, toolkit=toolkit, device=gpu, any_device=any_device
        )
        plan = LoadedPlan(opened, toolkit, cuda, graphs=graphs > 0)
        self._plan, self._vocabulary, self._overlap = plan, _vocabulary(bundle), overlap
        widest = plan.profiles[0]
        self._dim = int(plan.output.shape[-1] or 0)
        self._info = TowerInfo(
            input=plan.input.name,
            dtype=plan.input.dtype,
            shape=plan.input.shape,
            dim=self._dim,
            max_batch=widest.batch.most,
            max_length=None if widest.length is None else widest.length.most,
            runtime=f"{toolkit.flavor} {toolkit.version} {gpu.name if gpu else f'GPU {device}'}",
        )
        greatest = prod(widest.shapes(plan.input.shape)[-1])
        self._lock, self._closed = Lock(), False
        # None means that the tower is closed.
        self._idle: LifoQueue[Worker | None] = LifoQueue()
        with ExitStack() as held:
            held.callback(plan.close)
            self._workers = []
            for _ in range(contexts):
                worker = Worker(
                    cuda,
                    plan,
                    input_bytes=greatest * np.dtype(plan.input.dtype).itemsize,
                    output_bytes=widest.batch.most * self._dim * 4,
                    graphs=0 if plan.captures_itself else graphs,
                )
                held.callback(worker.close)
                self._workers.append(worker)
                self._idle.put(worker)
            # A tower that nobody closed gives its memory back when it goes. At the end of the
            # process CUDA may have gone before.
            self._give_back = weakref.finalize(self, held.pop_all().close)
            self._give_back.atexit = False

    @property
    def info(self) -> TowerInfo:
        """What the tower takes and gives. Batches beyond ``max_batch`` are cut by ``run``."""
        return self._info

    @property
    def graphs(self) -> int:
        """How many CUDA graphs are captured; 0 with TensorRT-RTX, which keeps its own."""
        return sum(worker.graphs for worker in self._workers)

    def run(self, batch: Inputs | OnDevice) -> NDArray[np.float32]:
        """Embeds a batch, in pieces if it is greater than the engine's greatest.

        Args:
            batch: uint8 pixels [batch, height, width, 3], or int32 tokens [batch, length]; a NumPy
                array, or one on the same GPU with ``__cuda_array_interface__``.

        Returns:
            float32 [batch, dim], rows of length 1.

        Raises:
            InvalidInput: the batch has another type or shape than the tower takes, tokens that it
                does not have, or lies on another GPU.
            DeploymentError: CUDA or TensorRT failed.
            ClosedError: the tower was closed.
        """
        if self._closed:
            raise ClosedError(_CLOSED)
        source = self._checked(batch)
        rows = int(source.shape[0])
        length = int(source.shape[1]) if self._plan.dynamic else None
        copied = isinstance(source, np.ndarray) and self._info.input == "pixels"
        pieces = cut(self._plan.profiles, rows, length, overlap=self._overlap and copied)
        answers = np.empty((rows, self._dim), dtype=np.float32)
        if pieces:
            with self._worker() as worker:
                self._cuda.select()
                worker.run(source, pieces, answers)
        return answers

    def close(self) -> None:
        """Gives back what it holds, once the batches under way are done."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            for _ in self._workers:
                self._idle.get()
            self._idle.put(None)
            try:
                # After an error of a kernel every call fails; memory of the host is freed even so.
                with suppress(DeploymentError):
                    self._cuda.select()
            finally:
                self._give_back()
                self._workers = []

    def __enter__(self) -> TensorRtTower:
        """Itself; ``close`` follows."""
        return self

    def __exit__(self, *exception: object) -> None:
        """Closes it."""
        self.close()

    @contextmanager
    def _worker(self) -> Iterator[Worker]:
        worker = self._idle.get()
        try:
            if worker is None:
                raise ClosedError(_CLOSED)
            yield worker
        finally:
            self._idle.put(worker)

    def _checked(self, batch: Inputs | OnDevice) -> Inputs | DeviceArray:
        """The batch, if the tower takes it; tokens on the GPU are fetched to be looked at."""
        source: Any
        if isinstance(batch, np.ndarray):
            source = batch
        elif isinstance(batch, OnDevice):
            source = device_array(batch)
        else:
            raise InvalidInput(
                f"a batch is a NumPy array or an array on the GPU, got {type(batch).__name__}"
            )
        self._check_form(source.dtype, source.shape)
        if isinstance(source, DeviceArray) and source.shape[0]:
            self._check_place(source)
            if self._vocabulary is not None and self._info.input == "tokens":
                source = self._fetched(source)
        if isinstance(source, DeviceArray):
            return source
        host: Inputs = source
        if self._vocabulary is not None and self._info.input == "tokens" and host.size:
            _check_ids(host, self._vocabulary)
        return host

    def _check_form(self, dtype: np.dtype[Any], shape: tuple[int, ...]) -> None:
        info = self._info
        if dtype != np.dtype(info.dtype):
            raise InvalidInput(f"the tower takes {info.dtype} {info.input}, got {dtype}")
        wanted = ("batch", *("length" if size is None else size for size in info.shape))
        fits = len(shape) == len(wanted) and all(
            isinstance(size, str) or size == found
            for size, found in zip(wanted, shape, strict=True)
        )
        if not fits:
            raise InvalidInput(
                f"the tower takes {info.input} [{', '.join(map(str, wanted))}], got "
                f"[{', '.join(map(str, shape))}]"
            )

    def _check_place(self, array: DeviceArray) -> None:
        where = self._cuda.device_of(array.pointer)
        if where != self._cuda.device:
            place = "in memory that is not a GPU's" if where is None else f"on GPU {where}"
            raise InvalidInput(
                f"the array lies {place}, the tower runs on GPU {self._cuda.device}; copy it there"
            )

    def _fetched(self, array: DeviceArray) -> Inputs:
        self._cuda.select()
        if array.stream is not None:
            event = Event(self._cuda)
            try:
                ForeignStream(self._cuda, array.stream).record(event)
                event.synchronise()
            finally:
                event.close()
        tokens = np.empty(array.shape, dtype=array.dtype)
        self._cuda.call(
            "cudaMemcpy",
            tokens.ctypes.data,
            array.pointer,
            tokens.nbytes,
            self._cuda.device_to_host,
        )
        return tokens


def _check_ids(tokens: Inputs, vocabulary: int) -> None:
    """Refuses ids without a row in the table: the GPU would read whatever lies beside it."""
    if int(tokens.min()) >= 0 and int(tokens.max()) < vocabulary:
        return
    bad = (tokens < 0) | (tokens >= vocabulary)
    raise InvalidInput(
        f"a token id is {int(tokens[bad][0])}; ids must lie in 0 to {vocabulary - 1}",
        index=int(np.argmax(bad.any(axis=1))),
    )


def _vocabulary(bundle: Bundle | None) -> int | None:
    if bundle is None or bundle.card.text is None:
        return None
    return bundle.card.text.vocabulary
