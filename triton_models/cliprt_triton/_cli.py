"""``cliprt repository`` and ``cliprt serve``."""

from __future__ import annotations

import signal
import tempfile
from pathlib import Path
from types import FrameType

import click

from cliprt import open_bundle
from cliprt._console import out
from cliprt._names import ModelNames
from cliprt_triton._repository import write_repository
from cliprt_triton._server import TritonServer


def _checked_name(ctx: click.Context, parameter: click.Parameter, value: str) -> str:
    try:
        return ModelNames(value).prefix
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


_name = click.option(
    "--name",
    default="clip",
    show_default=True,
    callback=_checked_name,
    help="Prefix of the models' names: NAME_image, NAME_text, NAME_card.",
)
_bundle = click.argument("bundle", type=click.Path(path_type=Path))


@click.command()
@_bundle
@click.option(
    "--out",
    "target",
    required=True,
    type=click.Path(path_type=Path),
    help="Folder to write the model repository to.",
)
@_name
def repository(bundle: Path, target: Path, name: str) -> None:
    """Turn BUNDLE into a Triton model repository.

    The towers run in Triton's Python backend with ONNX Runtime: wherever the server runs, its
    Python needs numpy and onnxruntime.
    """
    write_repository(open_bundle(bundle), target, name=name)
    out().print(f"repository  {target}")


@click.command()
@_bundle
@_name
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--grpc-port", default=8001, show_default=True, help="Port of gRPC; 0 picks one.")
@click.option(
    "--metrics-port", default=8002, show_default=True, help="Port of the metrics; 0 picks one."
)
@click.option("--http-port", type=int, help="Serve HTTP on this port too; 0 picks one.")
@click.option(
    "--tritonserver",
    type=click.Path(path_type=Path),
    help="The tritonserver to run [default: the one on PATH, or the pip wheel's].",
)
@click.option(
    "--log",
    type=click.Path(path_type=Path),
    help="File for Triton's output [default: under $CLIPRT_HOME/logs].",
)
def serve(
    bundle: Path,
    name: str,
    host: str,
    grpc_port: int,
    metrics_port: int,
    http_port: int | None,
    tritonserver: Path | None,
    log: Path | None,
) -> None:
    """Serve BUNDLE on a Triton server until Ctrl-C or SIGTERM."""
    opened = open_bundle(bundle)
    # From here on a signal must run the context managers, also while models load.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _stop)
    with tempfile.TemporaryDirectory(prefix="cliprt-serve-") as work:
        try:
            models = write_repository(opened, Path(work) / "models", name=name, link=True)
            with TritonServer(
                models,
                host=host,
                grpc_port=grpc_port,
                metrics_port=metrics_port,
                http_port=http_port,
                tritonserver=tritonserver,
                log=log,
            ) as server:
                console = out()
                console.print(f"{opened.card.name} ({opened.card.dim} dimensions) is ready")
                console.print(f"grpc     {server.address}")
                if server.http_url:
                    console.print(f"http     {server.http_url}")
                console.print(f"metrics  {server.metrics_url}")
                console.print(f"log      {server.log}")
                status = server.wait()
                raise click.ClickException(
                    f"tritonserver ended by itself with status {status}; see {server.log}"
                )
        except _Stop:
            pass


class _Stop(BaseException):
    """A signal asked the server to end."""


def _stop(number: int, frame: FrameType | None) -> None:
    # A second signal during the shutdown must not interrupt it.
    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, signal.SIG_IGN)
    raise _Stop
