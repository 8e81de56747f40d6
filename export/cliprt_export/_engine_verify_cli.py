"""``cliprt verify ENGINES``: the part of the command that is about engines."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import click
import msgspec

from cliprt._console import out, print_table, steps
from cliprt_export._certificate import Bars
from cliprt_export._engine_certificate import EngineCertificate
from cliprt_export._engine_verify import STEPS, EngineRow, EngineVerification, verify_engines
from cliprt_export._options import COLUMNS, cells


def verify_engines_command(
    context: click.Context,
    folder: Path,
    *,
    bundle: str | None,
    samples: int | None,
    precisions: Sequence[str] | None,
    bars: Callable[[Bars], Bars],
    as_json: bool,
) -> None:
    """Measures engines and prints what was found; the exit status is 1 if a bar is missed."""
    with steps(STEPS) as on_step:
        result = verify_engines(
            folder,
            bundle=bundle,
            samples=samples,
            precisions=precisions,
            bars=bars,
            on_step=on_step,
        )
    if as_json:
        content = {"passed": result.passed, **msgspec.to_builtins(result)}
        click.echo(msgspec.json.encode(content).decode())
    else:
        _print(result)
    if not result.passed:
        context.exit(1)


def _print(result: EngineVerification) -> None:
    console = out()
    console.print(f"space      {result.space}")
    run = [row.certificate for row in result.rows if row.certificate is not None]
    for runtime in dict.fromkeys(certificate.runtime for certificate in run):
        console.print(f"here       {runtime}")
    if not run:
        for row in result.rows:
            _print_problems(row)
        return
    console.print(f"reference  {run[0].reference_runtime}, and answers of the original weights")
    print_table(
        ("tower", "precision", "against", *COLUMNS),
        [
            [certificate.tower, certificate.precision, against, *cells(found)]
            for certificate in run
            for against, found in certificate.against.items()
        ],
    )
    print_table(
        ("tower", "precision", "check", "runs", "cos min", "result"),
        [cell for certificate in run for cell in _checks(certificate)],
    )
    for row in result.rows:
        _print_problems(row)


def _checks(certificate: EngineCertificate) -> list[list[str]]:
    return [
        [
            certificate.tower,
            certificate.precision,
            check.name,
            str(check.runs),
            "-" if check.worst_cosine is None else f"{check.worst_cosine:.7f}",
            "missed" if check.missed else "good",
        ]
        for check in certificate.checks
    ]


def _print_problems(row: EngineRow) -> None:
    console = out()
    if row.refused is not None:
        console.print(f"not run: {row.engine}: {row.refused}")
    if row.failed is not None:
        console.print(f"failed: {row.engine}: {row.failed}")
    if row.unsaved is not None:
        console.print(f"not written: {row.unsaved}")
    for missed in row.certificate.missed if row.certificate else ():
        console.print(f"missed: {row.engine}: {missed}")
