"""JSON of a file or a server, read into a type, whatever it really holds.

A damaged or hostile text makes the decoder raise errors of several kinds, and quote what it read.
Whoever reads an artefact meets one kind here, in words that can be printed.
"""

from __future__ import annotations

from typing import TypeVar

import msgspec

Type = TypeVar("Type")


class UnreadableJson(ValueError):
    """A text is no JSON of the type that was asked for; the message is one short line."""


def read_json(data: bytes | str, kind: type[Type]) -> Type:
    """Reads JSON.

    Args:
        data: the text, in UTF-8 where it is bytes.
        kind: what it must be.

    Raises:
        UnreadableJson: it is something else.
    """
    try:
        return msgspec.json.decode(data, type=kind)
    except UnicodeError:
        raise UnreadableJson("it is not UTF-8") from None
    except RecursionError:
        raise UnreadableJson("it is nested too deeply") from None
    except msgspec.MsgspecError as error:
        raise UnreadableJson(one_line(error)) from None


def one_line(said: BaseException | str, most: int = 300) -> str:
    """What somebody else says, for a message: nothing in it steers a terminal or fills a log."""
    said = str(said).strip() or type(said).__name__
    text = "".join(char if char.isprintable() else "?" for char in said[: most + 1])
    return text if len(text) <= most else f"{text[:most]}..."
