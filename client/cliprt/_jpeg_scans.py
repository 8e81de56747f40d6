"""How often a JPEG decoder would go through a picture, counted before it does.

A picture may come in many scans, each of which may touch all of it again and take no more than ten
bytes of the file: the size in the header says nothing about the time. What is read here is
described in ITU-T T.81, annex B.
"""

from __future__ import annotations

import re

# What a decoder takes for a marker. Behind 0xFF, 0 is data and 0xFF padding; those of restarts
# (0xD0 to 0xD7) belong to the data of a scan.
_MARKER = re.compile(rb"\xff([\x01-\xcf\xd8-\xfe])")

_END, _SCAN = 0xD9, 0xDA
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_PROGRESSIVE = (0xC2, 0xC6, 0xCA, 0xCE)

# Markers that say how long they are. All others are passed over by their two bytes, so that no scan
# hides behind them.
_SEGMENTS = frozenset([*range(0xC0, 0xC8), *range(0xC9, 0xD0), *range(0xDA, 0xF0), 0xFE])

# A file of a hundred scans has a few tables before each; what has more than this is made to be
# counted.
_MOST_MARKERS = 100_000


def count_scans(data: bytes, most: int) -> int:
    """Scans of a JPEG file, as far as it is worth counting.

    A file of one scan, as most are, costs some microseconds; others are looked through to the end.

    Args:
        data: the file; it may be cut short or damaged.
        most: where the count may stop: more than this is ``most + 1``.

    Returns:
        0 to ``most + 1``.
    """
    place, scans, components, progressive = 2, 0, -1, False
    for _ in range(_MOST_MARKERS):
        if (found := _MARKER.search(data, place)) is None:
            return scans
        marker, place = found[1][0], found.end()
        if marker == _END:
            return scans
        if marker not in _SEGMENTS:
            continue
        segment = data[place : place + int.from_bytes(data[place : place + 2], "big")]
        place += max(len(segment), 2)
        if marker in _FRAMES and len(segment) > 7:
            progressive, components = marker in _PROGRESSIVE, segment[7]
        elif marker == _SCAN:
            scans += 1
            # With all components in the first scan, decoders take no second one.
            whole = not progressive and segment[2:3] == bytes([max(components, 0)])
            if scans > most or whole:
                return scans
    return most + 1
