"""Files that a command writes where it was told to."""

from __future__ import annotations

from pathlib import Path

from cliprt._errors import InvalidInput
from cliprt._folders import write_whole


def write_result(path: Path, content: bytes) -> None:
    """Writes a file that appears whole or not at all; its folder is made.

    Raises:
        InvalidInput: it cannot be written.
    """
    try:
        write_whole(path, content)
    except OSError as error:
        raise InvalidInput(
            f"{path} cannot be written: {error.strerror or error}; name another file"
        ) from None
