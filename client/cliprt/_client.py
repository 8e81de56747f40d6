"""The client: pictures and strings in, embeddings out, everything else from the server's card."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Literal, overload

import numpy as np
from numpy.typing import NDArray

from cliprt._batch import Item, OnError, Options, Result
from cliprt._card import Card
from cliprt._core import DEFAULT_TIMEOUT_S, Core, Priority, Server
from cliprt._decoding import Decoding
from cliprt._images import ImageInput
from cliprt._limits import Limits
from cliprt._profile import RequestTimes
from cliprt._space import Embeddings
from cliprt._steps import finish


class Client:
    """Embeds pictures and texts on a Triton server that serves a cliprt bundle.

    One client may be used from many threads. It keeps one connection and recovers by itself when
    the server restarts with the same model; answers from another space are refused. After
    ``os.fork`` make a new client in the child.

    Example:
        >>> with Client("localhost:8001") as client:
        ...     images = client.encode_image(["cat.jpg"])
        ...     texts = client.encode_text(["a photo of a cat", "a photo of a dog"])
        ...     similarity = images @ texts.T
    """

    def __init__(
        self,
        server: Server,
        *,
        model: str = "clip",
        timeout_s: float = DEFAULT_TIMEOUT_S,
        limits: Limits | None = None,
        decoding: Decoding | None = None,
        priority: Priority = "interactive",
    ) -> None:
        """Connects and reads the model's card.

        Args:
            server: host and gRPC port, ``host:8001``; a list of them that take turns; or a
                ``Connection`` with TLS, keepalive, headers, retries or shared memory.
            model: name under which the bundle is served; the prefix of its Triton models.
            timeout_s: deadline of each request, in seconds. A call that splits its input sends
                several requests; each has this much time after the one before it. It begins when
                the request is sent: decoding and tokenizing before that are bounded by ``limits``.
            limits: bounds on the inputs; None means the defaults.
            decoding: who decodes pictures, and how; None means threads and the exact way.
            priority: ``interactive`` where somebody waits for each answer; ``bulk`` requests wait
                in a queue of their own and let interactive ones pass.

        Raises:
            ValueError: an argument is malformed.
            ServerUnavailable: nothing answers there.
            ModelUnavailable: the server serves neither tower of this model, or not from a cliprt
                bundle, or the two from different ones.
            DeadlineExceeded: the server did not answer in time.
        """
        self._core = Core(
            server,
            model=model,
            timeout_s=timeout_s,
            limits=limits,
            decoding=decoding,
            priority=priority,
        )
        try:
            self._core.connect()
        except BaseException:
            self.close()
            raise

    @property
    def card(self) -> Card:
        """The card of the served bundle; ``card.space`` says which embeddings may be compared."""
        return self._core.card

    def server_version(self) -> str:
        """Triton's version, for instance ``2.51.0``."""
        return self._core.server_version()

    @overload
    def encode_image(
        self,
        images: ImageInput | Iterable[ImageInput],
        *,
        on_error: Literal["raise", "skip"] = "raise",
        batch_size: int | None = None,
        show_progress: bool = False,
        timeout_s: float | None = None,
    ) -> Embeddings: ...

    @overload
    def encode_image(
        self,
        images: ImageInput | Iterable[ImageInput],
        *,
        on_error: Literal["return"],
        batch_size: int | None = None,
        show_progress: bool = False,
        timeout_s: float | None = None,
    ) -> list[Item]: ...

    def encode_image(
        self,
        images: ImageInput | Iterable[ImageInput],
        *,
        on_error: OnError = "raise",
        batch_size: int | None = None,
        show_progress: bool = False,
        timeout_s: float | None = None,
    ) -> Result:
        """Embeds pictures.

        Args:
            images: one picture or any number of them: paths, encoded bytes (JPEG, PNG, WebP, GIF,
                BMP), Pillow images, or uint8 arrays [height, width, 3] in RGB order. Of animations
                the first frame counts; orientation tags are ignored, as by the reference. A
                generator is read as its items are needed; few of them are held at a time.
            on_error: what becomes of pictures that cannot be embedded. ``raise``: the first one
                ends the call. ``skip``: they are left out. ``return``: every item gets its
                embedding or its error, also where a request failed.
            batch_size: pictures of a request, at most the server's max_batch_size; None means up
                to 32, which the server joins to larger batches.
            show_progress: show on standard error how far the call is.
            timeout_s: deadline of each request; None means the client's.

        Returns:
            float32 [n, dim], rows of length 1, in the order of the input. With
            ``on_error="return"`` a list: per item float32 [dim] or the error.

        Raises:
            InvalidInput: an item is no usable image (``error.index`` says which), there is none, or
                batch_size is too large.
            ModelUnavailable: the served model has no image tower, or the server was given a model
                of another space.
            RetryableError: the server is gone, full or late.
            ServerError: the server failed or sent an answer that cannot be right.
        """
        options = Options(on_error, batch_size, show_progress)
        return finish(self._core.image_steps(images, options, timeout_s))

    @overload
    def encode_text(
        self,
        texts: str | Iterable[str],
        *,
        truncate: bool = True,
        on_error: Literal["raise", "skip"] = "raise",
        batch_size: int | None = None,
        show_progress: bool = False,
        timeout_s: float | None = None,
    ) -> Embeddings: ...

    @overload
    def encode_text(
        self,
        texts: str | Iterable[str],
        *,
        truncate: bool = True,
        on_error: Literal["return"],
        batch_size: int | None = None,
        show_progress: bool = False,
        timeout_s: float | None = None,
    ) -> list[Item]: ...

    def encode_text(
        self,
        texts: str | Iterable[str],
        *,
        truncate: bool = True,
        on_error: OnError = "raise",
        batch_size: int | None = None,
        show_progress: bool = False,
        timeout_s: float | None = None,
    ) -> Result:
        """Embeds texts.

        Args:
            texts: one string or any number of them. A string is always text, never a path. A
                generator is read in chunks of 2,048 texts.
            truncate: cut texts beyond the model's context (the end token stays, as in the
                checkpoint's own pipeline), or refuse them.
            on_error: as for encode_image.
            batch_size: as for encode_image.
            show_progress: as for encode_image.
            timeout_s: deadline of each request; None means the client's.

        Returns:
            float32 [n, dim], rows of length 1, in the order of the input. With
            ``on_error="return"`` a list: per item float32 [dim] or the error.

        Raises:
            InvalidInput: an item is no usable text (``error.index`` says which), there is none, or
                batch_size is too large.
            ModelUnavailable: the served model has no text tower, or the server was given a model
                of another space.
            RetryableError: the server is gone, full or late.
            ServerError: the server failed or sent an answer that cannot be right.
        """
        options = Options(on_error, batch_size, show_progress, truncate)
        return finish(self._core.text_steps(texts, options, timeout_s))

    def classify(
        self,
        images: ImageInput | Iterable[ImageInput],
        labels: Sequence[str],
        *,
        timeout_s: float | None = None,
    ) -> NDArray[np.float32]:
        """Zero-shot classification: how probable each label is for each picture.

        Args:
            images: as for encode_image.
            labels: the texts to choose from, used as they are: ``"a photo of a cat"`` works better
                than ``"cat"``.
            timeout_s: deadline of each request; None means the client's.

        Returns:
            float32 [n, len(labels)], each 0 to 1. Rows sum to 1 where the model was trained with a
            softmax: that of logit scale times cosine similarity (Radford et al. 2021, "Learning
            Transferable Visual Models From Natural Language Supervision", figure 3). Where
            ``card.logit_bias`` is set (SigLIP), every label has a probability of its own: the
            sigmoid of logit scale times cosine similarity plus logit bias (Zhai et al. 2023,
            "Sigmoid Loss for Language Image Pre-Training").

        Raises:
            InvalidInput: as for encode_image and encode_text, or labels is a bare string.
            ModelUnavailable: the served model has one tower only, or no logit scale.
        """
        return finish(self._core.classify_steps(images, labels, timeout_s))

    @contextmanager
    def profile(self, *, show: bool = True) -> Iterator[RequestTimes]:
        """Notes where the time of requests goes that are made within the block.

        Example:
            >>> with client.profile():
            ...     client.encode_image(files)
            tower  requests  items  batch  prepare  wire  queue  compute  total

        Args:
            show: print the table on standard error when the block ends.

        Yields:
            The profile; it is filled when the block ends.

        Raises:
            ValueError: several servers answer, or the server was started anew within the block.
        """
        begun, profile = self._core.begin_profile(), RequestTimes()
        try:
            yield profile
        finally:
            self._core.end_profile(begun)
        self._core.fill_profile(begun, profile)
        if show:
            print(profile, file=sys.stderr)  # noqa: T201

    def close(self) -> None:
        """Closes the connection. A second call does nothing."""
        self._core.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
