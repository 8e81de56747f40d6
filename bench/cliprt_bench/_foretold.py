"""How long a measurement will take, said beforehand."""

from __future__ import annotations

from collections.abc import Sequence

from cliprt_bench._cli_options import Asked


def foretold(asked: Asked, settling: Sequence[float], later: Sequence[str]) -> str:
    """Says how long points will take.

    Args:
        asked: how each is measured.
        settling: of each point, seconds before each repeat that do not count.
        later: what is measured after them.
    """
    seconds = sum(asked.warmup + asked.repeats * (each + asked.seconds) for each in settling)
    told = f"{seconds / 60:.0f} minutes" if seconds >= 120 else f"{seconds:.0f} seconds"
    more = f" Then come {' and '.join(later)}." if later else ""
    return (
        f"{len(settling)} points, {asked.repeats} windows of {asked.seconds:g} s each: about "
        f"{told}, longer where requests are slow.{more} Ctrl-C ends it and keeps what was measured "
        "so far."
    )
