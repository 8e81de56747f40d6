"""What a run came to: tables for people, JSON for programs, a page with every series over time."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Sequence
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from typing import Any

from cliprt import __version__
from cliprt_bench._compare_tables import NONE, Table, Text
from cliprt_bench._drawing import (
    COLOURS,
    NAMED,
    SERIES,
    Key,
    Plot,
    drawing_style,
    finished,
    labels,
    new_figure,
)
from cliprt_bench._report import notes_section, page, plots_section, table_section
from soak.books import BAD, DISTURBED, GIVEN_UP, KILLED, OVERLOADED, REFUSED, RIGHT
from soak.running import Found

OUTCOMES = (RIGHT, REFUSED, GIVEN_UP, OVERLOADED, DISTURBED, *BAD)
_UNITS = {
    "memory_mb": "memory, MB",
    "proportional_mb": "proportional memory, MB",
    "files": "open files",
    "threads": "threads",
    "regions": "regions in /dev/shm",
    "regions_mb": "size of the regions in /dev/shm, MB",
    "children": "processes of the client",
    "zombies": "zombies",
    "temporary": "temporary files",
}


def requests_table(found: Found) -> Table:
    """Requests by kind and outcome."""
    kinds = sorted({kind for kind, _ in found.counts})
    shown = [one for one in OUTCOMES if one in BAD or found.total(one)]
    rows = [
        (Text(kind), *(Text(_count(found.counts[kind, outcome])) for outcome in shown))
        for kind in kinds
    ]
    rows.append((Text("all"), *(Text(_count(found.total(outcome))) for outcome in shown)))
    return Table("Requests", ("kind", *shown), tuple(rows))


def growth_table(found: Found) -> Table:
    """Every series that was judged, with what it grew by and may."""
    rows = []
    for one in found.judged:
        series, grew = one.series, one.growth
        count = max(each.generation for each in found.series if each.role == series.role)
        name = f"{series.role}, process {series.generation}" if count > 1 else series.role
        rows.append(
            (
                Text(f"{name}: {_UNITS[series.what]}"),
                Text(_number(grew.first)),
                Text(_number(grew.last)),
                Text(f"{grew.grown:+.1f}", tone="worse" if one.broken else ""),
                Text(f"{one.bound:g}"),
                Text(f"{grew.per_hour:+.1f}"),
                Text(f"{grew.seconds:.0f}"),
            )
        )
    columns = ("what", "second fifth", "last fifth", "grew by", "allowed", "slope, per hour", "s")
    return Table("Growth behind the first fifth", columns, tuple(rows))


def sentences(found: Found) -> list[str]:
    """The run in a few lines."""
    acts: dict[str, int] = {}
    for act in found.done:
        acts[act.what] = acts.get(act.what, 0) + 1
    killed = found.counts[KILLED, RIGHT]
    lines = [
        f"{found.requests:,} requests in {found.seconds:.0f} s, Triton {found.version}",
        ", ".join(f"{what}: {count} times" for what, count in acts.items()) or "nothing was killed",
        f"clients that were killed: {killed:,}",
        f"crashes of the tritonserver that nobody ordered: {found.crashes}",
    ]
    if short := found.unjudged():
        lines.append(f"too short-lived to be judged: {', '.join(short)}")
    return lines


def as_json(found: Found) -> str:
    """All that was seen."""
    content: dict[str, Any] = {
        "cliprt": __version__,
        "triton": found.version,
        "machine": {"cores": os.cpu_count(), "system": platform.platform()},
        "seconds": round(found.seconds, 1),
        "requests": found.requests,
        "outcomes": {outcome: found.total(outcome) for outcome in OUTCOMES},
        "kinds": [
            {"kind": kind, "outcome": outcome, "count": count}
            for (kind, outcome), count in sorted(found.counts.items())
        ],
        "faults": found.faults(),
        "troubles": [asdict(one) for one in found.troubles[:1000]],
        "done": [asdict(one) for one in found.done],
        "crashes": found.crashes,
        "left": list(found.left),
        "growth": [
            {
                "role": one.series.role,
                "process": one.series.generation,
                "what": one.series.what,
                **asdict(one.growth),
                "grown": one.growth.grown,
                "allowed": one.bound,
            }
            for one in found.judged
        ],
        "disturbances": [
            {
                "what": one.what,
                "begun_s": round(one.begun - found.begun, 2),
                "seconds": None if one.ended is None else round(one.ended - one.begun, 2),
            }
            for one in found.disturbances
        ],
        "series": [asdict(one) for one in found.series],
    }
    return json.dumps(content, indent=1) + "\n"


def write_page(found: Found, path: Path) -> None:
    """A page of its own with plots and tables.

    Raises:
        MissingExtra: matplotlib is not installed.
    """
    faults = found.faults()
    with drawing_style():
        plots = _plots(found)
    sections = [
        notes_section([*faults, *sentences(found)]),
        plots_section(plots),
        table_section(requests_table(found)),
        table_section(growth_table(found)),
    ]
    title = "Soak: " + ("everything as promised" if not faults else f"{len(faults)} faults")
    path.write_bytes(page(title, f"cliprt {__version__}, Triton {found.version}", sections))


def _plots(found: Found) -> list[Plot]:
    big, stubs = (
        ["client", "front", "tritonserver"],
        sorted({one.role for one in found.series if one.kind == "stub"}),
    )
    asked = (
        ("memory", "Memory of client, front and server", big, "memory_mb"),
        ("stubs", "Memory of the models' processes", stubs, "memory_mb"),
        ("files", "Open files", [*big, *stubs], "files"),
        ("threads", "Threads", [*big, *stubs], "threads"),
        ("regions", "Regions in /dev/shm", ["run"], "regions"),
        ("regions_mb", "Size of the regions in /dev/shm", ["run"], "regions_mb"),
        ("children", "Processes of the client", ["run"], "children"),
        ("temporary", "Temporary files", ["run"], "temporary"),
    )
    plots = [_over_time(found, *one) for one in asked]
    return [*plots, _rate(found)]


def _over_time(found: Found, name: str, title: str, roles: Sequence[str], what: str) -> Plot:
    figure, axes = new_figure()
    for series in found.series:
        if series.role in roles and series.what == what:
            colour = SERIES[roles.index(series.role) % COLOURS]
            axes.plot(_minutes(series.at_s), series.values, color=colour, linewidth=1.3)
    axes.set_ylim(bottom=0)
    labels(axes, "minutes", _UNITS[what])
    return _marked(found, figure, axes, name, title, roles if len(roles) > 1 else ())


def _rate(found: Found) -> Plot:
    figure, axes = new_figure()
    (one,) = (each for each in found.series if each.what == "requests")
    pairs = list(zip(one.at_s, one.values, strict=True))
    rates = [(later[1] - sooner[1]) / (later[0] - sooner[0]) for sooner, later in pairwise(pairs)]
    axes.plot(_minutes(one.at_s[1:]), rates, color=SERIES[0], linewidth=1.3)
    axes.set_ylim(bottom=0)
    labels(axes, "minutes", "requests in a second")
    return _marked(found, figure, axes, "rate", "Requests that ended", ())


def _marked(
    found: Found, figure: Any, axes: Any, name: str, title: str, roles: Sequence[str]
) -> Plot:
    for one in found.disturbances:
        at = (one.begun - found.begun) / 60
        axes.axvline(at, color=NAMED["soft"], linewidth=0.7, linestyle="-" if one.excuses else ":")
    caption = (
        "Upright lines: something was killed (drawn through) or a model was loaded anew (dotted). "
        "A process that was started again begins a new line."
    )
    legend = tuple(Key(index % COLOURS, "bar", role) for index, role in enumerate(roles))
    return finished(figure, name, title, caption, legend)


def _minutes(at_s: Sequence[float]) -> list[float]:
    return [at / 60 for at in at_s]


def _count(value: int) -> str:
    return f"{value:,}" if value else NONE


def _number(value: float) -> str:
    return f"{value:,.1f}".removesuffix(".0")
