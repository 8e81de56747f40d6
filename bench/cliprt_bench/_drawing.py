"""How a plot is drawn: matplotlib without a screen, and SVG that can stand in a page.

No text of a card gets into a drawing: letters stand for cards, shapes for what was asked, and the
page's own legend says what they mean. Colours are names of the page's style sheet, so that a
drawing follows its dark and light dress.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal
from xml.etree import ElementTree

from cliprt._extras import require
from cliprt_bench._figures import Figure

COLOURS = 8
"""Colours of the style sheet, ``--s0`` on; more series begin again."""

Shape = Literal["round", "square", "diamond", "triangle", "bar", "tick"]

MARKERS: dict[Shape, str] = {"round": "o", "square": "s", "diamond": "D", "triangle": "^"}
"""Shapes of points, and what matplotlib calls them."""

_SVG = "http://www.w3.org/2000/svg"
_XLINK = "http://www.w3.org/1999/xlink"

# Stand-ins for the style sheet's colours: no other colour is in a drawing.
NAMED = {"ink": "#0a0b01", "soft": "#0a0b02", "line": "#0a0b03", "card": "#0a0b04"}
SERIES = tuple(f"#0a0c{index:02x}" for index in range(COLOURS))
_STAND_INS = {
    **{value: f"var(--{name})" for name, value in NAMED.items()},
    **{value: f"var(--s{index})" for index, value in enumerate(SERIES)},
}
_SIZE = (5.4, 3.5)
_GREATEST = 1e15

_STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "cliprt",
    "text.parse_math": False,
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9.5,
    "axes.edgecolor": NAMED["line"],
    "axes.facecolor": "none",
    "axes.labelcolor": NAMED["soft"],
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.unicode_minus": False,
    "figure.facecolor": "none",
    "grid.color": NAMED["line"],
    "grid.linewidth": 0.6,
    "text.color": NAMED["ink"],
    "xtick.color": NAMED["soft"],
    "ytick.color": NAMED["soft"],
    "xtick.minor.size": 0,
    "ytick.minor.size": 0,
    "lines.linewidth": 1.6,
    "lines.markersize": 5.5,
}


@dataclass(frozen=True)
class Key:
    """An entry of a legend: colour number, shape, and what it means."""

    colour: int
    shape: Shape
    text: str


@dataclass(frozen=True)
class Plot:
    """A drawing with what must stand beside it.

    Attributes:
        name: of its element in the page.
        title: what is plotted.
        caption: what is to be seen, in sentences.
        legend: what colours and shapes mean.
        svg: the drawing, an ``svg`` element.
    """

    name: str
    title: str
    caption: str
    legend: tuple[Key, ...]
    svg: str


@contextmanager
def drawing_style() -> Iterator[None]:
    """Draws in the page's style, whatever settings a process has.

    Raises:
        MissingExtra: matplotlib is not installed.
    """
    matplotlib = require("matplotlib", extra="bench")
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_STYLE)
        yield


def drawable(value: float) -> bool:
    return 0 < value < _GREATEST


def new_figure(height: float = _SIZE[1]) -> tuple[Any, Any]:
    figure = require("matplotlib.figure", extra="bench").Figure(
        figsize=(_SIZE[0], height), layout="constrained"
    )
    axes = figure.subplots()
    axes.set_axisbelow(True)
    return figure, axes


def dot(
    axes: Any,
    x: Figure | float,
    y: Figure | float,
    colour: str,
    marker: str,
    *,
    faint: bool = False,
    size: float = 5.5,
) -> None:
    """A measured point with whiskers where it has an interval; hollow if it is noisy."""
    noisy = any(isinstance(one, Figure) and one.noisy for one in (x, y))
    at = tuple(one.value if isinstance(one, Figure) else one for one in (x, y))
    axes.plot(
        *([value] for value in at),
        color=colour,
        linestyle="",
        marker=marker,
        markersize=size,
        markerfacecolor=NAMED["card"] if noisy else colour,
        markeredgewidth=1.3,
        alpha=0.35 if faint else 1,
        zorder=4,
    )
    line = require("matplotlib.lines", extra="bench").Line2D
    for which, one in enumerate((x, y)):
        reach = _whisker(one)
        if reach is None or faint:
            continue
        ends = ([at[0]] * 2, [at[1]] * 2)
        ends[which][:] = reach
        # An artist of no weight: the axes show the points, whiskers end where the axes do.
        axes.add_artist(line(*ends, color=colour, linewidth=1, zorder=3))


def _whisker(one: Figure | float) -> list[float] | None:
    if not isinstance(one, Figure) or one.low is None or one.high is None:
        return None
    # The interval is that of the mean, which need not hold the median; logarithms need more than 0.
    return [max(min(one.low, one.value), one.value / 1e3), min(max(one.high, one.value), _GREATEST)]


def logarithmic(axes: Any, which: str, formatter: Callable[..., str] | None = None) -> None:
    ticker = require("matplotlib.ticker", extra="bench")
    axis = axes.xaxis if which == "x" else axes.yaxis
    least, most = axis.get_data_interval()
    if least > 0 and most < least * 1.01:
        # A single value: what matplotlib makes room of around it is nothing on some processors.
        (axes.set_xlim if which == "x" else axes.set_ylim)(least / 2, most * 2)
    (axes.set_xscale if which == "x" else axes.set_yscale)("log")
    axes.margins(**{which: 0.1})
    low, high = sorted(axis.get_view_interval())
    decades = math.log10(high / low) if low > 0 else 1.0
    steps: tuple[float, ...] = (
        (1.0,) if decades > 2.5 else (1.0, 3.0) if decades > 1.3 else (1.0, 2.0, 5.0)
    )
    if decades < 0.5:
        # Less than a third of a decade has hardly a round number in it.
        steps = tuple(step / 2 for step in range(2, 20))
        if decades < 0.15:
            axis.set_major_locator(ticker.MaxNLocator(4))
            axis.set_major_formatter(formatter or plain_tick)
            axis.set_minor_locator(ticker.NullLocator())
            axes.grid(axis=which)
            return
    axis.set_major_locator(ticker.LogLocator(subs=steps, numticks=8))
    axis.set_major_formatter(formatter or plain_tick)
    axis.set_minor_locator(ticker.NullLocator())
    axes.grid(axis=which)


def plain_tick(value: float, _place: object = None) -> str:
    if abs(value) >= 1e5:  # neighbours would touch
        return power_tick(value)
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def power_tick(value: float, _place: object = None) -> str:
    return f"{value:.0e}".replace("e-0", "e-").replace("e+0", "e")


def categories(axes: Any, names: Sequence[str]) -> None:
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0, labelcolor=NAMED["ink"])
    axes.spines["left"].set_visible(False)


def labels(axes: Any, x: str, y: str) -> None:
    axes.set_xlabel(x)
    axes.set_ylabel(y)


def finished(figure: Any, name: str, title: str, caption: str, legend: tuple[Key, ...]) -> Plot:
    file = io.BytesIO()
    figure.savefig(file, format="svg", metadata={"Date": None})
    return Plot(name, title, caption, legend, _inline(file.getvalue(), name, title, caption))


def _inline(svg: bytes, name: str, title: str, caption: str) -> str:
    """The drawing as an element of a page that holds several: described, with names of its own."""
    ElementTree.register_namespace("", _SVG)
    ElementTree.register_namespace("xlink", _XLINK)
    root = ElementTree.fromstring(svg)
    for parent in list(root.iter()):
        for child in list(parent):
            # A style element would hold for the whole page.
            if child.tag in (f"{{{_SVG}}}metadata", f"{{{_SVG}}}style"):
                parent.remove(child)
    for element in root.iter():
        for key, value in element.attrib.items():
            if key == "id":
                value = f"{name}-{value}"
            elif key == f"{{{_XLINK}}}href":
                value = value.replace("#", f"#{name}-", 1)
            value = value.replace("url(#", f"url(#{name}-")
            element.set(key, _coloured(value))
    for size in ("width", "height"):
        root.attrib.pop(size, None)
    root.set("role", "img")
    root.set("aria-labelledby", f"{name}-title {name}-desc")
    for place, (tag, text) in enumerate((("title", title), ("desc", caption))):
        element = ElementTree.Element(f"{{{_SVG}}}{tag}", {"id": f"{name}-{tag}"})
        element.text = text
        root.insert(place, element)
    return ElementTree.tostring(root, encoding="unicode")


def _coloured(value: str) -> str:
    return re.sub("#0a0[bc]..", lambda match: _STAND_INS[match[0]], value)
