"""The memory of `cliprt embed` over many small items."""

from __future__ import annotations

import json
import shutil
import statistics
import sys
from pathlib import Path

import numpy as np
from rich.console import Console
from watched import Run, watched

from cliprt_export import export_checkpoint

CHECKPOINT = Path(__file__).resolve().parent.parent.parent / "demo" / "checkpoint"
CALIBRATION_ITEMS = 64
# What the memory may grow by after the first tenth, in megabytes: as for servers in `make soak`.
LIMIT_MB = 100
# Each tenth of the run needs some readings.
EVERY_S = 2.0
# A shorter run spends its first tenth with loading.
SETTLED_S = 30

COLOURS = ("red", "blue", "green", "yellow", "purple", "orange", "white", "black")
SHAPES = ("circle", "square", "triangle", "star", "cross", "ring", "heart", "diamond")
PLACES = ("above", "below", "beside", "left of", "right of", "in front of", "behind", "near")


def write_captions(path: Path, count: int) -> None:
    """JSON lines, each with a key and a caption of its own."""
    random = np.random.Generator(np.random.PCG64(1))
    with path.open("w") as file:
        for first in range(0, count, 10_000):
            drawn = random.integers(0, 8, (min(10_000, count - first), 5)).tolist()
            for number, (a, b, c, d, e) in enumerate(drawn, first):
                caption = f"{COLOURS[a]} {SHAPES[b]} {PLACES[c]} a {COLOURS[d]} {SHAPES[e]}"
                file.write(f'{{"key": "{number}", "caption": "{caption}, number {number}"}}\n')


def watch_texts(folder: Path, count: int, precision: str, as_json: bool) -> bool:
    """Embeds captions with the demo model, small and quick, and prints what its memory did.

    Args:
        folder: kept: the model, and the captions.
        count: how many captions.
        precision: of the tower.
        as_json: print all readings for machines.

    Returns:
        Whether the memory grew by more than the limit.
    """
    bundle, captions = folder / "demo", folder / f"captions-{count}.jsonl"
    if not bundle.exists():
        from folders import write_calibration

        calibrate = folder / "demo-calibrate"
        shutil.rmtree(calibrate, ignore_errors=True)
        write_calibration(calibrate, CALIBRATION_ITEMS)
        export_checkpoint(
            str(CHECKPOINT), bundle, precisions=("fp32", "int8-cpu"), calibrate=calibrate
        )
    if not captions.exists():
        write_captions(captions, count)
    out = folder / "work-texts"
    shutil.rmtree(out, ignore_errors=True)
    command = [sys.executable, "-m", "cliprt", "embed", str(captions), "--what", "text", "--json"]
    command += ["--bundle", str(bundle), "--precision", precision, "--out", str(out)]
    run = watched(command, folder / "texts.log", every_s=EVERY_S)
    shutil.rmtree(out)
    told = json.loads(run.output)
    if told["embedded"] != count:
        raise SystemExit(f"{told['embedded']:,} of {count:,} captions were embedded")
    grown = growth_mb(run) if run.wall_s > SETTLED_S else None
    if as_json:
        print(json.dumps({**told, "growth_mb": grown, "memory_mb": run.memory_mb}))
        return grown is not None and grown > LIMIT_MB
    after = (
        f"{grown:+.1f} MB after the first tenth (limit {LIMIT_MB})"
        if grown is not None
        else f"its growth is told from {SETTLED_S} s on"
    )
    Console(width=120).print(
        f"{count:,} captions in {run.wall_s:.0f} s, {told['rate']:,.0f}/s by the job itself;\n"
        f"memory of all its processes: {run.peak_mb:.0f} MB at most, {after}",
        highlight=False,
    )
    return grown is not None and grown > LIMIT_MB


def growth_mb(run: Run) -> float:
    """Growth of the memory after the first tenth of a run, which fills caches and pools.

    Between the medians of the second and of the last tenth but one: a single reading says little,
    and in the last one processes end.
    """

    def tenth(number: int) -> float:
        begins, ends = run.wall_s * number / 10, run.wall_s * (number + 1) / 10
        return statistics.median(memory for at, memory in run.memory_mb if begins <= at < ends)

    return tenth(8) - tenth(1)
