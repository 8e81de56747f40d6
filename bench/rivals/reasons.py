"""Why a rival is absent, in a line that holds no path of this machine and no address."""

from __future__ import annotations

import re

MOST_LETTERS = 300

_ADDRESS = re.compile(r"\b[a-z][a-z0-9+.-]*://[^\s'\"]+")
_PATH = re.compile(r"(?<![\w.])~?(?:/[\w.@+~=-]+)+/([\w.@+~=-]+)")


def cleaned(line: str) -> str:
    """A line without addresses, and with the last name only of every path."""
    line = _ADDRESS.sub("<address>", line)
    line = _PATH.sub(r"\1", line)
    line = " ".join(line.split())
    return line if len(line) <= MOST_LETTERS else line[: MOST_LETTERS - 1] + "…"


def reason_of(error: BaseException) -> str:
    """An exception's class and the last line of its message."""
    lines = str(error).strip().splitlines()
    name = type(error).__name__
    return cleaned(f"{name}: {lines[-1]}" if lines else name)


def reason_in(output: str, fallback: str) -> str:
    """The line of a program's output that says why it failed.

    Args:
        output: what it wrote.
        fallback: the reason where it wrote nothing.

    Returns:
        The last line that begins with ``ERROR`` or names an exception, else the last line.
    """
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    telling = [line for line in lines if re.match(r"ERROR|[\w.]*(Error|Exception)\b", line)]
    return cleaned((telling or lines or [fallback])[-1])
