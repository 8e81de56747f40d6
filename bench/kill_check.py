"""Kills batch runs at random moments and compares what they end with: ``make kill-check``.

For pictures, texts and both, in both layouts, a run over drawn pictures is killed again and again
with SIGKILL, with another number of workers in each life. What it ends with is compared, byte for
byte, with the output of a run that was left alone. Then the memory of a long run over texts is
watched.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import product
from pathlib import Path
from typing import Any

import click
from batch_inputs import caption, small_pictures, write_files
from batch_runs import PHASES, command, finished, killed, output
from rich.console import Console

from cliprt_export import export_checkpoint

CHECKPOINT = Path(__file__).resolve().parent.parent / "demo" / "checkpoint"
TOWERS, LAYOUTS = ("image", "text", "both"), ("npy", "parquet")
# What a run may grow by after its first tenth, in MB of 10**6 bytes.
GROWTH_MB = 60.0
# Texts are embedded so quickly that a run over as many would end before it was killed often.
_TEXTS = 6


def kills_of(
    source: Path, bundle: Path, folder: Path, what: str, layout: str, kills: int, seed: int
) -> dict[str, Any]:
    """Kills one run, and says what it went through."""
    with source.open() as lines:
        items = sum(1 for _ in lines)
    arguments = ["embed", source, "--bundle", bundle, "--what", what, "--format", layout]
    arguments += ["--shard-size", 600]
    folder.mkdir()
    begun = time.monotonic()
    finished(*arguments, "--out", folder / "alone", "--workers", 2)
    alone_s = time.monotonic() - begun
    begun = time.monotonic()
    went = killed(
        lambda life: [*arguments, "--out", folder / "killed", "--workers", 1 + life % 4],
        folder / "killed",
        kills=kills,
        seed=seed,
    )
    return {
        "what": what,
        "layout": layout,
        **asdict(went),
        "kills": went.kills,
        "items": items,
        "equal": output(folder / "alone") == output(folder / "killed"),
        "alone_s": round(alone_s, 1),
        "killed_s": round(time.monotonic() - begun, 1),
    }


def missed(fell: Sequence[Mapping[str, int]], kills: int) -> list[str]:
    """What of the kills that were asked for did not come about, a line for each.

    Every run must have had all of its kills. The shortest phase takes milliseconds, so that not
    each run is met in it, but the runs together must have been met in every phase.

    Args:
        fell: of each run, by phase, how many fell into it.
        kills: how many were asked for of a run.
    """
    totals = [sum(each.values()) for each in fell]
    found = [
        f"{total} of {kills} kills in run {number}"
        for number, total in enumerate(totals)
        if total < kills
    ]
    return found + [
        f"a kill in {phase}" for phase in PHASES if not any(each.get(phase) for each in fell)
    ]


def growth_of(bundle: Path, folder: Path, items: int) -> dict[str, Any]:
    """The most memory of a run over texts, after its first tenth and at its end."""
    folder.mkdir()
    source = folder / "texts.txt"
    with source.open("w") as file:
        for number in range(items):
            file.write(caption(number) + "\n")
    process = subprocess.Popen(
        command(
            *("embed", source, "--what", "text", "--bundle", bundle, "--out", folder / "out"),
            *("--shard-size", max(1, items // 20)),
        ),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    done = folder / "out" / "_cliprt" / "done"
    first = peak = 0.0
    while process.poll() is None:
        peak = _peak_mb(process.pid) or peak
        if not first and done.exists() and sum(1 for _ in done.iterdir()) >= 2:
            first = peak
        time.sleep(0.02)
    return {
        "items": items,
        "status": process.returncode,
        "first_tenth_mb": round(first, 1),
        "whole_mb": round(peak, 1),
        "grown_mb": round(peak - first, 1),
    }


def _peak_mb(pid: int) -> float:
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0.0
    lines = [line.split()[1] for line in status.splitlines() if line.startswith("VmHWM:")]
    return int(lines[0]) * 1024 / 1e6 if lines else 0.0


@click.command()
@click.option("--kills", default=30, show_default=True, help="Of each run.")
@click.option("--items", default=12_000, show_default=True, help="Pictures with captions.")
@click.option("--texts", default=200_000, show_default=True, help="Of the run whose memory counts.")
@click.option("--seed", default=0, show_default=True, help="Of the moments.")
@click.option("--json", "as_json", is_flag=True, help="Print what was found as JSON.")
def main(kills: int, items: int, texts: int, seed: int, as_json: bool) -> None:
    """Kill runs, and compare what they end with."""
    console = Console(stderr=as_json, soft_wrap=True, highlight=False)
    found = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        bundle = export_checkpoint(str(CHECKPOINT), folder / "bundle").path
        write_files(folder / "pictures", small_pictures(items, seed=seed))
        source, long = folder / "source.jsonl", folder / "texts.jsonl"
        with source.open("w") as file:
            for number, path in enumerate(sorted((folder / "pictures").rglob("*.jpg"))):
                line = {"key": str(number), "image": str(path), "caption": caption(number)}
                file.write(json.dumps(line) + "\n")
        with long.open("w") as file:
            for number in range(_TEXTS * items):
                file.write(json.dumps({"key": str(number), "caption": caption(number)}) + "\n")
        for number, (what, layout) in enumerate(product(TOWERS, LAYOUTS)):
            went = kills_of(
                long if what == "text" else source,
                bundle,
                folder / f"run{number}",
                what,
                layout,
                kills,
                seed + number,
            )
            found.append(went)
            fell = ", ".join(
                f"{went['fell'][phase]} in {phase}" for phase in (*PHASES, "end")
                if phase in went["fell"]
            )  # fmt: skip
            console.print(
                f"{what} {layout}: {went['kills']} kills ({fell}), "
                f"{went['again']:,} of {went['items']:,} items computed again, "
                f"{'equal' if went['equal'] else 'NOT EQUAL'}; "
                f"{went['alone_s']} s undisturbed, {went['killed_s']} s in {went['lives']} lives"
            )
        lacking = missed([went["fell"] for went in found], kills)
        for line in lacking:
            console.print(f"NOT REACHED: {line}")
        memory = growth_of(bundle, folder / "memory", texts)
        console.print(
            f"{texts:,} texts: {memory['first_tenth_mb']} MB after the first tenth, "
            f"{memory['whole_mb']} MB at most; {memory['grown_mb']} MB more, {GROWTH_MB} allowed"
        )
    if as_json:
        click.echo(json.dumps({"runs": found, "missed": lacking, "memory": memory}))
    good = not lacking and all(went["equal"] for went in found)
    sys.exit(0 if good and memory["status"] == 0 and memory["grown_mb"] <= GROWTH_MB else 1)


if __name__ == "__main__":
    main()
