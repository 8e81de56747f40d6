"""The standard input as a source: it can be read once, so its lines are kept in a listing."""

from __future__ import annotations

import sys
from collections.abc import Iterator

from cliprt_batch._kinds import Kind
from cliprt_batch._lines import Form, counts, lines_of, list_form, quoted


def from_stdin(kind: Kind, towers: tuple[str, ...]) -> tuple[Form, Iterator[bytes]]:
    """What lines of the standard input are, and the lines of a listing of it.

    Lines that are no items stay as blank ones, so that the others keep their numbers.
    """
    lines = lines_of(sys.stdin.buffer)
    before = 0
    first = b""
    for first, _ in lines:
        if first and not first.isspace():
            break
        before, first = before + 1, b""
    as_objects = first.lstrip().startswith(b"{") if kind in ("auto", "stdin") else kind == "jsonl"
    form: Form = "objects" if as_objects else list_form(towers)

    def frozen(line: bytes) -> bytes:
        if not counts(line, form):
            return b"\n"
        if form == "objects":
            return line + b"\n"
        return quoted(line.decode("utf-8", "surrogateescape"))

    def listing() -> Iterator[bytes]:
        yield from (b"\n" for _ in range(before))
        if first:
            yield frozen(first)
        for line, _ in lines:
            yield frozen(line)

    return form, listing()
