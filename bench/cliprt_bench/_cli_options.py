"""The options that the commands of ``cliprt bench`` share."""

from __future__ import annotations

import functools
import importlib
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec

from cliprt import open_bundle
from cliprt._connection_options import ConnectionOptions, connection_options
from cliprt._names import ModelNames
from cliprt_bench._bench_card import BenchCard, Tower
from cliprt_bench._front import OpenAiFront
from cliprt_bench._targets import Ensembles, InProcess, Served, Subject

if TYPE_CHECKING:
    from cliprt_triton import Tuned

_PATH = click.Path(path_type=Path)

SERVER_ELSEWHERE = "--server-pid is a process of this machine, the server is not"


class Numbers(click.ParamType):  # type: ignore[type-arg]
    """Positive numbers with commas between them."""

    name = "N[,N…]"

    def __init__(self, kind: type[int] | type[float] = int) -> None:
        self._kind = kind

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[float, ...]:
        """The numbers, in their order, each once."""
        if isinstance(value, tuple):
            return value
        try:
            found = tuple(dict.fromkeys(self._kind(each) for each in value.split(",")))
        except ValueError:
            self.fail(f"{value!r} is not a list of numbers such as 1,8,64", param, ctx)
        if not all(0 < number < float("inf") for number in found):
            self.fail(f"{value!r} has a number that is not positive", param, ctx)
        return found


@dataclass(frozen=True)
class Asked:
    """What was asked for on the command line, whatever is measured.

    Attributes:
        bundle: folder of LocalClip's bundle, or of the one that is served.
        precision: of LocalClip; beside ``openai``, of what is served there.
        url: of a Triton.
        ensemble: whether its ensembles are asked.
        openai: address of an HTTP front.
        factory: ``module:function`` that makes an embedder.
        model: prefix of the models' names.
        server_pid: of what computes, on this machine.
        remote: the target is on another machine, though its address is of this one.
        towers: to measure; None means all that there are.
        pictures: folder of pictures; None means drawn ones.
        captions: file of captions; None means drawn ones.
        seconds: of a repeat.
        repeats: of each point.
        warmup: seconds before the first one.
        seed: of arrivals.
        ceilings: whether the machine's own limits are measured, too.
        price: of the machine for an hour.
        out: file of the card.
        as_json: print the card.
        via: how a server is reached.
    """

    bundle: Path | None
    precision: str | None
    url: str | None
    ensemble: bool
    openai: str | None
    factory: str | None
    model: str
    server_pid: int | None
    remote: bool
    towers: tuple[Tower, ...]
    pictures: Path | None
    captions: Path | None
    seconds: float
    repeats: int
    warmup: float
    seed: int
    ceilings: bool
    price: float | None
    out: Path | None
    as_json: bool
    via: ConnectionOptions

    def open(self) -> Subject:
        """What is measured.

        Raises:
            click.UsageError: nothing or more than one thing was named, or an option means nothing
                beside it.
            CliprtError: it cannot be opened.
        """
        self._check()
        subject = self._open()
        if self.remote:
            subject.target = msgspec.structs.replace(subject.target, process="remote")
        return subject

    def _open(self) -> Subject:
        process_ids = () if self.server_pid is None else (self.server_pid,)
        bundle = None if self.bundle is None else open_bundle(self.bundle)
        if self.openai is not None:
            return OpenAiFront(
                self.openai,
                bundle=bundle,
                precision=self.precision,
                process_ids=process_ids,
                tls=self.via.tls,
                token=self.via.token,
            )
        if self.url is not None:
            made = Ensembles if self.ensemble else Served
            return made(self.via.to(self.url), ModelNames(self.model), bundle, process_ids)
        if self.factory is not None:
            return _made(self.factory)
        if bundle is None:
            raise click.UsageError("name what to measure: --bundle, --url, --openai or --python")
        return InProcess(bundle, self.precision)

    def _check(self) -> None:
        """Refuses what contradicts itself, and options that would change nothing."""
        named = [self.url, self.openai, self.factory]
        if sum(each is not None for each in named) > 1 or (self.ensemble and self.url is None):
            raise click.UsageError(
                "name one thing to measure: --bundle, --url (with --ensemble for the ensembles), "
                "--openai or --python"
            )
        if self.factory is not None and (self.bundle is not None or self.precision is not None):
            raise click.UsageError("what --python makes brings its own bundle and precision")
        if self.url is not None and self.precision is not None:
            raise click.UsageError("--precision is LocalClip's; a Triton says what it serves")
        if self.server_pid is not None and self.url is None and self.openai is None:
            raise click.UsageError("--server-pid is the process of a server; name it with --url")
        here = self.url is None and self.openai is None
        if here and self.via != ConnectionOptions(tls=None, token=None):
            raise click.UsageError("--tls and --token-file are for --url and --openai")
        if self.remote and here and self.factory is None:
            raise click.UsageError("--remote is for --url, --openai and --python")
        if self.remote and self.server_pid is not None:
            raise click.UsageError(SERVER_ELSEWHERE)


def writable(context: click.Context, option: click.Parameter, path: Path | None) -> Path | None:
    """A file that can be written, told before anything is measured.

    Raises:
        click.BadParameter: its folder does not exist or may not be written, or it is one itself.
    """
    if path is not None:
        folder = path.absolute().parent
        if path.is_dir() or not folder.is_dir() or not os.access(folder, os.W_OK):
            raise click.BadParameter(
                f"{path} cannot be written; name a file in a folder that exists and may be written"
            )
    return path


def write_out(made: BenchCard | Tuned, path: Path) -> None:
    """Writes what was measured, and printed before.

    Raises:
        click.ClickException: it cannot be written.
    """
    try:
        made.write(path)
    except OSError as cause:
        raise click.ClickException(f"{path} cannot be written: {cause.strerror or cause}") from None


def shared_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds the options to a command, which gets them as ``Asked`` named ``asked``."""

    @functools.wraps(command)
    def collected(**given: Any) -> Any:
        names = set(Asked.__dataclass_fields__)
        asked = Asked(**{name: given.pop(name) for name in names})
        return command(asked=asked, **given)

    options = (
        click.option(
            "--bundle",
            type=_PATH,
            help="Measure LocalClip on this bundle; beside an address, what is served there.",
        ),
        click.option(
            "--precision",
            help="Of LocalClip: fp32, int8-cpu or fastest; beside --openai, what is served there.",
        ),
        click.option("--url", help="Measure a Triton server: host:port of gRPC."),
        click.option(
            "--ensemble", is_flag=True, help="Ask its ensembles, which decode and tokenize."
        ),
        click.option(
            "--openai",
            help="Measure an OpenAI-style front: http://host:port, or https. An API key is given "
            "with --token-file.",
        ),
        click.option(
            "--python", "factory", help="Measure what MODULE:FUNCTION returns, a Subject."
        ),
        click.option(
            "--model", default="clip", show_default=True, help="Prefix of the server's models."
        ),
        click.option(
            "--server-pid", type=click.IntRange(min=1), help="Process whose memory is watched."
        ),
        click.option(
            "--remote",
            is_flag=True,
            help="The target is on another machine, though its address is of this one (a forwarded "
            "port): the card does not describe this machine.",
        ),
        click.option(
            "--tower",
            "towers",
            type=click.Choice(["image", "text"]),
            multiple=True,
            help="May be given twice [default: all there are].",
        ),
        click.option("--pictures", type=_PATH, help="A folder of pictures [default: drawn ones]."),
        click.option(
            "--captions", type=_PATH, help="A file of captions, one a line [default: drawn ones]."
        ),
        click.option(
            "--seconds",
            type=click.FloatRange(min=0.1),
            default=5.0,
            show_default=True,
            help="Of a repeat.",
        ),
        click.option(
            "--repeats",
            type=click.IntRange(min=1),
            default=5,
            show_default=True,
            help="Of each point.",
        ),
        click.option(
            "--warmup",
            type=click.FloatRange(min=0),
            default=1.0,
            show_default=True,
            help="Seconds of each point that do not count.",
        ),
        click.option(
            "--seed", type=int, default=0, show_default=True, help="Of the times of arrival."
        ),
        click.option(
            "--ceilings/--no-ceilings",
            default=True,
            help="Measure what the machine can do at most, too.",
        ),
        click.option(
            "--price",
            type=click.FloatRange(min=0),
            help="What the machine costs for an hour, in any currency.",
        ),
        click.option("--out", type=_PATH, callback=writable, help="Write the card here."),
        click.option("--json", "as_json", is_flag=True, help="Print the card, and nothing else."),
    )
    for option in reversed(options):
        collected = option(collected)
    return connection_options(collected)


def _made(factory: str) -> Subject:
    """What a function returns, of a module that may lie in the current folder.

    Raises:
        click.UsageError: there is no such module or function.
    """
    module, _, name = factory.partition(":")
    if (folder := str(Path.cwd())) not in sys.path:
        sys.path.insert(0, folder)  # as `python -m` does
    try:
        made: Subject = getattr(importlib.import_module(module), name)()
    except (ImportError, AttributeError, ValueError) as cause:
        raise click.UsageError(f"--python {factory}: {cause}") from None
    return made


def towers_of(subject: Subject, wanted: Sequence[Tower]) -> tuple[Tower, ...]:
    """The towers to measure.

    Raises:
        click.UsageError: the model has not all that are wanted.
    """
    if missing := set(wanted) - set(subject.towers):
        raise click.UsageError(f"{subject.model.name} has no {sorted(missing)[0]} tower")
    return tuple(tower for tower in subject.towers if not wanted or tower in wanted)
