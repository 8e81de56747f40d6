"""Encoded pictures to embeddings, inside Triton: decodes them, and asks the tower.

It holds its requests until the tower has answered, so that no more pictures are decoded than the
tower takes. The others wait in Triton's queue before this model as they came, and who finds that
full is refused without having cost anything.
"""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cliprt._names import PIXELS
from cliprt_triton._pipelines import IMAGE_MODEL_PARAMETER
from cliprt_triton.models._backend import (
    Caller,
    FedTower,
    Setup,
    answer,
    check_numpy,
    each_answered,
    each_tried,
)
from cliprt_triton.models.decode import Decoder, collect


class TritonPythonModel:
    """Decodes the pictures of all requests of a batch together; a bad request fails alone."""

    def initialize(self, args: Mapping[str, str]) -> None:
        """Reads whom to ask, and how pictures are preprocessed."""
        check_numpy()
        self._setup = setup = Setup(args)
        self._tower = FedTower(setup, setup.parameters[IMAGE_MODEL_PARAMETER], PIXELS)
        self._decoder = Decoder(setup)
        self._pool = ThreadPoolExecutor(setup.max_batch_size, thread_name_prefix="cliprt-file")

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answers each request with its embeddings, or with what is wrong with it."""
        asked = each_tried(requests, self._begin)
        return each_answered(asked, lambda future: answer(embedding=future.result()))

    def finalize(self) -> None:
        """Ends the threads."""
        self._pool.shutdown(cancel_futures=True)
        self._decoder.close()

    def _begin(self, request: Any) -> Future[NDArray[np.float32]]:
        caller = Caller(request, self._setup)
        caller.check()
        started = self._decoder.start(request)

        def embed() -> NDArray[np.float32]:
            return self._tower.ask(collect(started), caller)

        return self._pool.submit(embed)
