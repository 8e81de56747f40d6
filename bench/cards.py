"""Cards of this machine and a report that puts them side by side: ``make bench``.

ViT-B/32 with drawn weights in float32 and in int8, in this process and served by a Triton beside
it. Everything is measured by the commands that anybody can give, ``cliprt bench ...``; this program
only gives them one after the other and keeps what they write: cards, a report for each kind, and
a picture of each report.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from cliprt import Bundle, open_bundle
from cliprt_engines import chosen_settings
from cliprt_export import export_random
from cliprt_triton import TritonServer, write_repository
from screenshots import chromium, opened

ARCHITECTURE = "ViT-B-32"
PRECISIONS = ("fp32", "int8-cpu")
HOME = Path(os.environ.get("CLIPRT_HOME") or Path.home() / ".cache" / "cliprt")

KINDS = ("throughput", "latency", "load", "startup")

QUICK = ("--repeats", "3", "--warmup", "0.5")


def main() -> None:
    """Measures, compares, and says where the report lies."""
    parser = argparse.ArgumentParser(description="Cards of this machine, and a report.")
    parser.add_argument("--out", type=Path, default=HOME / "bench" / "cards", help="of cards")
    parser.add_argument("--bundle", type=Path, help="measure this one [default: a drawn ViT-B/32]")
    arguments = parser.parse_args()
    out: Path = arguments.out.absolute()
    out.mkdir(parents=True, exist_ok=True)
    for kind in KINDS:
        # Of an earlier run; whatever else lies in the folder is not ours.
        for old in (*out.glob(f"*-{kind}.json"), out / f"{kind}.html", out / f"{kind}.png"):
            old.unlink(missing_ok=True)
    begun = time.monotonic()
    bundle = drawn_bundle() if arguments.bundle is None else open_bundle(arguments.bundle)
    exported = time.monotonic()
    for precision in PRECISIONS:
        local = ("--bundle", str(bundle.path), "--precision", precision)
        # In this process a batch is what there is to scale; the ceilings are of the machine.
        card(
            "throughput", out / f"local-{precision}-throughput.json", *local, *QUICK,
            "--seconds", "1", "--batch", "1,4,16", "--concurrency", "1", "--text-length", "16",
        )  # fmt: skip
        card("startup", out / f"local-{precision}-startup.json", *local, "--repeats", "3")
        with TemporaryDirectory() as folder:
            settings = {
                tower: chosen_settings(bundle, tower, precision) for tower in ("image", "text")
            }
            repository = write_repository(
                bundle, Path(folder) / "models", precision=precision, settings=settings, link=True
            )
            with TritonServer(repository) as server:
                address = ("--url", server.address, "--server-pid", str(server.pid))
                measure_served(out, f"served-{precision}", (*address, "--bundle", str(bundle.path)))
    for kind in KINDS:
        compare(out, kind)
    keep_pictures(out)
    minutes, of_export = (time.monotonic() - begun) / 60, (exported - begun) / 60
    print(
        f"measured in {minutes:.1f} minutes, {of_export:.1f} of them to have the bundle; reports: "
        f"{out}/*.html"
    )


def measure_served(out: Path, name: str, target: Sequence[str]) -> None:
    """The cards of a server: callers that meet there, one alone, and requests nobody waits for."""
    quick = (*target, *QUICK, "--no-ceilings")
    card(
        "throughput", out / f"{name}-throughput.json", *quick, "--seconds", "1",
        "--batch", "1,4", "--concurrency", "1,4", "--text-length", "16",
    )  # fmt: skip
    card("latency", out / f"{name}-latency.json", *quick, "--batch", "1", "--seconds", "3")
    card("load", out / f"{name}-load.json", *quick, "--share", "0.8", "--seconds", "3")


def card(kind: str, path: Path, *words: str) -> None:
    """Measures a card with the command line."""
    print(f"\n{path.stem}", flush=True)
    command = [sys.executable, "-m", "cliprt", "bench", kind, *words, "--out", str(path)]
    subprocess.run(command, check=True)


def compare(out: Path, kind: str) -> None:
    """Puts the cards of a kind side by side."""
    cards = sorted(map(str, out.glob(f"*-{kind}.json")))
    html = out / f"{kind}.html"
    command = [sys.executable, "-m", "cliprt", "bench", "compare", *cards, "--html", str(html)]
    subprocess.run(command, check=True)


def keep_pictures(out: Path) -> None:
    """Keeps a picture of each report, beside it, for documents."""
    with chromium() as browser:
        if browser is None:
            print("there is no chromium: no pictures of the reports are kept")
            return
        for kind in KINDS:
            opened(browser, out / f"{kind}.html").keep(out / f"{kind}.png")


def drawn_bundle() -> Bundle:
    """ViT-B/32 of drawn weights, made once."""
    folder = HOME / "bench" / ARCHITECTURE
    if not folder.exists():
        print(f"export {ARCHITECTURE} with drawn weights")
        export_random(ARCHITECTURE, folder, precisions=PRECISIONS)
    return open_bundle(folder)


if __name__ == "__main__":
    main()
