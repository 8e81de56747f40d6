"""Triton's side of a Python model: parameters, tensors, and errors with their status."""

from __future__ import annotations

import importlib
import json
import logging
import math
import re
import time
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from cliprt._card import Card, decode_card
from cliprt._errors import DeploymentError, InvalidInput, Overloaded, ServerError
from cliprt._limits import Limits
from cliprt._names import (
    CARD_PARAMETER,
    EMBEDDING,
    LIMITS_PARAMETER,
    OVERLOAD_TEXTS,
    TOO_LATE_TEXT,
)

# The backend's process prints into the server's log.
_log = logging.getLogger("cliprt.models")

_PLACE = re.compile(r"(?<![\w.])(?:/[\w.@+-]+){2,}/?|0x[0-9a-fA-F]{4,}")

_Request = TypeVar("_Request")
_Begun = TypeVar("_Begun")

# Part of the longest wait for which what was prepared is held for a tower that is full. Whenever a
# batch begins there is room for a moment, and whoever asks then has it; but asking costs time, so
# that many who are held ask less often, each.
_HELD = 0.25
_AGAIN_S = 0.01
_ASKS_S = 1000


@cache
def pb_utils() -> Any:
    """Triton's module, which exists in its Python backend alone."""
    return importlib.import_module("triton_python_backend_utils")


class Setup:
    """What Triton tells a model before it is ready.

    Attributes:
        folder: of the model's version, where its files lie.
        parameters: of its configuration.
        inputs: names of its inputs.
        max_batch_size: items of a request and of a batch.
        queue_timeout_s: how long an interactive request may wait before it; 0 without a queue.
    """

    def __init__(self, args: Mapping[str, str]) -> None:
        """Takes the argument of ``initialize``."""
        config = json.loads(args["model_config"])
        self.folder = Path(args["model_repository"]) / args["model_version"]
        self.version = int(args["model_version"])
        self.max_batch_size = int(config["max_batch_size"])
        queue = config.get("dynamic_batching", {}).get("default_queue_policy", {})
        self.queue_timeout_s = int(queue.get("default_timeout_microseconds", 0)) / 1e6
        self.inputs = [str(tensor["name"]) for tensor in config["input"]]
        self.parameters: dict[str, str] = {
            key: entry["string_value"] for key, entry in config["parameters"].items()
        }

    @property
    def card(self) -> Card:
        """The bundle's card."""
        return decode_card(self.parameters[CARD_PARAMETER], origin="the model's configuration")

    @property
    def limits(self) -> Limits:
        """Bounds on the inputs.

        Raises:
            DeploymentError: the configuration has no such limits.
        """
        text = self.parameters[LIMITS_PARAMETER]
        try:
            return msgspec.json.decode(text, type=Limits, strict=True)
        except msgspec.MsgspecError as error:
            raise DeploymentError(
                f"the parameter {LIMITS_PARAMETER} is not usable ({error}): {text}"
            ) from None


def check_numpy(program: Path = Path("/proc/self/exe")) -> None:
    """Refuses the one pair that crashes: string tensors under NumPy 2 in Tritons before 24.11.

    Args:
        program: of the process, in which pybind11 is compiled in. Before its version 2.12 it looks
            for a module of NumPy that NumPy 2 renamed, and misreads arrays of objects.

    Raises:
        DeploymentError: this is NumPy 2, and the program does not know it.
    """
    if int(np.__version__.split(".")[0]) < 2:
        return
    try:
        old = b"numpy.core.multiarray" in program.read_bytes()
    except OSError:
        return
    if old:
        raise DeploymentError(
            f"string tensors crash Triton before 24.11 under NumPy {np.__version__}; in the Python "
            "that Triton uses run: pip install 'numpy<2'"
        )


def array_of(request: Any, name: str) -> NDArray[Any]:
    """An input of a request."""
    tensor: NDArray[Any] = pb_utils().get_input_tensor_by_name(request, name).as_numpy()
    return tensor


def items_of(request: Any, name: str) -> NDArray[Any]:
    """An input of a request whose configuration reshapes it to [batch, 1, ...]: [batch, ...].

    Raises:
        InvalidInput: the batch that was named is a multiple of 2^32, which Triton 24.10 takes for
            none, so that the dimension is gone.
    """
    array = array_of(request, name)
    if array.ndim < 3 or array.shape[1] != 1:
        raise _no_batch(name)
    return array.reshape(len(array), *array.shape[2:])


def strings_of(request: Any, name: str) -> list[bytes]:
    """A string input [batch, 1] of a request.

    Raises:
        InvalidInput: as ``items_of``.
    """
    array = array_of(request, name)
    if array.ndim != 2:
        raise _no_batch(name)
    return [bytes(item) for item in array.reshape(-1)]


def _no_batch(name: str) -> InvalidInput:
    return InvalidInput(f"the batch that the shape of {name!r} names is none; name its items")


def ask_tower(
    model: str, version: int, name: str, array: NDArray[Any], *, timeout_us: int
) -> NDArray[np.float32]:
    """What a tower of the same server answers.

    Args:
        model: its name.
        version: which of its versions; there is none of another space under it.
        name: of its input.
        array: the input.
        timeout_us: how long the request may wait in the tower's queue, in microseconds; 0 leaves
            that to the queue.

    Raises:
        Overloaded: its queue is full, or the request was too late.
        ServerError: it failed.
    """
    utils = pb_utils()
    response = utils.InferenceRequest(
        model_name=model,
        model_version=version,
        inputs=[utils.Tensor(name, array)],
        requested_output_names=[EMBEDDING],
        timeout=timeout_us,
    ).exec()
    if response.has_error():
        words = response.error().message()
        # The status is that of any failure; only the text tells.
        if any(sign in words.lower() for sign in OVERLOAD_TEXTS):
            raise Overloaded(words)
        _log.error("%s failed: %s", model, words)
        raise ServerError(without_places(words))
    # A view would point into memory that goes with the response.
    return np.array(utils.get_output_tensor_by_name(response, EMBEDDING).as_numpy())


class Cancelled(Exception):
    """The caller of a request has given it up."""


class Caller:
    """Who sent a request: whether he still waits for it, and for how long he would."""

    def __init__(self, request: Any, setup: Setup) -> None:
        """His time begins now; how long the request was in the queue, Triton does not tell.

        Args:
            request: one of a batch that is not answered yet.
            setup: of the model that was asked; its queue says how long a request may wait.
        """
        self._request = request
        bounds = [each for each in (setup.queue_timeout_s, request.timeout() / 1e6) if each > 0]
        self._ends = time.monotonic() + min(bounds, default=math.inf)

    @property
    def left_s(self) -> float:
        """How much longer he waits, in seconds; infinite where nothing bounds it."""
        return max(0.0, self._ends - time.monotonic())

    def check(self) -> None:
        """Goes on if he waits still.

        Raises:
            Cancelled: he does not.
        """
        if self._request.is_cancelled():
            raise Cancelled("the request was cancelled")


class FedTower:
    """A tower that is fed with what was prepared for it.

    While it is full, what was prepared is held and not thrown away: callers that go to the tower
    itself may have filled it. And whoever holds something prepares nothing new.
    """

    def __init__(self, setup: Setup, model: str, name: str) -> None:
        """Asks nothing yet.

        Args:
            setup: of the model that feeds it.
            model: name of the tower.
            name: of its input.
        """
        self._model, self._version, self._name = model, setup.version, name
        self._patience_s = _HELD * setup.queue_timeout_s
        self._held: list[Caller] = []

    def ask(self, array: NDArray[Any], caller: Caller) -> NDArray[np.float32]:
        """What it answers, however often its queue was full before; as ``ask_tower``.

        Args:
            array: the input.
            caller: for whom; hold and queue together take no longer than he waits.

        Raises:
            Cancelled: he has gone.
        """
        ends: float | None = None
        try:
            while True:
                caller.check()
                try:
                    return self._ask(array, caller.left_s)
                except Overloaded as error:
                    if ends is None:
                        ends = time.monotonic() + min(self._patience_s, caller.left_s)
                        self._held.append(caller)
                    pause_s = max(_AGAIN_S, len(self._held) / _ASKS_S)
                    too_late = TOO_LATE_TEXT in str(error).lower()
                    if too_late or time.monotonic() + pause_s > ends:
                        raise
                time.sleep(pause_s)
        finally:
            if ends is not None:
                self._held.remove(caller)

    def _ask(self, array: NDArray[Any], left_s: float) -> NDArray[np.float32]:
        timeout_us = 0 if math.isinf(left_s) else max(1, int(left_s * 1e6))
        return ask_tower(self._model, self._version, self._name, array, timeout_us=timeout_us)


def answer(**tensors: NDArray[Any]) -> Any:
    """A response of tensors by name; the arrays must be contiguous."""
    utils = pb_utils()
    return utils.InferenceResponse([utils.Tensor(*each) for each in tensors.items()])


def without_places(words: str) -> str:
    """What a failed model said, fit for callers: one line, no paths, no addresses in memory."""
    first, *_ = words.splitlines() or [""]
    return _PLACE.sub("...", first)


def failure(error: BaseException) -> Any:
    """The response that an error stands for: words for callers, and a status that they can read.

    What nobody foresaw is told to the server's log alone: it may name paths and addresses.
    """
    utils = pb_utils()
    if isinstance(error, InvalidInput):
        code = utils.TritonError.INVALID_ARG
    elif isinstance(error, Overloaded):
        code = utils.TritonError.UNAVAILABLE
    elif isinstance(error, Cancelled):
        code = utils.TritonError.CANCELLED
    else:
        code = utils.TritonError.INTERNAL
    words = str(error)
    if not isinstance(error, (InvalidInput, Overloaded, Cancelled, ServerError)):
        _log.error("a request failed", exc_info=error)
        words = "the model failed on this request; the server's log says why"
    return utils.InferenceResponse(error=utils.TritonError(words, code))


def each_tried(
    requests: Sequence[_Request], begin: Callable[[_Request], _Begun]
) -> list[_Begun | Exception]:
    """Begins with each request; of one that fails the error is kept for its answer."""
    begun: list[_Begun | Exception] = []
    for request in requests:
        try:
            begun.append(begin(request))
        except Exception as error:  # noqa: BLE001 - the request fails, the server must not
            begun.append(error)
    return begun


def each_answered(
    requests: Sequence[_Request | Exception], answer_of: Callable[[_Request], Any]
) -> list[Any]:
    """Answers requests one after the other; a bad one costs itself alone."""
    responses = []
    for request in requests:
        try:
            if isinstance(request, Exception):
                raise request
            responses.append(answer_of(request))
        except Exception as error:  # noqa: BLE001 - as above
            responses.append(failure(error))
    return responses
