"""What a point took beside time: processors, memory, bytes, a GPU, and the generator's part."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from cliprt_bench._figures import Figure

_HEADINGS = {
    "capacity_s": "capacity, items/s",
    "offered_s": "offered, items/s",
    "cpu_cores": "busy cores",
    "target_cores": "target's cores",
    "process_cores": "cores of generator's process",
    "generator_cores": "generator's cores",
    "lag_p99_ms": "generator's lag p99, ms",
    "sent_bytes": "bytes sent/item",
    "received_bytes": "bytes received/item",
    "rss_mb": "target's memory, MB",
    "gpu_percent": "GPU busy, %",
    "gpu_mb": "GPU memory, MB",
    "gpu_power_w": "GPU power, W",
}


def resources(
    points: Sequence[tuple[str, Mapping[str, Figure]]], shown: Callable[[Figure], str]
) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Headings and rows of a table of them.

    Args:
        points: what each is called, and its figures by name; those without any have no row.
        shown: writes a figure.

    Returns:
        A heading for the names and one for each figure that any point has, none if there is none;
        and for each point its name and its figures, empty where one was not measured. Beside the
        cores of the load generator stands which part of all busy cores they are.
    """
    names = [name for name in _HEADINGS if any(name in figures for _, figures in points)]
    if not names:
        return (), []
    rows = [
        (point, *(_text(name, figures, shown) for name in names))
        for point, figures in points
        if any(name in figures for name in names)
    ]
    return ("point", *(_HEADINGS[name] for name in names)), rows


def _text(name: str, figures: Mapping[str, Figure], shown: Callable[[Figure], str]) -> str:
    found, busy = figures.get(name), figures.get("cpu_cores")
    if found is None:
        return ""
    if name == "generator_cores" and busy is not None and busy.value > 0:
        return f"{shown(found)} ({found.value / busy.value:.0%} of busy)"
    return shown(found)
