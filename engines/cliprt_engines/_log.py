"""TensorRT's log, as Python's."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from types import ModuleType
from typing import Any

from cliprt._errors import EngineError

logger = logging.getLogger("cliprt_engines.tensorrt")

_LEVELS = {
    "INTERNAL_ERROR": logging.ERROR,
    "ERROR": logging.ERROR,
    "WARNING": logging.WARNING,
    "INFO": logging.INFO,
    "VERBOSE": logging.DEBUG,
}

_collectors: list[list[str]] = []
_lock = threading.Lock()


@cache
def tensorrt_logger(api: ModuleType) -> Any:
    """The one logger that TensorRT gets: it keeps the first of a process for ever.

    What TensorRT says goes to the logger ``cliprt_engines.tensorrt``: errors and warnings as what
    they are, its chatter as debug.
    """

    class Log(api.ILogger):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            # Not super(): the library demands that this very method is called.
            api.ILogger.__init__(self)

        def log(self, severity: Any, message: str) -> None:
            level = _LEVELS.get(severity.name, logging.DEBUG)
            # Where a build fails, its errors are raised; a log that says them too says them twice.
            logger.log(logging.DEBUG if level == logging.ERROR and _collectors else level, message)
            if level == logging.ERROR:
                with _lock:
                    for collector in _collectors:
                        collector.append(message)

    return Log()


@contextmanager
def collected_errors() -> Iterator[list[str]]:
    """Collects the errors that TensorRT logs meanwhile, in any thread."""
    errors: list[str] = []
    with _lock:
        _collectors.append(errors)
    try:
        yield errors
    finally:
        with _lock:
            _collectors[:] = [other for other in _collectors if other is not errors]


def said(errors: list[str]) -> str:
    """What TensorRT said, each once."""
    return "; ".join(dict.fromkeys(error.strip() for error in errors)) or "it does not say why"


def started(factory: Callable[..., Any], *arguments: Any, what: str) -> Any:
    """Makes one of TensorRT's objects: a builder, a parser, a runtime.

    Where there is no GPU or no memory, the library makes none; its Python module says that as a
    TypeError about a null pointer.

    Args:
        factory: makes it.
        arguments: of the factory.
        what: what cannot be started then, for the message.

    Raises:
        EngineError: there is none.
    """
    with collected_errors() as errors:
        try:
            made = factory(*arguments)
        except TypeError as error:
            raise EngineError(f"{what} cannot be started: {said(errors or [str(error)])}") from None
        if made is None:
            raise EngineError(f"{what} cannot be started: {said(errors)}")
        return made
