"""What the commands that measure have in common: options, and the table of figures."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeVar

import click

from cliprt_export._certificate import Bars
from cliprt_export._fidelity import Fidelity
from cliprt_export._plan import PROMPT
from cliprt_export._precision import PRECISIONS, PrecisionName

F = TypeVar("F", bound=Callable[..., Any])

COLUMNS = (
    "items", "cos 1%", "cos min", "cos mean", "max diff", "top-10", "ranks", "top-1", "batch",
    "padding",
)  # fmt: skip


def precision_list(
    ctx: click.Context, param: click.Parameter, value: str | None
) -> tuple[PrecisionName, ...] | None:
    """Reads ``fp32,fp16``: names with commas between them."""
    if value is None:
        return None
    wanted = [name.strip() for name in value.split(",")]
    if unknown := [name for name in wanted if name not in PRECISIONS]:
        raise click.BadParameter(f"{unknown[0]!r} is none of {', '.join(PRECISIONS)}", ctx, param)
    return tuple(name for name in PRECISIONS if name in wanted)


def cosine_bars(
    ctx: click.Context, param: click.Parameter, values: tuple[str, ...]
) -> dict[str, float]:
    """Reads bars such as ``fp16=0.9995``, or a number for all; the later of two wins."""
    bars: dict[str, float] = {}
    for value in values:
        name, _, number = value.rpartition("=")
        try:
            bar = float(number)
        except ValueError:
            raise click.BadParameter(f"{number!r} is no number", ctx, param) from None
        if not -1 <= bar <= 1:
            raise click.BadParameter(f"a cosine lies between -1 and 1, got {bar}", ctx, param)
        if name and name not in PRECISIONS:
            raise click.BadParameter(f"{name!r} is none of {', '.join(PRECISIONS)}", ctx, param)
        bars |= dict.fromkeys([name] if name else PRECISIONS, bar)
    return bars


def prompt_template(ctx: click.Context, param: click.Parameter, value: str) -> str:
    """Checks that a prompt has a place for the class."""
    if "{}" not in value:
        raise click.BadParameter("it must hold {}, where the class goes", ctx, param)
    return value


def measuring_options(command: F) -> F:
    """Adds the options that say what to measure on and what to demand."""
    for option in (
        click.option(
            "--max-top1-loss",
            type=click.FloatRange(0),
            help="Most points of zero-shot top-1 that may be lost.",
        ),
        click.option(
            "--min-overlap",
            type=click.FloatRange(0, 1),
            help="Least overlap of the ten nearest neighbours, 0 to 1.",
        ),
        click.option(
            "--min-cosine",
            "min_cosines",
            multiple=True,
            callback=cosine_bars,
            metavar="[PRECISION=]COSINE",
            help="Bar for the 1st percentile of cosines, fp16=0.9995 for instance; a bare number "
            "applies to all precisions. May be repeated.",
        ),
        click.option(
            "--samples",
            type=click.IntRange(2),
            help="Items of each tower to measure.  [default: by the size of the tower]",
        ),
        click.option(
            "--prompt",
            default=PROMPT,
            callback=prompt_template,
            show_default=True,
            help="A class's text for --evaluate, {} stands for its name.",
        ),
        click.option(
            "--evaluate",
            type=click.Path(),
            metavar="FOLDER",
            help="Measure zero-shot top-1 on pictures in a sub-folder for each class.",
        ),
    ):
        command = option(command)
    return command


def changed(
    bars: Bars,
    min_cosines: dict[str, float],
    min_overlap: float | None,
    max_top1_loss: float | None,
) -> Bars:
    """The bars with what the options say."""
    set_here = {"min_overlap": min_overlap, "max_top1_loss": max_top1_loss}
    given: dict[str, Any] = {name: value for name, value in set_here.items() if value is not None}
    try:
        return replace(bars, min_cosine={**bars.min_cosine, **min_cosines}, **given)
    # Not a number passes click's ranges.
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


def cells(found: Fidelity) -> list[str]:
    """A tower's figures, one for each of COLUMNS; a dash for what was not measured."""

    def shown(value: float | None, form: str) -> str:
        return "-" if value is None else format(value, form)

    top1 = "-"
    if found.top1 is not None and found.top1_reference is not None:
        top1 = f"{found.top1_reference:.1f} -> {found.top1:.1f}"
    return [
        str(found.items),
        f"{found.p01_cosine:.7f}",
        f"{found.min_cosine:.7f}",
        f"{found.mean_cosine:.7f}",
        f"{found.max_abs_diff:.1e}",
        shown(found.neighbours, ".3f"),
        shown(found.rank_correlation, ".5f"),
        top1,
        f"{found.single_vs_batch:.1e}",
        shown(found.padding, ".1e"),
    ]
