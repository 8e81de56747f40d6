"""The client: pictures and strings in, embeddings out, everything else from the server's card."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from cliprt._arguments import checked_address, checked_timeout
from cliprt._card import Card, ImageSpec, TextSpec, decode_card
from cliprt._embedder import Embedder, Prepare, closed, each_text
from cliprt._errors import InvalidInput, ModelUnavailable
from cliprt._images import ImageInput
from cliprt._limits import Limits
from cliprt._names import CARD_PARAMETER, EMBEDDING, PIXELS, TOKENS, ModelNames
from cliprt._texts import TextTokenizer
from cliprt._tokenizer_cache import load_tokenizer_json

if TYPE_CHECKING:
    from cliprt._grpc import PendingTensor, TritonChannel

_T = TypeVar("_T")
_Spec = TypeVar("_Spec", ImageSpec, TextSpec)

DEFAULT_TIMEOUT_S = 60.0

# Requests of one call that may be under way at once: enough that the server computes one while the
# client prepares the next and a third travels; few enough that one call cannot fill the queue.
_IN_FLIGHT = 3

# Items of one request: few enough that a call of a full batch overlaps preparing with computing.
# The server joins requests to larger batches by itself.
_REQUEST_ITEMS = 32

_INPUTS = {"image": PIXELS, "text": TOKENS}


class Client:
    """Embeds pictures and texts on a Triton server that serves a cliprt bundle.

    One client may be used from many threads. It keeps one connection and recovers by itself when
    the server restarts. After ``os.fork`` make a new client in the child.

    Example:
        >>> with Client("localhost:8001") as client:
        ...     images = client.encode_image(["cat.jpg"])
        ...     texts = client.encode_text(["a photo of a cat", "a photo of a dog"])
        ...     similarity = images @ texts.T
    """

    def __init__(
        self,
        address: str,
        *,
        model: str = "clip",
        timeout_s: float = DEFAULT_TIMEOUT_S,
        limits: Limits | None = None,
    ) -> None:
        """Connects and reads the model's card.

        Args:
            address: host and gRPC port, ``host:8001``.
            model: name under which the bundle is served; the prefix of its Triton models.
            timeout_s: deadline of each request, in seconds. A call that splits its input sends
                several requests; each has this much time after the one before it.
            limits: bounds on the inputs; None means the defaults.

        Raises:
            ValueError: address or timeout_s is malformed.
            ServerUnavailable: nothing answers there.
            ModelUnavailable: the server serves neither tower of this model, or not from a cliprt
                bundle, or the two from different ones.
            DeadlineExceeded: the server did not answer in time.
        """
        self._timeout_s = checked_timeout(timeout_s)
        self._limits = limits or Limits()
        self._address = checked_address(address)
        self._names = ModelNames(model)
        self._models = {"image": self._names.image, "text": self._names.text}
        self._closed = False
        self._close_lock = threading.Lock()
        self._tokenizer_lock = threading.Lock()
        self._lazy_tokenizer: TextTokenizer | None = None
        self._pool = ThreadPoolExecutor(
            max_workers=min(8, os.cpu_count() or 1), thread_name_prefix="cliprt"
        )
        self._channel = _connect(self._address)
        try:
            self._card, self._batches = self._read_models()
            self._embedder = Embedder(
                self._card,
                self._limits,
                names={tower: f"{name} at {self._address}" for tower, name in self._models.items()},
                batches=self._batches,
                in_flight=_IN_FLIGHT,
                pool=self._pool,
            )
        except BaseException:
            self.close()
            raise

    @property
    def card(self) -> Card:
        """The card of the served bundle; ``card.space`` says which embeddings may be compared."""
        return self._card

    def server_version(self) -> str:
        """Triton's version, for instance ``2.51.0``."""
        return self._open_channel().server_version(self._timeout_s)

    def encode_image(
        self, images: ImageInput | Iterable[ImageInput], *, timeout_s: float | None = None
    ) -> NDArray[np.float32]:
        """Embeds pictures.

        Args:
            images: one picture or any number of them: paths, encoded bytes (JPEG, PNG, WebP, GIF,
                BMP), Pillow images, or uint8 arrays [height, width, 3] in RGB order. Of animations
                the first frame counts; orientation tags are ignored, as by the reference.
            timeout_s: deadline of each request; None means the client's.

        Returns:
            float32 [n, dim], rows of length 1, in the order of the input.

        Raises:
            InvalidInput: an item is no usable image (``error.index`` says which), or there is none.
            ModelUnavailable: the served model has no image tower.
            RetryableError: the server is gone, full or late.
            ServerError: the server failed or sent an answer that cannot be right.
        """
        self._open_channel()
        spec = self._served_spec(self._card.image, "image")
        start = partial(self._start, self._deadline(timeout_s))
        return self._embedder.encode_image(spec, images, start)

    def encode_text(
        self, texts: str | Iterable[str], *, truncate: bool = True, timeout_s: float | None = None
    ) -> NDArray[np.float32]:
        """Embeds texts.

        Args:
            texts: one string or any number of them. A string is always text, never a path.
            truncate: cut texts beyond the model's context (the end token stays, as in the
                checkpoint's own pipeline), or refuse them.
            timeout_s: deadline of each request; None means the client's.

        Returns:
            float32 [n, dim], rows of length 1, in the order of the input.

        Raises:
            InvalidInput: an item is no usable text (``error.index`` says which), or there is none.
            ModelUnavailable: the served model has no text tower.
            RetryableError: the server is gone, full or late.
            ServerError: the server failed or sent an answer that cannot be right.
        """
        self._open_channel()
        spec = self._served_spec(self._card.text, "text")
        deadline = self._deadline(timeout_s)
        # What is no list of texts is refused before anything is fetched.
        items = each_text(texts)
        tokenizer = self._tokenizer(spec, deadline)
        start = partial(self._start, deadline)
        return self._embedder.encode_text(tokenizer, items, start, truncate=truncate)

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
        if isinstance(labels, str):
            raise InvalidInput("labels must be a list of strings, got one string")
        self._open_channel()
        self._served_spec(self._card.image, "image")
        self._served_spec(self._card.text, "text")
        return self._embedder.classify(
            labels,
            lambda texts: self.encode_text(texts, timeout_s=timeout_s),
            lambda: self.encode_image(images, timeout_s=timeout_s),
        )

    def close(self) -> None:
        """Closes the connection. A second call does nothing."""
        with self._close_lock:
            if self._closed:
                return
            self._closed = True
        self._channel.close()
        self._pool.shutdown(wait=False, cancel_futures=True)

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _start(self, deadline: float, tower: str, prepare: Prepare, behind: int) -> PendingTensor:
        """Sends a batch."""
        channel, model = self._open_channel(), self._models[tower]
        # The server answers the requests of one call one after the other.
        patience = deadline * (behind + 1)
        return channel.infer(model, {_INPUTS[tower]: prepare()}, EMBEDDING, patience)

    def _deadline(self, timeout_s: float | None) -> float:
        return self._timeout_s if timeout_s is None else checked_timeout(timeout_s)

    def _tokenizer(self, spec: TextSpec, timeout_s: float) -> TextTokenizer:
        with self._tokenizer_lock:
            if self._lazy_tokenizer is None:
                fetch = partial(self._fetch_file, timeout_s)
                content = load_tokenizer_json(self._card, fetch)
                self._lazy_tokenizer = TextTokenizer(content, spec, self._limits)
            return self._lazy_tokenizer

    def _fetch_file(self, timeout_s: float, name: str) -> bytes:
        """One file of the served bundle, through the model that carries them."""
        request = {"name": np.frombuffer(name.encode(), dtype=np.uint8)}
        answer = self._channel.infer(self._names.card, request, "content", timeout_s)
        return answer.result().tobytes()

    def _served_spec(self, spec: _Spec | None, tower: str) -> _Spec:
        """How a tower is fed, if the server has it."""
        if spec is None:
            raise ModelUnavailable(
                f"{self._card.name} at {self._address} has no {tower} tower; "
                "serve a checkpoint that has one"
            )
        if tower not in self._batches:
            raise ModelUnavailable(
                f"{self._address} does not serve the {tower} tower of {self._card.name}; "
                "check the server's log"
            )
        return spec

    def _read_models(self) -> tuple[Card, dict[str, int]]:
        """The card, and for each tower that is served how many items a request to it holds."""
        found: dict[str, tuple[Card, int]] = {}
        missing: list[ModelUnavailable] = []
        for tower, name in self._models.items():
            try:
                config = self._channel.model_config(name, self._timeout_s)
            except ModelUnavailable as error:
                missing.append(error)
            else:
                found[tower] = self._read_model(name, config)
        if not found:
            raise missing[0]
        cards = [card for card, _ in found.values()]
        if cards[0] != cards[-1]:
            raise ModelUnavailable(
                f"{self._names.image} and {self._names.text} at {self._address} come from "
                "different bundles; serve both from one repository"
            )
        return cards[0], {tower: batch for tower, (_, batch) in found.items()}

    def _read_model(self, name: str, config: Any) -> tuple[Card, int]:
        """A tower's card and how many items a request to it holds."""
        if CARD_PARAMETER not in config.parameters:
            raise ModelUnavailable(
                f"the model {name} at {self._address} carries no card, so it was not made by "
                "cliprt repository; make its repository again"
            )
        text = config.parameters[CARD_PARAMETER].string_value
        card = decode_card(text, origin=f"{name} at {self._address}")
        return card, max(1, min(config.max_batch_size, _REQUEST_ITEMS))

    def _open_channel(self) -> TritonChannel:
        if self._closed:
            raise closed()
        return self._channel


def _connect(address: str) -> TritonChannel:
    from cliprt._grpc import TritonChannel  # gRPC takes a while to import

    return TritonChannel(address)
