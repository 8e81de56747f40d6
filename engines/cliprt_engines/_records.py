"""What the records in an engine's manifest have in common."""

from __future__ import annotations

import msgspec

from cliprt._card import FileEntry


class Record(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A value object whose JSON form must match exactly.

    What it says is printed in tables and refusals, so no text in it may steer a terminal.
    """

    def __post_init__(self) -> None:
        for name in self.__struct_fields__:
            value = getattr(self, name)
            # Of a dictionary that is its keys.
            for text in (value,) if isinstance(value, str) else _texts(value):
                if not text.isprintable():
                    raise ValueError(f"{name} holds {text!r}, which is not to be printed")


def _texts(value: object) -> list[str]:
    if not isinstance(value, (tuple, dict)):
        return []
    return [text for text in value if isinstance(text, str)]


def check_entry(entry: FileEntry) -> None:
    """Refuses a file without content.

    Raises:
        ValueError: it is one.
    """
    if entry.size < 1:
        raise ValueError(f"{entry.sha256!r} and {entry.size} bytes are no file")
