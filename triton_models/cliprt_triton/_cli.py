"""``cliprt serve``."""

from __future__ import annotations

import signal
import tempfile
from pathlib import Path
from types import FrameType

import click

from cliprt import Limits, open_bundle
from cliprt._console import out
from cliprt_triton._binding import check_host, warn_of_open_front
from cliprt_triton._front._cli import FrontOptions, front_options
from cliprt_triton._front._process import FrontServer
from cliprt_triton._options import limits_options, name_option, policy_options, take
from cliprt_triton._policy import Policy
from cliprt_triton._processes import check_open_files
from cliprt_triton._python_tower import measured_settings, measured_speeds
from cliprt_triton._repository import write_repository
from cliprt_triton._runtime import Runtime
from cliprt_triton._server import TritonServer
from cliprt_triton._server_flags import ServerTls
from cliprt_triton._supervision import Restarts
from cliprt_triton._tuned import Tuned

# Ctrl-C, a supervisor, a closed terminal.
_STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


_port = click.IntRange(0, 65535)
_file = click.Path(path_type=Path)
_bundle = click.argument("bundle", type=click.Path(path_type=Path))


@click.command()
@_bundle
@name_option
@click.option(
    "--precision",
    type=click.Choice(Runtime().precisions),
    help="Of the towers; int8-cpu must be in the bundle.  [default: that of --policy, else fp32]",
)
@policy_options
@limits_options
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option(
    "--allow-remote", is_flag=True, help="Let --host be an address that other machines reach."
)
@click.option(
    "--grpc-port", default=8001, show_default=True, type=_port, help="Port of gRPC; 0 picks one."
)
@click.option(
    "--metrics-port",
    default=8002,
    show_default=True,
    type=_port,
    help="Port of the metrics; 0 picks one.",
)
@click.option(
    "--http-port", type=_port, help="Serve Triton's own HTTP on this port too; 0 picks one."
)
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
@click.option(
    "--ready-timeout",
    "ready_timeout_s",
    default=300.0,
    show_default=True,
    help="Seconds that loading may take.",
)
@click.option("--tls-certificate", type=_file, help="Serve gRPC over TLS with this certificate.")
@click.option("--tls-key", type=_file, help="The private key of --tls-certificate.")
@click.option(
    "--tls-client-ca", type=_file, help="Take only clients with a certificate signed by these."
)
@click.option(
    "--shared-memory", is_flag=True, help="Let clients on this machine pass inputs in memory."
)
@click.option(
    "--response-cache-bytes", type=click.IntRange(1), help="Size of the response cache, if any."
)
@click.option(
    "--admin-secret",
    envvar="CLIPRT_ADMIN_SECRET",
    help="Let who sends this secret load models, trace and change logging.",
)
@click.option(
    "--restarts",
    default=Restarts.most,
    show_default=True,
    type=click.IntRange(0),
    help="Crashes of tritonserver within a minute that are survived; 0 never starts it again.",
)
@front_options
def serve(
    bundle: Path,
    name: str,
    precision: str | None,
    policy: Policy,
    tuned: Tuned | None,
    limits: Limits,
    host: str,
    allow_remote: bool,
    grpc_port: int,
    metrics_port: int,
    http_port: int | None,
    tritonserver: Path | None,
    log: Path | None,
    ready_timeout_s: float,
    tls_certificate: Path | None,
    tls_key: Path | None,
    tls_client_ca: Path | None,
    shared_memory: bool,
    response_cache_bytes: int | None,
    admin_secret: str | None,
    restarts: int,
    front: FrontOptions,
) -> None:
    """Serve BUNDLE on a Triton server until Ctrl-C or SIGTERM."""
    tls = _tls(tls_certificate, tls_key, tls_client_ca)
    if front.wanted and tls is not None:
        raise click.UsageError(
            "--http reaches Triton in plain text, so not with TLS; run cliprt_triton.openai_app "
            "with a Connection that has TLS in a process of its own"
        )
    # Before anything takes time.
    check_host(host, allow_remote=allow_remote)
    check_open_files()
    opened = open_bundle(bundle)
    if tuned is not None:
        take(tuned, opened.card)
    precision = precision or (Runtime().precisions[0] if tuned is None else tuned.precision)
    # From here on a signal must run the context managers, also while models load.
    for number in _STOPPING:
        signal.signal(number, _stop)
    with tempfile.TemporaryDirectory(prefix="cliprt-serve-") as work:
        try:
            # Before anything is loaded, which may take minutes.
            openai = None
            if front.wanted:
                openai = FrontServer(host=host, port=front.port, allow_remote=allow_remote)
                warn_of_open_front(openai.url, host=host, keys=bool(front.api_keys))
            # What was tuned is taken as it was measured.
            own = tuned if tuned is not None and tuned.precision == precision else None
            models = write_repository(
                opened,
                Path(work) / "models",
                precision=precision,
                name=name,
                policy=policy,
                limits=limits,
                settings=measured_settings(opened, precision) if own is None else own.settings,
                speeds=measured_speeds(opened, precision) if own is None else None,
                link=True,
            )
            with TritonServer(
                models,
                host=host,
                grpc_port=grpc_port,
                metrics_port=metrics_port,
                http_port=http_port,
                tritonserver=tritonserver,
                log=log,
                ready_timeout_s=ready_timeout_s,
                tls=tls,
                shared_memory=shared_memory,
                response_cache_bytes=response_cache_bytes,
                admin_secret=admin_secret,
                restarts=Restarts(restarts, tell=_tell_of_crash) if restarts else None,
                allow_remote=allow_remote,
            ) as server:

                def tell() -> None:
                    console = out()
                    console.print(f"{opened.card.name} ({opened.card.dim} dimensions) is ready")
                    console.print(f"grpc     {server.address}")
                    if server.http_url:
                        console.print(f"http     {server.http_url}")
                    console.print(f"metrics  {server.metrics_url}")
                    if openai is not None:
                        console.print(f"openai   {openai.url}")
                    console.print(f"log      {server.log}")

                if openai is None:
                    tell()
                    server.wait()
                else:
                    app = front.app(server.address, model=name, limits=limits)
                    told = openai.run(app, server.wait, signals=_STOPPING, on_ready=tell)
                    if told is None:
                        return
                raise click.ClickException(f"{server.reason}; see {server.log}")
        except _Stop:
            pass


def _tell_of_crash(line: str) -> None:
    click.echo(f"Warning: {line}", err=True)


def _tls(certificate: Path | None, key: Path | None, client_ca: Path | None) -> ServerTls | None:
    if certificate is not None and key is not None:
        return ServerTls(certificate, key, client_ca)
    if certificate is None and key is None and client_ca is None:
        return None
    raise click.UsageError("TLS needs --tls-certificate and --tls-key")


class _Stop(BaseException):
    """A signal asked the server to end."""


def _stop(number: int, frame: FrameType | None) -> None:
    # A second signal during the shutdown must not interrupt it.
    for each in _STOPPING:
        signal.signal(each, signal.SIG_IGN)
    raise _Stop
