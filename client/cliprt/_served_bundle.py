"""What a server hands out of the bundle that it serves: the card, and files by their names."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from cliprt._card import Card, decode_card
from cliprt._names import CARD_PARAMETER

if TYPE_CHECKING:
    from cliprt._grpc import TritonChannel


def carried_card(config: Any, origin: str) -> Card | None:
    """The card that a model's configuration carries; None if it carries none.

    Args:
        config: Triton's ``ModelConfig`` message.
        origin: where it came from, for the error message.

    Raises:
        BundleError: it cannot be read.
    """
    if CARD_PARAMETER not in config.parameters:
        return None
    return decode_card(config.parameters[CARD_PARAMETER].string_value, origin=origin)


def served_file(
    channel: TritonChannel, model: str, name: str, timeout_s: float, *, version: int | None = None
) -> bytes:
    """A file of the served bundle, through the model that hands them out. Waits.

    Args:
        channel: to the server.
        model: ``ModelNames.card``.
        name: of the file.
        timeout_s: deadline, in seconds.
        version: of the model; None takes the one that is served.

    Raises:
        CliprtError: the server does not hand it out.
    """
    request = {"name": np.frombuffer(name.encode(), dtype=np.uint8)}
    answer = channel.infer(model, request, "content", timeout_s, version=version)
    return answer.result().tobytes()
