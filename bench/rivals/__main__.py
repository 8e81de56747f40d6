"""cliprt beside its rivals: same weights, same inputs, same load generator: `make rivals`.

Every rival runs in a process of its own, in an environment of its own, and is asked through the
same socket with the same bytes: encoded pictures and strings; cliprt too. First its answers are
compared with those of transformers in float32, item by item. One that answers otherwise is shown
with its cosine and without a speed. Then it takes turns with cliprt; a ratio is cliprt's items in a
second over the rival's in the same round.

A rival that cannot be installed, imported or asked stands in the table with the reason.

clip-retrieval answers no single requests: its loop is compared with `cliprt embed` on a folder
(`rivals.batch_work`). perf_analyzer is a load generator: it measures a served cliprt in turns with
ours (`rivals.generators`).
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from rich.console import Console

from cliprt import __version__
from cliprt._console import out, print_table
from cliprt_bench._figures import enough_for
from rivals.asking import NotStarted
from rivals.batch_work import compare_jobs, jobs
from rivals.entries import EXACT, OWN, OWN_ENTRIES, REFERENCE, RIVALS, Entry
from rivals.environments import Environment, Refusal, make_environment
from rivals.generators import OURS, THEIRS, compare_generators
from rivals.inputs import prepare, write_graphs
from rivals.measuring import Row, answers_of, look_at, own_workers, started

# They run, or not, in a way of their own.
APART = {"clip-retrieval": "batch work", "perf_analyzer": "load generator"}


def main() -> int:
    """Prints the table; 1 if cliprt or the reference did not start or differ."""
    arguments = _arguments()
    notes = Console(stderr=True, markup=False, highlight=False)
    with TemporaryDirectory(prefix="rivals-") as temporary:
        folder = arguments.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        try:
            seen = run(arguments, folder, notes)
        except NotStarted as error:
            notes.print(f"nothing to compare: {error.refusal.step}: {error.refusal.reason}")
            return 1
    if arguments.json:
        out().print(json.dumps(seen, indent=2))
    else:
        show(seen)
    return 0


def run(arguments: argparse.Namespace, folder: Path, notes: Console) -> dict[str, Any]:
    """Everything that was seen.

    Raises:
        NotStarted: the reference or cliprt itself did not come up, or answers otherwise.
    """
    inputs = prepare(folder, small=arguments.small)
    chosen = [entry for entry in RIVALS if not arguments.only or entry.name in arguments.only]
    needed = {entry.environment for entry in chosen} | {"transformers"}
    ways = {name: _environment(name, arguments.python, notes) for name in sorted(needed)}
    home = ways["transformers"]
    if isinstance(home, Refusal):
        raise NotStarted(home)
    reference_entry = next(entry for entry in RIVALS if entry.name == REFERENCE)
    with started(reference_entry, home, inputs.folders) as worker:
        reference = answers_of(worker, inputs)
    rows = []
    graphs = write_graphs(inputs, home) if "onnx" in needed else None
    here = Environment(OWN, Path(sys.executable))
    with own_workers(OWN_ENTRIES, here, inputs, reference) as own:
        for entry in chosen:
            notes.print(entry.name)
            row, way = Row(entry), ways[entry.environment]
            rows.append(row)
            if entry.environment == "onnx" and graphs is not None:
                way = graphs
            if isinstance(way, Refusal):
                row.refusal = way
                continue
            look_at(
                row,
                way,
                inputs,
                reference,
                own,
                rounds=arguments.rounds,
                callers=arguments.callers,
                seconds=arguments.seconds,
            )
    others = {
        name: _environment(name.replace("_", "-"), arguments.python, notes)
        for name in (() if arguments.only else APART)
    }
    batch = generators = None
    if isinstance(job := others.get("clip-retrieval"), Environment):
        notes.print("clip-retrieval")
        batch = compare_jobs(
            jobs(job, inputs),
            inputs,
            reference,
            pictures=16 if arguments.small else 512,
            rounds=min(arguments.rounds, 3),
        )
    if arguments.rounds and isinstance(asker := others.get("perf_analyzer"), Environment):
        notes.print("perf_analyzer")
        generators = compare_generators(
            asker, inputs, rounds=min(arguments.rounds, 3), seconds=arguments.seconds
        )
    return {
        "cliprt": __version__,
        "model": "small, drawn" if arguments.small else "ViT-B/32, drawn",
        "callers": arguments.callers,
        "seconds": arguments.seconds,
        "rivals": [row.record() for row in rows],
        "apart": {
            name: {"step": way.step, "reason": way.reason} if isinstance(way, Refusal) else None
            for name, way in others.items()
        },
        "batch": batch,
        "generators": generators,
    }


def show(seen: Mapping[str, Any]) -> None:
    """The tables of a run."""
    for entry in OWN_ENTRIES:
        points = [f"{kind} {size}" for kind, size in entry.points]
        lines = [_line(row, entry, points) for row in seen["rivals"]]
        out().print(f"\n{entry.name}: how many times as fast as each rival\n")
        print_table(("rival", *points, "least cosine", "versions or reason"), lines)
    for row in seen["rivals"]:
        if row["remark"]:
            out().print(f"{row['rival']}: {row['remark']}")
    for line in behind(seen):
        out().print(line)
    for name, absent in seen["apart"].items():
        told = "runs" if absent is None else f"absent: {absent['step']}: {absent['reason']}"
        out().print(f"{name} ({APART[name]}): {told}")
    if seen["batch"] is not None:
        out().print(f"cliprt embed beside clip-retrieval: {_told(seen['batch'])}")
    if seen["generators"] is not None:
        _show_generators(seen["generators"])


def behind(seen: Mapping[str, Any]) -> list[str]:
    """Where cliprt is slower than a rival, a line for each point.

    An exact rival is compared with cliprt in float32, one that is not with the faster precision.
    """
    exact = [entry.name for entry in OWN_ENTRIES if entry.bar == EXACT]
    lines = []
    for row in seen["rivals"]:
        for point, rate in row["items_per_s"].items():
            ratios = [
                points[point]
                for name, points in row["ratios"].items()
                if point in points and (name in exact or row["bar"] != EXACT)
            ]
            best = max(ratios, key=lambda ratio: ratio["value"])
            if best["value"] < 1:
                clear = "" if (best["high"] or 1) < 1 else ", within its spread"
                lines.append(
                    f"BEHIND: {row['rival']}, {point}: {rate['value']:.4g} items/s, "
                    f"cliprt {_ratio(best)} times that{clear}"
                )
    return lines


def _show_generators(seen: Mapping[str, Any]) -> None:
    out().print("\nOne server, two load generators: what ours sees over what the other one sees\n")
    points = {name: point for name, point in seen["points"].items() if point["absent"] is None}
    columns = ("items_s", "p50_ms", "p95_ms")
    lines = [
        [
            name,
            *(f"{point[who]['items_s']['value']:.4g}" for who in (OURS, THEIRS)),
            *(_ratio(point["ratios"][column]) for column in columns),
        ]
        for name, point in points.items()
    ]
    titles = (f"items/s, {OURS}", f"items/s, {THEIRS}", "items/s", "p50", "p95")
    print_table(("point", *titles), lines)
    if any(point["ratios"]["p95_ms"] is None for point in points.values()):
        out().print(f"p95 -: {OURS} tells none of fewer than {enough_for(95)} answers")
    for name, point in seen["points"].items():
        if name not in points:
            out().print(f"{name}: absent: {point['absent']}")
    if seen["absent"] is not None:
        out().print(f"measured no further: {seen['absent']}")


def _line(row: Mapping[str, Any], entry: Entry, points: list[str]) -> list[str]:
    ratios = row["ratios"].get(entry.name, {})
    cells = [_ratio(ratios.get(point)) for point in points]
    cosine = "-" if row["cosines"] is None else f"{min(row['cosines'].values()):.4f}"
    if row["absent"] is not None:
        told = f"absent: {row['absent']['step']}: {row['absent']['reason']}"
    elif not row["same_answers"]:
        told = f"answers otherwise: at least {row['bar']} is asked; its speed is not compared"
    else:
        told = ", ".join(f"{name} {version}" for name, version in row["versions"].items())
    return [row["rival"], *cells, cosine, told]


def _told(batch: Mapping[str, Any]) -> str:
    if batch["absent"] is not None:
        return f"{batch['absent']['who']} failed: {batch['absent']['reason']}"
    if not batch["same_answers"]:
        return f"answers otherwise: {batch['cosines']}"
    if batch["ratio"] is None:
        return "same answers"
    return f"{_ratio(batch['ratio'])} times as fast on {batch['pictures']} pictures"


def _ratio(ratio: Mapping[str, Any] | None) -> str:
    if ratio is None:
        return "-"
    if ratio["low"] is None:
        return f"{ratio['value']:.2f}"
    return f"{ratio['value']:.2f} ({ratio['low']:.2f} to {ratio['high']:.2f})"


def _environment(name: str, given: Mapping[str, Path], notes: Console) -> Environment | Refusal:
    if name in given:
        return Environment(name, given[name])
    return make_environment(name, tell=notes.print)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="rivals", description="cliprt beside its rivals.")
    parser.add_argument("--small", action="store_true", help="a tiny model, to see that it runs")
    parser.add_argument("--folder", type=Path, help="where checkpoint, bundle and graphs are kept")
    parser.add_argument(
        "--only", action="append", metavar="RIVAL", choices=[entry.name for entry in RIVALS]
    )
    parser.add_argument(
        "--python",
        action="append",
        default=[],
        metavar="ENVIRONMENT=PATH",
        help="take this interpreter instead of making the environment",
    )
    parser.add_argument("--rounds", type=int, default=5, help="0: compare answers only")
    parser.add_argument("--callers", type=int, default=1, help="requests under way at a time")
    parser.add_argument("--seconds", type=float, default=4.0, help="of one measurement")
    parser.add_argument("--json", action="store_true", help="for machines")
    arguments = parser.parse_args()
    given = {}
    for pair in arguments.python:
        name, _, path = pair.partition("=")
        if not path:
            parser.error(f"--python wants ENVIRONMENT=PATH, got {pair!r}")
        given[name] = Path(path).absolute()
    arguments.python = given
    return arguments


if __name__ == "__main__":
    sys.exit(main())
