"""The health of a served model, as seen over gRPC."""

from __future__ import annotations

import hashlib
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from cliprt._arguments import checked_timeout
from cliprt._bundle import CERTIFICATE, GOLDEN, Bundle
from cliprt._card import Card
from cliprt._connection import Connection
from cliprt._errors import BundleError, CliprtError, DeadlineExceeded, ModelUnavailable
from cliprt._health import Check, LiveTower, Question, Report, check_towers, report_of
from cliprt._known import Known, bar_of
from cliprt._names import (
    EMBEDDING,
    LENGTHS_PARAMETER,
    PIXELS,
    PRECISION_PARAMETER,
    TOKENS,
    ModelNames,
)
from cliprt._served_bundle import carried_card, served_file
from cliprt._texts import parse_lengths

if TYPE_CHECKING:
    from cliprt._grpc import PendingTensor, TritonChannel

_AT_ONCE = 4
"""Requests that are under way at once. Each tower's queue must take them."""

_SHARE = 0.3
"""Part of the time that a single question may take."""

_QUEUED = 0.6
"""Part of a question's time that it may wait in a queue: then the server says that it is busy,
before nobody can tell that from a tower that hangs."""

_AGAIN = "make the repository again with this cliprt"


def check_server(
    server: str | Connection,
    *,
    model: str = "clip",
    bundle: Bundle | None = None,
    thorough: bool = False,
    timeout_s: float = 30.0,
) -> Report:
    """Asks a served model for known answers, single items, in batches and all at once.

    Args:
        server: host and gRPC port, ``host:8001``, or how else it is reached. Nothing is retried.
        model: name under which the bundle is served; the prefix of its Triton models.
        bundle: what should be served, whose known answers are taken; None takes what the server
            hands out, checked against the card that it serves.
        thorough: ask for every known item alone, and mix others into the batches: three times as
            many pictures and texts.
        timeout_s: how long everything together may take, in seconds.

    Raises:
        ValueError: server, model or timeout_s is malformed.
    """
    from cliprt._grpc import TritonChannel  # gRPC takes a while to import

    names = ModelNames(model)
    begun = time.perf_counter()
    connection = Connection(server) if isinstance(server, str) else server
    channel = TritonChannel(replace(connection, retry=None))
    try:
        seen = _Server(channel, names, bundle, checked_timeout(timeout_s))
        checks = seen.checks(thorough=thorough)
    finally:
        channel.close()
    took_s = time.perf_counter() - begun
    return report_of(checks, model=model, space=seen.space, took_s=took_s)


class _Server:
    """One look at a server."""

    def __init__(
        self, channel: TritonChannel, names: ModelNames, bundle: Bundle | None, timeout_s: float
    ) -> None:
        self.space = ""
        self._channel, self._names, self._bundle = channel, names, bundle
        self._timeout_s = timeout_s
        self._fetched: dict[str, bytes] = {}
        self._ends = time.monotonic() + timeout_s

    def checks(self, *, thorough: bool) -> list[Check]:
        """Everything that can be seen."""
        checks: list[Check] = []
        configs = {}
        for tower, name in (("image", self._names.image), ("text", self._names.text)):
            try:
                configs[tower] = self._channel.model_config(name, self._left_s())
            except ModelUnavailable:
                pass  # whether it should be there is for the card to say
            except CliprtError as error:
                return [_wrong("server", "configuration", str(error))]
        try:
            card = self._one_card(configs)
            self.space = card.space
            if self._bundle is not None and card.space != self._bundle.card.space:
                found, limit = card.space, f"the bundle's is {self._bundle.card.space}"
                advice = "serve the repository of that bundle, or name the bundle that is served"
                return [_wrong("model", "space", found, advice, limit)]
            checks.append(Check(where="model", what="space", verdict="good", found=card.space))
            checks += self._missing(card, configs)
            towers = [self._tower(tower, card, config) for tower, config in configs.items()]
        except CliprtError as error:
            return [*checks, _wrong("model", "identity", str(error))]
        return checks + check_towers(towers, self._ask, thorough=thorough)

    def _one_card(self, configs: dict[str, Any]) -> Card:
        """The card that all towers carry."""
        cards = []
        for tower, config in configs.items():
            card = carried_card(config, f"{config.name} at {self._channel.address}")
            if card is None:
                raise ModelUnavailable(f"the {tower} tower carries no card; {_AGAIN}")
            cards.append(card)
        if not cards:
            raise ModelUnavailable(
                f"{self._channel.address} serves neither {self._names.image} nor "
                f"{self._names.text}; check --model and the server's log"
            )
        if cards[0].space != cards[-1].space:
            raise ModelUnavailable(
                f"the towers are of the spaces {cards[0].space} and {cards[-1].space}; "
                "serve both from one repository"
            )
        return cards[0]

    def _missing(self, card: Card, configs: dict[str, Any]) -> list[Check]:
        """Towers that the card promises and nobody serves."""
        return [
            _wrong(tower, "tower", "not served", "see the server's log", "the card has one")
            for tower, spec in (("image", card.image), ("text", card.text))
            if spec is not None and tower not in configs
        ]

    def _tower(self, tower: str, card: Card, config: Any) -> LiveTower:
        """A tower with its known answers."""
        origin = f"{self._names.prefix} at {self._channel.address}"
        if PRECISION_PARAMETER not in config.parameters:
            raise ModelUnavailable(f"the {tower} tower does not say its precision; {_AGAIN}")
        precision = config.parameters[PRECISION_PARAMETER].string_value
        lengths = config.parameters[LENGTHS_PARAMETER].string_value if tower == "text" else ""
        return LiveTower(
            name=tower,
            known=Known.read(self._file(GOLDEN, card), tower, origin=origin),
            bar=bar_of(self._file(CERTIFICATE, card), tower, precision, origin=origin),
            max_batch=max(1, config.max_batch_size),
            text=card.text if tower == "text" else None,
            lengths=_lengths(lengths, tower),
        )

    def _file(self, name: str, card: Card) -> bytes:
        """A file of the bundle, or what the server hands out under its name."""
        if self._bundle is not None:
            return self._bundle.file(name).read_bytes()
        if name not in self._fetched:
            self._fetched[name] = self._fetch(name, card)
        return self._fetched[name]

    def _fetch(self, name: str, card: Card) -> bytes:
        """A file that the server hands out, if it is the one that the card names."""
        try:
            content = served_file(self._channel, self._names.card, name, self._left_s())
        except CliprtError as error:
            raise ModelUnavailable(
                f"{self._names.card} does not hand out {name} ({error}); {_AGAIN}, or pass --bundle"
            ) from None
        entry = card.files.get(name)
        if entry is None or hashlib.sha256(content).hexdigest() != entry.sha256:
            raise BundleError(
                f"{name} of {self._names.card} is not the one that the card names (its SHA-256 "
                f"differs); {_AGAIN}"
            )
        return content

    def _ask(self, questions: Sequence[Question]) -> list[NDArray[Any] | CliprtError]:
        """All at once, as far as a short queue allows."""
        pending: deque[tuple[PendingTensor, float]] = deque()
        answers: list[NDArray[Any] | CliprtError] = []
        patience_s = self._left_s()
        if len(questions) == 1:
            # One tower that hangs must leave time to ask the other.
            patience_s = min(patience_s, self._timeout_s * _SHARE)
        for question in questions:
            if len(pending) == _AT_ONCE:
                answers.append(_answer(*pending.popleft()))
            pending.append((self._start(question, patience_s), patience_s))
        return answers + [_answer(*one) for one in pending]

    def _start(self, question: Question, patience_s: float) -> PendingTensor:
        image = question.tower == "image"
        return self._channel.infer(
            self._names.image if image else self._names.text,
            {PIXELS if image else TOKENS: question.batch},
            EMBEDDING,
            patience_s,
            queue_timeout_s=_QUEUED * patience_s,
        )

    def _left_s(self) -> float:
        # gRPC wants a positive time; what is asked too late fails at once.
        return max(0.001, self._ends - time.monotonic())


def _lengths(value: str, tower: str) -> tuple[int, ...]:
    try:
        return parse_lengths(value)
    except ValueError as error:
        raise ModelUnavailable(
            f"the {tower} tower's {LENGTHS_PARAMETER} cannot be used ({error}); {_AGAIN}"
        ) from None


def _answer(pending: PendingTensor, patience_s: float) -> NDArray[Any] | CliprtError:
    """What was answered, or why nothing was."""
    try:
        return pending.result()
    except DeadlineExceeded:
        return DeadlineExceeded(f"no answer within {patience_s:.2g} s")
    except CliprtError as error:
        return error


def _wrong(where: str, what: str, found: str, advice: str = "", limit: str = "") -> Check:
    return Check(where=where, what=what, verdict="wrong", found=found, limit=limit, advice=advice)
