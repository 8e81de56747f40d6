"""``cliprt embed``."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields
from functools import reduce
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn, get_args

import click
import msgspec

from cliprt._connection_options import ConnectionOptions, connection_options
from cliprt._console import out as console
from cliprt._limits import Limits
from cliprt_batch._job import embed
from cliprt_batch._kinds import Kind, Source
from cliprt_batch._models import Local, Served
from cliprt_batch._monitor import shown
from cliprt_batch._options import JobOptions

_TOWERS = {"image": ("image",), "text": ("text",), "both": ("image", "text")}

_HELD = 130  # as shells say of a command that Ctrl-C ended


class _Share(click.ParamType[tuple[int, int]]):
    """``I/N``."""

    name = "I/N"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, int]:
        try:
            index, count = (int(number) for number in str(value).split("/"))
        except ValueError:
            self.fail(f"{value!r} is not like 3/16", param, ctx)
        if not 1 <= index <= count:
            self.fail(f"{value!r}: the first number goes from 1 to the second", param, ctx)
        return index, count


def _limit_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """An option for each limit, as --max-image-bytes."""
    options = [
        click.option(
            f"--{field.name.replace('_', '-')}",
            type=type(field.default),
            default=field.default,
            show_default=True,
            help=f"Limit {field.name}: what exceeds it fails.",
        )
        for field in reversed(fields(Limits))
    ]
    return reduce(lambda made, option: option(made), options, command)


@click.command()
@click.argument("address", metavar="SOURCE")
@click.option(
    "--out", required=True, type=click.Path(path_type=Path), help="Folder of the embeddings."
)
@click.option(
    "--bundle", type=click.Path(path_type=Path), help="Embed in this process, with this bundle."
)
@click.option("--url", help="Embed on a server, host:port of gRPC, or several with commas between.")
@click.option(
    "--what", type=click.Choice(sorted(_TOWERS)), default="image", show_default=True,
    help="Pictures, captions, or both.",
)  # fmt: skip
@click.option(
    "--kind", type=click.Choice(get_args(Kind)), default="auto", show_default=True,
    help="What SOURCE is; auto goes by its name and by what lies there.",
)  # fmt: skip
@click.option("--image-column", help="Column or key that holds the picture: its path or its bytes.")
@click.option("--text-column", help="Column or key that holds the caption.")
@click.option("--key-column", help="Column or key that names the item.")
@click.option(
    "--format", "layout", type=click.Choice(["npy", "parquet"]), default="npy", show_default=True,
    help="npy: img_emb/*.npy, text_emb/*.npy and metadata/*.parquet, as clip-retrieval writes "
    "them. parquet: one table, with failed items in it.",
)  # fmt: skip
@click.option(
    "--dtype", type=click.Choice(["float32", "float16"]), default="float32", show_default=True,
    help="Of the numbers that are kept.",
)  # fmt: skip
@click.option(
    "--shard-size", type=click.IntRange(1), default=10_000, show_default=True,
    help="Items of a shard; a tar is one shard, however many it holds.",
)  # fmt: skip
@click.option(
    "--precision", type=click.Choice(["fp32", "int8-cpu", "fastest"]), default="fp32",
    show_default=True, help="With --bundle: of the towers, see engines/CPU.md.",
)  # fmt: skip
@click.option("--model", default="clip", show_default=True, help="With --url: the models' prefix.")
@click.option(
    "--patience", "patience_s", type=click.FloatRange(0), default=300.0, show_default=True,
    help="With --url: seconds to wait for a server that is gone or full.",
)  # fmt: skip
@click.option(
    "--workers", type=click.IntRange(1),
    help="Processes that read and decode pictures; one for each core unless given.",
)  # fmt: skip
@click.option(
    "--engine", type=click.Choice(["local", "ray"]), default="local", show_default=True,
    help="ray: on the machines of a Ray cluster.",
)  # fmt: skip
@click.option(
    "--ray-address", help="With --engine ray: of the cluster; a local one is started unless given."
)
@click.option(
    "--shard", "share", type=_Share(), default="1/1",
    help="Do every N-th shard only, from the I-th on: for job arrays.",
)  # fmt: skip
@click.option(
    "--retry-failed", is_flag=True, help="Try the items again that failed in an earlier run."
)
@click.option(
    "--keep-going", is_flag=True,
    help="Do not stop where a thousand files in a row cannot be read.",
)  # fmt: skip
@click.option(
    "--truncate/--no-truncate", default=True, show_default=True,
    help="Cut captions beyond the context, or let them fail.",
)  # fmt: skip
@click.option("--fast-jpeg", is_flag=True, help="Decode large JPEG files at a part of their size.")
@_limit_options
@click.option("--json", "as_json", is_flag=True, help="Print the summary as JSON.")
@connection_options
def embed_command(
    address: str,
    out: Path,
    bundle: Path | None,
    url: str | None,
    what: str,
    layout: Any,
    dtype: Any,
    shard_size: int,
    precision: Any,
    model: str,
    patience_s: float,
    workers: int | None,
    engine: str,
    ray_address: str | None,
    share: tuple[int, int],
    retry_failed: bool,
    keep_going: bool,
    truncate: bool,
    fast_jpeg: bool,
    as_json: bool,
    via: ConnectionOptions,
    **rest: Any,
) -> None:
    """Embed all of SOURCE into a folder.

    SOURCE is a folder of pictures, a file with a path a line, JSON lines, a Parquet file or a
    folder of them, webdataset tars ('data/{00000..00099}.tar'), or - for a list on standard input;
    on this machine or in a store (s3://, gs://).

    A run that was interrupted goes on where it was when it is started again in the same way.
    What cannot be embedded is listed in failures.jsonl and stops nothing.
    """
    if (bundle is None) == (url is None):
        raise click.UsageError("say what computes: either --bundle DIR or --url HOST:PORT")
    if engine == "ray" and share != (1, 1):
        raise click.UsageError("--shard is for jobs without Ray, which shares out the work itself")
    if engine != "ray" and ray_address is not None:
        raise click.UsageError("--ray-address needs --engine ray")
    names = {field.name for field in fields(Limits)}
    try:
        source = Source(
            address, **{name: value for name, value in rest.items() if name not in names}
        )
        options = JobOptions(
            towers=_TOWERS[what],  # type: ignore[arg-type]
            layout=layout,
            dtype=dtype,
            shard_size=shard_size,
            truncate=truncate,
            fast_jpeg=fast_jpeg,
            limits=Limits(**{name: value for name, value in rest.items() if name in names}),
        )
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    used: Local | Served
    if bundle is not None:
        used = Local(bundle, precision)
    else:
        assert url is not None
        endpoints = url.split(",")
        used = Served(via.to(endpoints if len(endpoints) > 1 else url), model, patience_s)
    with _ctrl_c_is_told(out), shown() as monitor:
        if engine == "ray":
            from cliprt_batch._ray import embed_on_ray

            summary = embed_on_ray(
                source, out, used, options, address=ray_address, workers=workers,
                retry_failed=retry_failed, keep_going=keep_going, monitor=monitor,
            )  # fmt: skip
        else:
            summary = embed(
                source, out, used, options, workers=workers, share=share,
                retry_failed=retry_failed, keep_going=keep_going, monitor=monitor,
            )  # fmt: skip
    if as_json:
        click.echo(msgspec.json.encode(summary).decode())
    else:
        console().print(summary.text(), end="")
    if summary.nothing_embedded:
        sys.exit(1)


@contextmanager
def _ctrl_c_is_told(out: Path) -> Iterator[None]:
    """Says at an interrupt, or at SIGTERM as job managers send it, that nothing is lost."""

    def stop(number: int, frame: FrameType | None) -> NoReturn:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    except KeyboardInterrupt:
        click.echo(f"stopped; what is done is kept in {out}, the same command goes on", err=True)
        sys.exit(_HELD)
    finally:
        signal.signal(signal.SIGTERM, before)
