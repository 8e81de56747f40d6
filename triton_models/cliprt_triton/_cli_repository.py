"""``cliprt repository``: writes a model repository, or checks one."""

from __future__ import annotations

from pathlib import Path

import click

from cliprt import Limits, open_bundle
from cliprt._console import out, print_table
from cliprt_triton._options import limits_options, name_option, policy_options, take
from cliprt_triton._policy import Policy
from cliprt_triton._repository import write_repository
from cliprt_triton._runtime import PROVIDERS, RUNTIMES, Provider, RuntimeName
from cliprt_triton._tuned import Tuned


@click.command()
@click.argument("bundle", required=False, type=click.Path(path_type=Path))
@click.option(
    "--out",
    "target",
    type=click.Path(path_type=Path),
    help="Folder to write the model repository to.",
)
@click.option(
    "--runtime",
    type=click.Choice(RUNTIMES),
    default="python",
    show_default=True,
    help="What computes the towers. python: ONNX Runtime on the processor, in Triton's Python "
    "backend. onnxruntime, tensorrt: Triton's own backends of those names.",
)
@click.option(
    "--engines",
    type=click.Path(path_type=Path),
    help="Folder that cliprt build filled; for the runtime tensorrt.",
)
@click.option(
    "--precision",
    help="Of the towers: fp32 or int8-cpu on a processor, fp16, fp32, int8 or fp8 elsewhere.  "
    "[default: fp32 on a processor, fp16 with a provider for GPUs, that of the engines]",
)
@click.option(
    "--provider",
    type=click.Choice(PROVIDERS),
    default="cpu",
    show_default=True,
    help="What the runtime onnxruntime computes with.",
)
@click.option(
    "--engine-cache",
    metavar="DIR",
    help="Folder on the server where the provider tensorrt keeps what it builds, for one GPU and "
    "one version only.  [default: it builds at every start]",
)
@click.option(
    "--gpus",
    type=click.IntRange(1, 64),
    help="Use the first so many GPUs.  [default: all that Triton finds]",
)
@name_option
@policy_options
@limits_options
@click.option(
    "--check",
    "checked",
    metavar="DIR",
    type=click.Path(path_type=Path),
    help="Write nothing: load the repository in DIR into the real Triton core as far as this "
    "machine can go, and say what could not be checked. With BUNDLE, compare answers too.",
)
@click.option("--json", "as_json", is_flag=True, help="With --check: print the report as JSON.")
@click.option(
    "--tritonserver",
    type=click.Path(path_type=Path),
    help="With --check: the tritonserver to run  [default: the one on PATH, or the pip wheel's].",
)
def repository(
    bundle: Path | None,
    target: Path | None,
    runtime: RuntimeName,
    engines: Path | None,
    precision: str | None,
    provider: Provider,
    engine_cache: str | None,
    gpus: int | None,
    name: str,
    policy: Policy,
    tuned: Tuned | None,
    limits: Limits,
    checked: Path | None,
    as_json: bool,
    tritonserver: Path | None,
) -> None:
    """Turn BUNDLE into a Triton model repository, or check one.

    Models, tensors and parameters are the same with every runtime, so that clients cannot tell.
    All of them need cliprt[engines] of this version in the Python that the server uses.
    """
    if checked is not None:
        if target is not None:
            raise click.UsageError("--check writes nothing; leave out --out")
        _check(checked, bundle, tritonserver, as_json)
        return
    if bundle is None or target is None:
        raise click.UsageError("give BUNDLE and --out, or --check DIR")
    if as_json or tritonserver is not None:
        raise click.UsageError("--json and --tritonserver belong to --check")
    opened = open_bundle(bundle)
    settings = None
    if tuned is not None:
        if runtime != "python":
            raise click.UsageError("--policy was measured with the runtime python")
        take(tuned, opened.card)
        precision = precision or tuned.precision
        settings = tuned.settings if precision == tuned.precision else None
    write_repository(
        opened,
        target,
        settings=settings,
        runtime=runtime,
        engines=engines,
        precision=precision,
        provider=provider,
        engine_cache=engine_cache,
        gpus=gpus,
        name=name,
        policy=policy,
        limits=limits,
    )
    out().print(f"repository  {target}")


def _check(folder: Path, bundle: Path | None, tritonserver: Path | None, as_json: bool) -> None:
    from cliprt_triton._check import check_repository

    report = check_repository(
        folder,
        bundle=None if bundle is None else open_bundle(bundle),
        tritonserver=tritonserver,
    )
    if as_json:
        click.echo(report.to_json())
    else:
        rows = [
            [
                each.name,
                each.runs_on,
                each.state,
                "; ".join(each.checked),
                "; ".join(each.unchecked),
            ]
            for each in report.models
        ]
        print_table(("model", "runs on", "state", "checked", "not checked"), rows)
        for each in report.models:
            for problem in each.problems:
                out().print(f"{each.name}: {problem}")
    if not report.ok:
        raise SystemExit(1)
