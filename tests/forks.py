"""Work in a forked child, and what it came to."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable


def in_child(work: Callable[[], object]) -> str:
    """What a forked child got: the result, or the error's kind and text."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        # A child that hangs ends, and the test with it; a handler in Python would hang as well.
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(30)
        try:
            told = str(work())
        except BaseException as error:  # noqa: BLE001 - the test wants to see any
            told = f"{type(error).__name__}: {error}"
        os.write(writer, told.encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        told = pipe.read().decode()
    _, status = os.waitpid(child, 0)
    return told if status == 0 else f"the child ended with {status}"
