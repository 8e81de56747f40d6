"""What Client and AsyncClient have in common: everything but how they wait."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from cliprt._arguments import checked_labels, checked_timeout
from cliprt._batch import Batch, Options, Result
from cliprt._card import Card, ImageSpec, TextSpec
from cliprt._connection import Connection
from cliprt._decoding import Decoder, Decoding
from cliprt._embedder import Embedder, each_text
from cliprt._errors import CliprtError, ClosedError, ModelUnavailable, closed
from cliprt._images import ImageInput
from cliprt._limits import Limits
from cliprt._names import (
    EMBEDDING,
    LENGTHS_PARAMETER,
    PIXELS,
    TOKENS,
    ModelNames,
    served_version,
)
from cliprt._profile import RequestTimes, Stopwatch
from cliprt._served_bundle import carried_card, served_file
from cliprt._statistics import ModelStatistics
from cliprt._steps import Pending, Steps
from cliprt._texts import TextTokenizer, parse_lengths
from cliprt._tokenizer_cache import load_tokenizer_json

if TYPE_CHECKING:
    from cliprt._grpc import TritonChannel

_T = TypeVar("_T")
_Spec = TypeVar("_Spec", ImageSpec, TextSpec)

Server: TypeAlias = "str | Sequence[str] | Connection"
"""Where a server is: its address, several of them, or a connection with options."""

Priority: TypeAlias = Literal["interactive", "bulk"]
"""Whether somebody waits for each answer, or all of them are wanted some time."""

DEFAULT_TIMEOUT_S = 60.0

# As the repository's policy counts them; servers without priorities take no notice.
_PRIORITIES = {"interactive": 1, "bulk": 2}

# Requests of one call that may be under way at once: enough that the server computes one while the
# client prepares the next and a third travels; few enough that one call cannot fill the queue.
_IN_FLIGHT = 3

# Triton counts a request behind its answer; a profile waits for that no longer, in seconds.
_COUNTED_S = 1.0

# Items of one request: few enough that a call of a full batch overlaps preparing with computing.
# The server joins requests to larger batches by itself.
_REQUEST_ITEMS = 32

# Texts and characters of each that are tokenized within about a tenth of a millisecond.
_FEW, _SHORT = 4, 200

_INPUTS = {"image": PIXELS, "text": TOKENS}


@dataclass(frozen=True)
class Profiling:
    """A profile under way.

    Attributes:
        stopwatch: notes the requests.
        counts: by tower, what the server had counted when it began.
    """

    stopwatch: Stopwatch
    counts: dict[str, ModelStatistics]


@dataclass(frozen=True)
class _Served:
    """What the configurations of the served towers say.

    Attributes:
        card: of the bundle.
        most: for each tower that is served, how many items a request may hold.
        lengths: that texts are filled up to; none where any length is welcome.
    """

    card: Card
    most: dict[str, int]
    lengths: tuple[int, ...]


class Core:
    """A connection to a served bundle, and the calls it offers as steps."""

    def __init__(
        self,
        server: Server,
        *,
        model: str,
        timeout_s: float,
        limits: Limits | None,
        decoding: Decoding | None,
        priority: Priority,
    ) -> None:
        """Checks the arguments and connects to nothing yet; for them see ``Client``."""
        if priority not in _PRIORITIES:
            raise ValueError(f"priority must be 'interactive' or 'bulk', got {priority!r}")
        self._timeout_s = checked_timeout(timeout_s)
        self._limits = limits or Limits()
        self._decoding = decoding or Decoding()
        self._connection = server if isinstance(server, Connection) else Connection(server)
        self._address = self._connection.address
        self._priority = _PRIORITIES[priority]
        self._names = ModelNames(model)
        self._models = {"image": self._names.image, "text": self._names.text}
        self._lock = threading.Lock()
        self._tokenizer_lock = threading.Lock()
        self._lazy_tokenizer: TextTokenizer | None = None
        self._decoder: Decoder | None = None
        self._stopwatches: tuple[Stopwatch, ...] = ()
        self._lazy_channel: TritonChannel | None = None
        self._closed = False
        self._ready = False

    def connect(self) -> None:
        """Connects and reads the card. Waits; a second call does nothing."""
        with self._lock:
            self.check_open()
            if self._ready:
                return
            from cliprt._grpc import TritonChannel  # gRPC takes a while to import

            self._lazy_channel = self._lazy_channel or TritonChannel(self._connection)
            found = self._read_models(self._lazy_channel, self._timeout_s)
            self._card, self._most = found.card, found.most
            self._version = served_version(self._card.space)
            if self._card.image is not None:
                self._decoder = Decoder(self._card.image, self._limits, self._decoding)
            self._embedder = Embedder(
                self._card,
                names={tower: f"{name} at {self._address}" for tower, name in self._models.items()},
                batches={tower: min(most, _REQUEST_ITEMS) for tower, most in self._most.items()},
                most=self._most,
                in_flight=_IN_FLIGHT,
                lengths=found.lengths,
                decoder=self._decoder,
            )
            self._ready = True
            if self._closed:  # meanwhile; what was made since then would stay open
                self.close()
                raise closed()

    @property
    def endpoints(self) -> int:
        """How many servers take turns, as far as the address says."""
        named = self._connection.endpoints
        return 1 if isinstance(named, str) else len(named)

    def most(self, tower: str) -> int:
        """Items of the greatest batch that the server computes at once; 0 without that tower."""
        self.connect()
        return self._most.get(tower, 0)

    @property
    def card(self) -> Card:
        """The card of the served bundle."""
        if not self._ready:
            raise ClosedError(
                "the client is not connected yet; use it as a context manager or connect it first"
            )
        return self._card

    def server_version(self) -> str:
        """Triton's version. Waits."""
        return self._channel().server_version(self._timeout_s)

    def image_steps(
        self,
        images: ImageInput | Iterable[ImageInput],
        options: Options,
        timeout_s: float | None,
    ) -> Steps[Result]:
        """Embeds pictures; for arguments and errors see ``Client.encode_image``."""
        self._channel()
        self._served_spec(self._card.image, "image")
        deadline = self._deadline(timeout_s)
        start = partial(self._start, deadline)
        return self._explained(self._embedder.encode_image(images, start, options), deadline)

    def text_steps(
        self, texts: str | Iterable[str], options: Options, timeout_s: float | None
    ) -> Steps[Result]:
        """Embeds texts; for arguments and errors see ``Client.encode_text``."""
        self._channel()
        spec = self._served_spec(self._card.text, "text")
        deadline = self._deadline(timeout_s)
        # What is no list of texts is refused before anything is fetched.
        items = each_text(texts)
        tokenizer = self._tokenizer(spec, deadline)
        start = partial(self._start, deadline)
        steps = self._embedder.encode_text(tokenizer, items, start, options, given=texts)
        return self._explained(steps, deadline)

    def classify_steps(
        self,
        images: ImageInput | Iterable[ImageInput],
        labels: Sequence[str],
        timeout_s: float | None,
    ) -> Steps[NDArray[np.float32]]:
        """Zero-shot classification; for arguments and errors see ``Client.classify``."""
        labels = checked_labels(labels)
        self._channel()
        self._served_spec(self._card.image, "image")
        self._served_spec(self._card.text, "text")
        return self._embedder.classify(
            labels,
            lambda texts: self.text_steps(texts, Options(), timeout_s),
            lambda: self.image_steps(images, Options(), timeout_s),
        )

    def is_quick(self, texts: object) -> bool:
        """Whether a call takes less time than to hand it to another thread and back."""
        # Who fetches tokens may take any time.
        if self._lazy_tokenizer is None or callable(self._connection.auth):
            return False
        if isinstance(texts, (list, tuple)) and len(texts) <= _FEW:
            return all(isinstance(text, str) and len(text) <= _SHORT for text in texts)
        return isinstance(texts, str) and len(texts) <= _SHORT

    def begin_profile(self) -> Profiling:
        """Begins to note where the time of requests goes. Waits.

        Raises:
            ValueError: several servers answer.
        """
        if self._connection.several:
            raise ValueError(
                f"of {self._address} each counts for itself; profile a client of one of them"
            )
        stopwatch = Stopwatch()
        begun = self._counts()
        with self._lock:
            self._stopwatches = (*self._stopwatches, stopwatch)
        return Profiling(stopwatch, begun)

    def end_profile(self, profiling: Profiling) -> None:
        """Notes nothing any more."""
        with self._lock:
            self._stopwatches = tuple(
                each for each in self._stopwatches if each is not profiling.stopwatch
            )

    def fill_profile(self, profiling: Profiling, profile: RequestTimes) -> None:
        """Fills a profile with what was noted. Waits."""
        until = time.monotonic() + _COUNTED_S
        while True:
            found = {
                tower: counts - profiling.counts[tower] for tower, counts in self._counts().items()
            }
            late = profiling.stopwatch.is_behind() or any(
                since.requests < profiling.stopwatch.requests(tower)
                for tower, since in found.items()
            )
            if not late or time.monotonic() > until:
                break
            time.sleep(0.01)
        for tower, since in found.items():
            if times := profiling.stopwatch.times(tower, since):
                profile.towers[tower] = times

    def _counts(self) -> dict[str, ModelStatistics]:
        channel = self._channel()
        return {
            tower: channel.statistics(self._models[tower], self._timeout_s) for tower in self._most
        }

    def check_open(self) -> None:
        """Refuses to work for a client that is closed, or in a process that was forked off.

        Raises:
            ClosedError: it is one of both.
        """
        if self._closed:
            raise closed()
        if self._lazy_channel is not None:
            self._lazy_channel.check_process()

    def close(self) -> None:
        """Closes the connection. A second call does nothing."""
        self._closed = True
        if self._lazy_channel is not None:
            self._lazy_channel.close()
        if self._decoder is not None:
            self._decoder.close()

    def _start(self, deadline: float, tower: str, batch: Batch, behind: int) -> Pending:
        """Makes a batch and sends it."""
        begun = time.perf_counter_ns()
        if (inputs := batch.make()) is None:
            nothing: Future[NDArray[Any]] = Future()
            nothing.set_result(np.empty((0, self._card.dim), np.float32))
            return nothing
        # The server answers the requests of one call one after the other.
        patience = deadline * (behind + 1)
        sent = time.perf_counter_ns()
        pending = self._channel().infer(
            self._models[tower],
            {_INPUTS[tower]: inputs},
            EMBEDDING,
            patience,
            version=self._version,
            priority=self._priority,
        )
        for stopwatch in self._stopwatches:
            stopwatch.follow(tower, len(inputs), sent - begun, sent, pending)
        return pending

    def _explained(self, steps: Steps[_T], timeout_s: float) -> Steps[_T]:
        """Says so where a model is gone because another one took its place."""
        try:
            return (yield from steps)
        except ModelUnavailable as error:
            raise self._what_changed(error, timeout_s) from None

    def _what_changed(self, error: ModelUnavailable, timeout_s: float) -> ModelUnavailable:
        try:
            card = self._read_models(self._channel(), timeout_s).card
        except CliprtError:  # nobody can tell; what happened stands
            return error
        if card.space == self._card.space:
            return error
        return ModelUnavailable(
            f"{self._address} now serves {card.name} in another space ({card.space[:12]}) than the "
            f"one this client was made for, {self._card.name} ({self._card.space[:12]}); make a "
            "new client, and do not compare its embeddings with former ones"
        )

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
        model, version = self._names.card, self._version
        return served_file(self._channel(), model, name, timeout_s, version=version)

    def _served_spec(self, spec: _Spec | None, tower: str) -> _Spec:
        """How a tower is fed, if the server has it."""
        if spec is None:
            raise ModelUnavailable(
                f"{self._card.name} at {self._address} has no {tower} tower; "
                "serve a checkpoint that has one"
            )
        if tower not in self._most:
            raise ModelUnavailable(
                f"{self._address} does not serve the {tower} tower of {self._card.name}; "
                "check the server's log"
            )
        return spec

    def _read_models(self, channel: TritonChannel, timeout_s: float) -> _Served:
        """What the configurations of the towers say."""
        found: dict[str, Any] = {}
        missing: list[ModelUnavailable] = []
        for tower, name in self._models.items():
            try:
                found[tower] = channel.model_config(name, timeout_s)
            except ModelUnavailable as error:
                missing.append(error)
        if not found:
            raise missing[0]
        cards = [self._read_card(self._models[tower], config) for tower, config in found.items()]
        if cards[0] != cards[-1]:
            raise ModelUnavailable(
                f"{self._names.image} and {self._names.text} at {self._address} come from "
                "different bundles; serve both from one repository"
            )
        lengths = found["text"].parameters[LENGTHS_PARAMETER] if "text" in found else None
        return _Served(
            card=cards[0],
            most={tower: max(1, config.max_batch_size) for tower, config in found.items()},
            lengths=parse_lengths(lengths.string_value if lengths else ""),
        )

    def _read_card(self, name: str, config: Any) -> Card:
        if (card := carried_card(config, f"{name} at {self._address}")) is None:
            raise ModelUnavailable(
                f"the model {name} at {self._address} carries no card, so it was not made by "
                "cliprt repository; make its repository again"
            )
        return card

    def _channel(self) -> TritonChannel:
        self.check_open()
        self.card  # noqa: B018 - refuses what is not connected
        assert self._lazy_channel is not None
        return self._lazy_channel
