"""How much of what decoding and encoding reach `cliprt embed` keeps: `make batch-check`.

Files and model are the same for everybody, and everybody is a process of its own. Rounds
are interleaved, and every other one goes backwards, so that what else happens on the machine meets
all alike; a round has files of its own, read once before. A rate is the median of its rounds, a
ratio that of the ratios within each.

The ceiling is the slower one of decoding alone and encoding alone, each with all cores. Encoding,
which is the slower one here, is measured by turns with every job: each 45 seconds all processes of
the job are stopped while it runs, since a machine that others use is faster in one minute than in
the next one; the mean counts. Where both have to share the cores, as on a CPU, the sum of their
times bounds any pipeline: that share is told too. A job's own rate counts all from its listing to
its manifest, not the loading of the model; its processor time and the rate by the clock on the wall
are those of the whole command. Seconds in which it was stopped are left out.

Each precision has goals of its own. In float32 the tower takes nearly all of the cores' time, so
that the share of the ceiling tells what the pipeline loses; in int8 it is so fast that decoding, on
the same cores, takes a part of the ceiling which no pipeline can give back, and the multiple of
transformers is what counts.

It ends with status 1 where a goal is not reached, and names the goal.

With --texts N no rates are compared: captions go through `cliprt embed`, while the memory of all
its processes is watched.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import msgspec
import numpy as np
from checkpoints import VIT_B_32, write_checkpoint
from jpegs import read_once, write_pictures
from rich.console import Console
from rich.table import Table
from texts import watch_texts
from watched import Run, watched

from cliprt import open_bundle
from cliprt._cores import usable_cores
from cliprt_engines import chosen_settings
from cliprt_export import export_checkpoint
from folders import write_calibration

HERE = Path(__file__).resolve().parent
KEPT = Path(tempfile.gettempdir(), "cliprt-batch-check")
PRECISIONS = ("fp32", "int8-cpu")
DECODE, ENCODE, RIVAL = "decoding alone", "encoding alone", "transformers"
EMBED, RAY = "cliprt embed", "cliprt embed --engine ray"
ENGINES = {EMBED: "local", RAY: "ray"}
# The least parts of the ceiling, and the least multiples of the rival, that are promised.
GOALS = {(EMBED, "fp32"): 0.9, (RAY, "fp32"): 0.85}
RIVAL_GOALS = {(EMBED, "int8-cpu"): 2.5}
LEAST_COSINE = {"fp32": 0.9999, "int8-cpu": 0.9}


Way: TypeAlias = tuple[str, str]
"""Who computes, and in which precision; empty where there is no choice."""


@dataclass
class Seen:
    """What was seen of one way, round by round.

    Attributes:
        rates: items in a second, by its own account.
        walls: items in a second of the whole command.
        processor_ms: processor time of an item, of the whole command.
        peak_mb: most memory of all its processes.
        stages: shares of a job's stages.
        slowest: stage of a job.
        encoding: what encoding alone reached, by turns with a job, on average.
    """

    rates: list[float] = field(default_factory=list)
    walls: list[float] = field(default_factory=list)
    processor_ms: list[float] = field(default_factory=list)
    peak_mb: list[float] = field(default_factory=list)
    stages: list[dict[str, float]] = field(default_factory=list)
    slowest: list[str | None] = field(default_factory=list)
    encoding: list[float] = field(default_factory=list)

    def add(self, run: Run, items: int) -> dict[str, Any]:
        """Puts down a run; returns what it printed."""
        told: dict[str, Any] = json.loads(run.output)
        rate: float = told["rate"]
        self.rates.append(rate / (1 - rate * run.stopped_s / items))
        self.walls.append(items / run.wall_s)
        self.processor_ms.append(run.processor_s / items * 1000)
        self.peak_mb.append(run.peak_mb)
        if "stages" in told:
            self.stages.append(told["stages"])
            self.slowest.append(told["slowest"])
        return told


class Check:
    """The ways, on the same files."""

    def __init__(self, folder: Path, arguments: argparse.Namespace) -> None:
        self.seen: dict[Way, Seen] = {}
        self.cosines: dict[str, float] = {}
        self._arguments = arguments
        self._precisions: list[str] = arguments.precision or [*PRECISIONS]
        self._work = folder / "work"
        self._checkpoint, self._bundle = prepare(folder)
        bundle = open_bundle(self._bundle)
        self.settings = {
            precision: str(chosen_settings(bundle, "image", precision))  # type: ignore[arg-type]
            for precision in self._precisions
        }

    def round(self, number: int, paths: list[Path]) -> None:
        """Everybody has a turn on some files."""
        shutil.rmtree(self._work, ignore_errors=True)
        self._work.mkdir()
        read_once(paths)
        files = self._list("all.txt", paths)
        few = paths[: self._arguments.rival_files]
        blocks: list[Callable[[], None]] = [
            partial(self._decoding, files),
            partial(self._rival, self._list("few.txt", few), few),
        ]
        for precision in self._precisions:
            jobs = [EMBED, RAY] if precision == self._precisions[0] else [EMBED]
            jobs = [name for name in jobs if self._arguments.engine in (None, ENGINES[name])]
            blocks.append(partial(self._jobs, jobs, precision, files, paths))
        for block in reversed(blocks) if number % 2 else blocks:
            block()
        self._agree(len(few))
        shutil.rmtree(self._work)

    def _decoding(self, files: Path) -> None:
        with self._ceiling("decode", files, PRECISIONS[0]) as rate:
            self.seen.setdefault((DECODE, ""), Seen()).rates.append(rate())
        self._tell(DECODE, "")

    def _jobs(self, names: list[str], precision: str, files: Path, paths: list[Path]) -> None:
        alone = self.seen.setdefault((ENCODE, precision), Seen())
        with self._ceiling("encode", files, precision) as rate:
            for name in names:
                turns = [rate()]
                self._embed(name, precision, files, paths, lambda turns=turns: turns.append(rate()))
                turns.append(rate())
                alone.rates.append(statistics.mean(turns))
                self.seen[name, precision].encoding.append(alone.rates[-1])
                self._tell(ENCODE, precision)

    @contextmanager
    def _ceiling(self, what: str, files: Path, precision: str) -> Iterator[Callable[[], float]]:
        """Measures what decoding or encoding alone reaches, as often as the function is called."""
        command = [sys.executable, "-W", "ignore", str(HERE / "ceilings.py"), what]
        command += [str(self._bundle), str(files), "--precision", precision]
        pipe = subprocess.PIPE
        with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as process:
            assert process.stdin is not None
            assert process.stdout is not None

            def rate() -> float:
                print(self._arguments.seconds, file=process.stdin, flush=True)
                if not (answer := process.stdout.readline()):
                    raise SystemExit(f"{what} alone cannot be measured, see above")
                return float(json.loads(answer)["rate"])

            try:
                yield rate
            finally:
                process.stdin.close()

    def _embed(
        self,
        name: str,
        precision: str,
        files: Path,
        paths: list[Path],
        meanwhile: Callable[[], object],
    ) -> None:
        out = self._work / precision / name.split()[-1]
        out.parent.mkdir(exist_ok=True)
        command = [sys.executable, "-m", "cliprt", *name.split()[1:], str(files), "--json"]
        command += ["--bundle", str(self._bundle), "--precision", precision, "--out", str(out)]
        log = self._work / f"{out.name}-{precision}.log"
        run = watched(command, log, meanwhile=meanwhile)
        told = self.seen.setdefault((name, precision), Seen()).add(run, len(paths))
        if told["embedded"] != len(paths):
            raise SystemExit(f"{name} embedded {told['embedded']} of {len(paths)} files")
        self._tell(name, precision)

    def _rival(self, files: Path, paths: list[Path]) -> None:
        command = [sys.executable, "-W", "ignore", str(HERE / "rival.py")]
        command += [str(self._checkpoint), str(files), str(self._work / "rival.npy")]
        run = watched(command, self._work / "rival.log")
        self.seen.setdefault((RIVAL, ""), Seen()).add(run, len(paths))
        self._tell(RIVAL, "")

    def _tell(self, name: str, precision: str) -> None:
        rate = self.seen[name, precision].rates[-1]
        print(f"{titled((name, precision))}: {rate:.1f}/s", file=sys.stderr)

    def _agree(self, count: int) -> None:
        """Fails unless all of them computed the same."""
        theirs = np.load(self._work / "rival.npy")
        for out in sorted(self._work.glob("*/*/img_emb")):
            precision = out.parent.parent.name
            ours = np.concatenate([np.load(shard) for shard in sorted(out.glob("*.npy"))])
            cosine = float((ours[:count] * theirs).sum(axis=1).min())
            self.cosines[precision] = min(cosine, self.cosines.get(precision, 1.0))
            if cosine < LEAST_COSINE[precision]:
                raise SystemExit(f"{out} differs from transformers: a cosine is {cosine:.4f}")

    def _list(self, name: str, paths: list[Path]) -> Path:
        path = self._work / name
        path.write_text("".join(f"{each}\n" for each in paths))
        return path


def prepare(folder: Path) -> tuple[Path, Path]:
    """Checkpoint and bundle of ViT-B/32 with drawn weights, made if they are not there."""
    checkpoint, bundle, calibrate = (
        folder / name for name in ("checkpoint", "bundle", "calibrate")
    )
    if not bundle.exists():
        write_checkpoint(checkpoint, VIT_B_32)
        shutil.rmtree(calibrate, ignore_errors=True)
        write_calibration(calibrate, 64)
        export_checkpoint(checkpoint, bundle, precisions=PRECISIONS, calibrate=calibrate)
    return checkpoint, bundle


def titled(way: Way) -> str:
    """A way in words."""
    return ", ".join(filter(None, way))


def figures(seen: Mapping[Way, Seen]) -> dict[Way, dict[str, Any]]:
    """By way, medians and ratios of what was seen."""
    decoding = seen[DECODE, ""].rates

    def over(rates: list[float], others: list[float]) -> float:
        return statistics.median(a / b for a, b in zip(rates, others, strict=True))

    found = {}
    for way, each in seen.items():
        name, _ = way
        rates = each.rates
        ceilings = list(map(min, decoding, each.encoding))
        shared = [1 / (1 / d + 1 / e) for d, e in zip(decoding, each.encoding, strict=False)]
        is_job = name in (EMBED, RAY)
        found[way] = {
            "rate": statistics.median(rates),
            "least": min(rates),
            "most": max(rates),
            "wall_rate": statistics.median(each.walls) if each.walls else None,
            "of_ceiling": over(rates, ceilings) if is_job else None,
            "of_shared_cores": over(rates, shared) if is_job else None,
            "times_rival": over(rates, seen[RIVAL, ""].rates) if is_job else None,
            "processor_ms": statistics.median(each.processor_ms) if each.processor_ms else None,
            "peak_mb": max(each.peak_mb, default=None),
            "goal": GOALS.get(way),
            "rival_goal": RIVAL_GOALS.get(way),
            "stages": {
                stage: statistics.median(shares.get(stage, 0.0) for shares in each.stages)
                for stage in (each.stages[0] if each.stages else ())
            },
            "slowest": statistics.mode(each.slowest) if each.slowest else None,
        }
    return found


def unreached(ways: Mapping[Way, Mapping[str, Any]]) -> list[str]:
    """Which goals were not reached, a line for each.

    Args:
        ways: of ``figures``.
    """
    lines = [
        f"{titled(way)} reaches {ways[way]['of_ceiling']:.3f} of the ceiling, the goal is {goal}"
        for way, goal in GOALS.items()
        if way in ways and ways[way]["of_ceiling"] < goal
    ]
    lines += [
        f"{titled(way)} is {ways[way]['times_rival']:.2f} times {RIVAL}, the goal is {goal}"
        for way, goal in RIVAL_GOALS.items()
        if way in ways and ways[way]["times_rival"] < goal
    ]
    return lines


def show(told: dict[str, Any]) -> None:
    """Prints what was seen."""
    console = Console(width=160)
    console.print(
        f"\n{told['cores']} cores, {told['files']:,} files of "
        f"{told['bytes'] / told['files'] / 1e3:.0f} kB, {told['rounds']} rounds",
        highlight=False,
    )
    for precision, settings in told["settings"].items():
        console.print(f"{precision}: {settings}", highlight=False)
    table = Table()
    columns = (
        *("", "files/s", "rounds", "of min(decode, encode)", "goal", "of both on shared cores"),
        *("x transformers", "goal", "whole command, files/s", "processor ms/file", "peak MB"),
    )
    for column in columns:
        table.add_column(column, justify="right" if column else "left")

    def number(value: float | None, digits: int = 1) -> str:
        return "" if value is None else f"{value:.{digits}f}"

    for name, row in told["ways"].items():
        table.add_row(
            name,
            number(row["rate"]),
            f"{row['least']:.1f} to {row['most']:.1f}",
            number(row["of_ceiling"], 2),
            number(row["goal"], 2),
            number(row["of_shared_cores"], 2),
            number(row["times_rival"], 2),
            number(row["rival_goal"]),
            number(row["wall_rate"]),
            number(row["processor_ms"]),
            number(row["peak_mb"], 0),
        )
    console.print(table)
    for name, row in told["ways"].items():
        if row["stages"]:
            shares = ", ".join(f"{stage} {share:.0%}" for stage, share in row["stages"].items())
            console.print(f"{name}: busy: {shares}; slowest: {row['slowest']}", highlight=False)
    for precision, cosine in told["least_cosine"].items():
        console.print(f"{precision}: least cosine to {RIVAL} {cosine:.5f}", highlight=False)


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description="Batch jobs beside their ceilings on this CPU.")
    parser.add_argument("--folder", type=Path, default=KEPT, help="of files and models, kept")
    parser.add_argument("--files", type=int, default=20_000, help="pictures, made if need be")
    parser.add_argument("--rounds", type=int, default=2, help="each with its part of the files")
    parser.add_argument(
        "--rival-files", type=int, default=1000, help="of a round; enough for a rate"
    )
    parser.add_argument("--seconds", type=float, default=12.0, help="of a ceiling, each time")
    parser.add_argument(
        "--precision", choices=PRECISIONS, action="append", help="may be given twice; both if not"
    )
    parser.add_argument(
        "--engine", choices=ENGINES.values(), help="only this one; ray is in the first precision"
    )
    parser.add_argument("--texts", type=int, metavar="N", help="watch the memory over N captions")
    parser.add_argument("--json", action="store_true", help="for machines")
    arguments = parser.parse_args()
    if arguments.files // arguments.rounds < 128:
        parser.error("a round needs 128 files or more")
    folder = arguments.folder.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    # Everybody uses the settings that are measured once, in this run.
    shutil.rmtree(folder / "home", ignore_errors=True)
    os.environ["CLIPRT_HOME"] = str(folder / "home")
    os.environ.pop("CLIPRT_CPU_CHOICE", None)
    if arguments.texts:
        first = (arguments.precision or PRECISIONS)[0]
        sys.exit(watch_texts(folder, arguments.texts, first, arguments.json))
    paths = write_pictures(folder / "pictures", arguments.files)
    check = Check(folder, arguments)
    for number in range(arguments.rounds):
        check.round(number, paths[number :: arguments.rounds])
    ways = figures(check.seen)
    told = {
        "cores": usable_cores(),
        "files": len(paths),
        "bytes": sum(path.stat().st_size for path in paths),
        "rounds": arguments.rounds,
        "settings": check.settings,
        "least_cosine": check.cosines,
        "ways": {titled(way): row for way, row in ways.items()},
        "unreached": unreached(ways),
        "seen": {titled(way): msgspec.to_builtins(seen) for way, seen in check.seen.items()},
    }
    if arguments.json:
        print(json.dumps(told, indent=2))
    else:
        show(told)
    for line in told["unreached"]:
        print(f"NOT REACHED: {line}", file=sys.stderr)
    sys.exit(1 if told["unreached"] else 0)


if __name__ == "__main__":
    main()
