"""Pairs of picture and string to both embeddings and their similarity, inside Triton.

It prepares them as the models of pictures and of strings do, and calls both towers at once. It is
no ensemble: in Triton before 26.03 an ensemble with two steps under way at once never answers when
a full queue refuses one of them, and neither do others after it.
"""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cliprt._names import PIXELS, TOKENS
from cliprt_triton._pipelines import IMAGE_MODEL_PARAMETER, TEXT_MODEL_PARAMETER
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
from cliprt_triton.models.tokenize import Texts


@dataclass(frozen=True)
class _Pair:
    """The two halves of a request under way."""

    image: Future[NDArray[np.float32]]
    text: Future[NDArray[np.float32]]


class TritonPythonModel:
    """Asks both towers at once, for all requests of a batch at once; a bad request fails alone."""

    def initialize(self, args: Mapping[str, str]) -> None:
        """Reads whom to ask, and how pictures and texts are prepared."""
        check_numpy()
        self._setup = setup = Setup(args)
        self._image = FedTower(setup, setup.parameters[IMAGE_MODEL_PARAMETER], PIXELS)
        self._text = FedTower(setup, setup.parameters[TEXT_MODEL_PARAMETER], TOKENS)
        self._decoder, self._texts = Decoder(setup), Texts(setup)
        self._pool = ThreadPoolExecutor(2 * setup.max_batch_size, thread_name_prefix="cliprt-both")

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answers each request; what is wrong with one half of it fails it."""
        return each_answered(each_tried(requests, self._begin), _answered)

    def finalize(self) -> None:
        """Ends the threads."""
        self._pool.shutdown(cancel_futures=True)
        self._decoder.close()

    def _begin(self, request: Any) -> _Pair:
        caller = Caller(request, self._setup)
        caller.check()
        started = self._decoder.start(request)

        def image() -> NDArray[np.float32]:
            return self._image.ask(collect(started), caller)

        def text() -> NDArray[np.float32]:
            return self._text.ask(self._texts.tokens(request), caller)

        return _Pair(self._pool.submit(image), self._pool.submit(text))


def _answered(pair: _Pair) -> Any:
    """The response to one request."""
    # Both have ended before the request is given back, whatever becomes of the first.
    failed = [error for each in (pair.image, pair.text) if (error := each.exception())]
    if failed:
        raise failed[0]
    image, text = pair.image.result(), pair.text.result()
    return answer(
        image_embedding=image,
        text_embedding=text,
        similarity=np.sum(image * text, axis=1, keepdims=True),
    )
