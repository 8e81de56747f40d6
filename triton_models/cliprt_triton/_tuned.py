"""What ``cliprt tune`` found out: a file that ``cliprt repository`` and ``cliprt serve`` take."""

from __future__ import annotations

import contextlib
import platform
import re
from pathlib import Path

import msgspec

from cliprt._card import Card
from cliprt._cores import usable_cores
from cliprt._errors import InvalidInput
from cliprt._folders import write_whole
from cliprt._json import UnreadableJson, read_json
from cliprt_engines import CpuSettings
from cliprt_triton._policy import Policy

SCHEMA = 1
"""Version of the layout. A reader refuses any other."""

_CPUINFO = Path("/proc/cpuinfo")


class Tuned(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How to serve a bundle on one machine under one load.

    Attributes:
        schema: version of the layout.
        model: name of the model that it was measured with.
        space: of its embeddings, hexadecimal.
        machine: that it was measured on, as :meth:`this_machine` tells it.
        goal: the load and the limit, in words.
        why: what was found, in words.
        precision: of the towers.
        policy: batches and queues.
        settings: by tower, how the runtime ``python`` computes it.
        evidence: a line for each candidate that was measured.
    """

    schema: int
    model: str
    space: str
    machine: str
    goal: str
    why: str
    precision: str
    policy: Policy
    settings: dict[str, CpuSettings]
    evidence: tuple[str, ...]

    def write(self, path: Path) -> None:
        """Writes the file, whole or not at all.

        Raises:
            OSError: it cannot be written.
        """
        write_whole(path, msgspec.json.format(msgspec.json.encode(self)) + b"\n")

    def check(self, card: Card) -> None:
        """Refuses a model that it was not measured with.

        Raises:
            InvalidInput: the card is of another space.
        """
        if card.space != self.space:
            raise InvalidInput(
                f"the policy was measured with {self.model} (space {self.space}), not with "
                f"{card.name} (space {card.space}); run cliprt tune on this bundle"
            )

    def warning(self) -> str | None:
        """Says that this is another machine than the one that it was measured on, if it is."""
        if (here := self.this_machine()) == self.machine:
            return None
        return (
            f"the policy was measured on {self.machine}, this is {here}; run cliprt tune where the "
            "bundle is served"
        )

    @staticmethod
    def this_machine() -> str:
        """The processor at hand, and the cores of it that this process may use."""
        name = platform.processor() or platform.machine()
        with contextlib.suppress(OSError):
            found = re.search(r"(?m)^model name\s*: (.+)$", _CPUINFO.read_text())
            name = found[1] if found else name
        return f"{name}, {usable_cores()} cores"


def read_tuned(path: Path) -> Tuned:
    """Reads a file that ``cliprt tune`` wrote.

    Raises:
        InvalidInput: there is none, it is of another schema, or it is damaged.
    """
    try:
        content = path.read_bytes()
        schema = read_json(content, _Versioned).schema
        if schema != SCHEMA:
            raise InvalidInput(
                f"{path} has schema {schema}, this cliprt reads {SCHEMA}; run cliprt tune again"
            )
        return read_json(content, Tuned)
    except OSError as cause:
        raise InvalidInput(f"{path} cannot be read: {cause.strerror}") from None
    except UnreadableJson as cause:
        raise InvalidInput(f"{path} is no policy of cliprt tune: {cause}") from None


class _Versioned(msgspec.Struct):
    schema: int
