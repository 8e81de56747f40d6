"""Options that ``cliprt repository`` and ``cliprt serve`` share."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import click

from cliprt._card import Card
from cliprt._limits import PILLOW_MAX_PIXELS, Limits
from cliprt._names import ModelNames
from cliprt_triton._policy import PRESETS, Policy, PresetName
from cliprt_triton._tuned import Tuned, read_tuned

_Command = TypeVar("_Command", bound=Callable[..., Any])

_SECOND_US = 1_000_000
_COUNT = click.IntRange(1, 2**31 - 1)
_TIMEOUT_S = click.FloatRange(0.001, 86_400.0)


def _checked_name(ctx: click.Context, parameter: click.Parameter, value: str) -> str:
    try:
        return ModelNames(value).prefix
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


name_option = click.option(
    "--name",
    default="clip",
    show_default=True,
    callback=_checked_name,
    help="Prefix of the models' names: NAME_image, NAME_text, NAME_card.",
)

_POLICY_OPTIONS = (
    click.option(
        "--policy",
        "tuned",
        metavar="FILE",
        type=click.Path(path_type=Path),
        help="What cliprt tune wrote: precision, threads, batches and delays that were measured on "
        "this machine. The options below change it.",
    ),
    click.option(
        "--preset",
        type=click.Choice(PRESETS),
        help="latency: no request waits for company, batches and queues are short. balanced, the "
        "default: half a millisecond for company, queues hold a burst. throughput: five "
        "milliseconds for company, queues hold what a fleet of workers sends. The options below "
        "change it.",
    ),
    click.option(
        "--max-batch-size",
        type=click.IntRange(1, 4096),
        help="Items of one execution of a tower, at most; engines may take fewer.",
    ),
    click.option(
        "--queue-delay-us",
        "max_queue_delay_us",
        type=click.IntRange(0, _SECOND_US),
        help="How long a request may wait for company while the tower is idle, in microseconds.",
    ),
    click.option(
        "--queue-size",
        "max_queue_size",
        type=_COUNT,
        help="Interactive requests that may wait; one more is refused at once.",
    ),
    click.option(
        "--bulk-queue-size",
        "max_bulk_queue_size",
        type=_COUNT,
        help="Requests of priority 2 that may wait, in a queue of their own.",
    ),
    click.option(
        "--queue-timeout",
        "queue_timeout_s",
        type=_TIMEOUT_S,
        help="Seconds after which a waiting interactive request is refused.",
    ),
    click.option(
        "--bulk-queue-timeout",
        "bulk_queue_timeout_s",
        type=_TIMEOUT_S,
        help="The same of requests of priority 2.",
    ),
    click.option(
        "--max-wait",
        "max_wait_s",
        type=_TIMEOUT_S,
        help="Seconds that an interactive request may wait for a tower whose speed cliprt serve "
        "measured: makes its queue, timeout and batches as short; the rest is refused at once.",
    ),
    click.option(
        "--cache-texts",
        is_flag=True,
        help="Keep embeddings of texts in Triton's response cache, for a server that has one. It "
        "tells requests apart by a 64-bit hash alone, and leaks memory in Triton 24.10.",
    ),
    click.option(
        "--instances",
        type=click.IntRange(1, 64),
        help="Copies of each tower that run at once, on each GPU where there are several.",
    ),
)


def policy_options(command: _Command) -> _Command:
    """Adds the options of a policy to a command, which gets ``policy``, and ``tuned`` or None."""

    @functools.wraps(command)
    def with_policy(
        *args: Any,
        tuned: Path | None,
        preset: PresetName | None,
        max_batch_size: int | None,
        max_queue_delay_us: int | None,
        max_queue_size: int | None,
        max_bulk_queue_size: int | None,
        queue_timeout_s: float | None,
        bulk_queue_timeout_s: float | None,
        max_wait_s: float | None,
        cache_texts: bool,
        instances: int | None,
        **others: Any,
    ) -> Any:
        if tuned is not None and preset is not None:
            raise click.UsageError("--policy and --preset: one of them")
        read = None if tuned is None else read_tuned(tuned)
        base = Policy.preset(preset or "balanced") if read is None else read.policy
        changes: dict[str, Any] = {
            "max_batch_size": max_batch_size,
            "max_queue_delay_us": max_queue_delay_us,
            "max_queue_size": max_queue_size,
            "max_bulk_queue_size": max_bulk_queue_size,
            "queue_timeout_us": _microseconds(queue_timeout_s),
            "bulk_queue_timeout_us": _microseconds(bulk_queue_timeout_s),
            "max_wait_us": _microseconds(max_wait_s),
            "cache_texts": cache_texts or None,
            "instances": instances,
        }
        given = {name: value for name, value in changes.items() if value is not None}
        return command(*args, policy=replace(base, **given), tuned=read, **others)

    for option in reversed(_POLICY_OPTIONS):
        with_policy = option(with_policy)
    return with_policy  # type: ignore[return-value]


def take(tuned: Tuned, card: Card) -> None:
    """Refuses a policy of another model, and tells of one from another machine.

    Raises:
        InvalidInput: the card is of another space.
    """
    tuned.check(card)
    if warning := tuned.warning():
        click.echo(f"Warning: {warning}", err=True)


# The options that bound one picture or text, by the attribute of Limits that they set.
_LIMITS = {
    "max_image_bytes": (click.IntRange(min=1), "Length of an encoded picture, in bytes."),
    "max_image_pixels": (click.IntRange(1, PILLOW_MAX_PIXELS), "Width x height of a picture."),
    "max_image_aspect_ratio": (click.FloatRange(min=1), "Longer by shorter side of a picture."),
    "max_jpeg_scans": (click.IntRange(min=1), "Scans of a JPEG picture."),
    "max_text_characters": (click.IntRange(min=1), "Characters of a text."),
}


def limits_options(command: _Command) -> _Command:
    """Adds the options of limits to a command, which gets them as its argument ``limits``."""

    @functools.wraps(command)
    def with_limits(*args: Any, **others: Any) -> Any:
        limits = Limits(**{name: others.pop(name) for name in _LIMITS})
        return command(*args, limits=limits, **others)

    for name, (kind, words) in reversed(_LIMITS.items()):
        option = click.option(
            f"--{name.replace('_', '-')}",
            default=getattr(Limits(), name),
            show_default=True,
            type=kind,
            help=f"{words} More is refused where files and strings are taken.",
        )
        with_limits = option(with_limits)
    return with_limits  # type: ignore[return-value]


def _microseconds(seconds: float | None) -> int | None:
    return None if seconds is None else round(seconds * _SECOND_US)
