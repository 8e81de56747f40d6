"""Encoded pictures to pixels inside Triton's Python backend, exactly as the client makes them."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cliprt._cores import usable_cores
from cliprt._errors import InvalidInput, ModelUnavailable
from cliprt._images import preprocess
from cliprt_triton.models._backend import (
    Setup,
    answer,
    check_numpy,
    each_answered,
    each_tried,
    strings_of,
)


class Decoder:
    """Makes pixels of encoded pictures on all cores; Pillow computes without Python's lock."""

    def __init__(self, setup: Setup) -> None:
        """Reads how pictures are preprocessed, and the limits on them.

        Raises:
            ModelUnavailable: the bundle has no image tower.
            DeploymentError: the configuration has no usable limits.
        """
        if (spec := setup.card.image) is None:
            raise ModelUnavailable(f"{setup.card.name} has no image tower")
        self._spec, self._limits = spec, setup.limits
        self._pool = ThreadPoolExecutor(usable_cores(), thread_name_prefix="cliprt-decode")

    def start(self, request: Any) -> list[Future[NDArray[np.uint8]]]:
        """Begins to decode the pictures of a request."""
        pictures = strings_of(request, "image")
        return [self._pool.submit(self._pixels, *job) for job in enumerate(pictures)]

    def close(self) -> None:
        """Ends the threads."""
        self._pool.shutdown(cancel_futures=True)

    def _pixels(self, index: int, data: bytes) -> NDArray[np.uint8]:
        try:
            return preprocess(data, self._spec, self._limits)
        except InvalidInput as error:
            raise type(error)(error.reason, index=index) from None


def collect(started: list[Future[NDArray[np.uint8]]]) -> NDArray[np.uint8]:
    """The pixels of a request: uint8 [batch, height, width, 3].

    Raises:
        InvalidInput: of the first picture that is no usable one; the others are let go.
    """
    try:
        return np.stack([future.result() for future in started])
    finally:
        for future in started:
            future.cancel()


class TritonPythonModel:
    """Decodes the pictures of all requests of a batch together; a bad request fails alone."""

    def initialize(self, args: Mapping[str, str]) -> None:
        """Reads how pictures are preprocessed, and the limits on them."""
        check_numpy()
        self._decoder = Decoder(Setup(args))

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answers each request with its pixels, or with what is wrong with its first bad item."""
        started = each_tried(requests, self._decoder.start)
        return each_answered(started, lambda futures: answer(pixels=collect(futures)))

    def finalize(self) -> None:
        """Ends the threads."""
        self._decoder.close()
