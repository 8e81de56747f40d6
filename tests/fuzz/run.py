"""Fuzzes every target in turn, guided by coverage: ``make fuzz``.

Each target has a process of its own and begins with its kept corpus. What reaches new branches is
kept in ``build/fuzz/corpus``, where the next run goes on; inputs that break a promise lie in
``build/fuzz/found``, each with its traceback. Status 1 if there are any, and if a target was never
given an input.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import click
from fuzz.harness import CORPUS
from fuzz.targets import TARGETS
from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parent.parent.parent

# Seconds after which libFuzzer gives an input up, and megabytes that the process may have.
_HANGS_AFTER, _MOST_MB = 120, 3000


@dataclass
class Run:
    """What came of one target.

    Attributes:
        executions: how often an input was given to it.
        edges: branches that were reached, of all that are followed.
        new: inputs that reached new ones.
        found: inputs that broke the promise, whether or not earlier runs had found them, too.
        status: of the process, 0 if it ended as it should.
    """

    executions: int = 0
    edges: int = 0
    new: int = 0
    found: int = 0
    status: int = 0

    @property
    def failed(self) -> bool:
        """A promise is broken, or nothing is known of it."""
        return bool(self.found or self.status or not self.executions)


def _command(name: str, found: Path, corpora: list[Path], seconds: int, seed: int) -> list[str]:
    return [
        sys.executable, "-W", "ignore", "-m", "fuzz.one", name, str(found),
        f"-max_total_time={seconds}", f"-timeout={_HANGS_AFTER}", f"-rss_limit_mb={_MOST_MB}",
        f"-seed={seed}", "-print_final_stats=1", "-use_value_profile=0", *map(str, corpora),
    ]  # fmt: skip


def fuzz(name: str, seconds: int, folder: Path, seed: int) -> Run:
    """Fuzzes one target for some seconds, and prints what it finds as it does."""
    corpus, found = folder / "corpus" / name, folder / "found"
    corpus.mkdir(parents=True, exist_ok=True)
    found.mkdir(parents=True, exist_ok=True)
    before = {path.name for path in corpus.iterdir()}
    (CORPUS / name).mkdir(parents=True, exist_ok=True)
    command = _command(name, found, [corpus, CORPUS / name], seconds, seed)
    run = Run()
    with tempfile.TemporaryDirectory(prefix="cliprt-fuzz-") as scratch:
        # It ends without ending Python, which would remove its files.
        environment = {**os.environ, "TMPDIR": scratch}
        with subprocess.Popen(
            command, env=environment, text=True, errors="replace",
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        ) as process:  # fmt: skip
            last: list[str] = []
            assert process.stdout is not None
            for line in process.stdout:
                last = [*last[-30:], line]
                if line.startswith("FOUND "):
                    run.found += 1
                    click.echo(line.rstrip())
                if edges := re.match(r"#\d+\s.* cov: (\d+)", line):
                    run.edges = int(edges[1])
                if count := re.match(r"stat::number_of_executed_units: (\d+)", line):
                    run.executions = int(count[1])
            run.status = process.wait()
    if run.status:
        click.echo("".join(last))
    run.new = len({path.name for path in corpus.iterdir()} - before)
    return run


@click.command()
@click.option("--target", "names", multiple=True, type=click.Choice(sorted(TARGETS)),
              help="Only these; all without it.")  # fmt: skip
@click.option("--seconds", default=30, show_default=True, help="Time for each target.")
@click.option("--seed", default=0, show_default=True, help="0 draws one.")
@click.option("--folder", default=ROOT / "build" / "fuzz", type=click.Path(path_type=Path),
              help="Where inputs are kept.")  # fmt: skip
def main(names: tuple[str, ...], seconds: int, seed: int, folder: Path) -> None:
    """Fuzzes targets, one after the other."""
    console = Console(soft_wrap=True)
    table = Table("target", "executions", "per second", "edges", "new inputs", "found")
    failed = False
    for name in names or sorted(TARGETS):
        run = fuzz(name, seconds, folder, seed)
        failed |= run.failed
        rate = run.executions / seconds
        table.add_row(
            name, f"{run.executions:,}", f"{rate:,.0f}", f"{run.edges:,}", str(run.new),
            str(run.found) if not run.status else f"{run.found}, ended with {run.status}",
        )  # fmt: skip
        console.print(f"{name}: {run.executions:,} executions, {run.found} found")
    console.print(table)
    if failed:
        console.print(
            f"inputs that broke a promise, and why, lie in {folder / 'found'}; a target without "
            "executions was not tried"
        )
        sys.exit(1)


if __name__ == "__main__":
    main()
