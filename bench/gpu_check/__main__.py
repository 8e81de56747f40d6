"""One command for a machine with a GPU and no network: builds, verifies and times; writes cards.

    python3 bench/gpu_check --wheels PARTS [--wheels MORE] [--out bench/cards]

1. joins the parts of wheels (see parts.py) and installs them into a folder of its own, for this
   interpreter, beside what it has already; nothing is fetched and nothing else is changed;
2. runs every stage in a process of its own: one that fails, crashes or takes too long is reported
   with its reason, and the others go on;
3. writes what was found as JSON and Markdown, with the date and all versions, after every stage.

With --cpu-rehearsal the stages that need no GPU run on the processor, small: it shows that the
command works, the card says so, and no figure of it is one of a GPU. Needs Python alone.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import stat
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

from parts import join

from card import write_card

ROOT = Path(__file__).resolve().parent.parent.parent
PACKAGES = ("client", "export", "engines", "triton_models", "bench")
MODELS = ("ViT-B-32", "ViT-L-14")
STAGES = (
    "machine", "ceiling", "export", "onnxruntime", "torch", "engines", "verify", "engine-speed",
    "overlap", "rtx-older",
)  # fmt: skip
TIMED = frozenset({"onnxruntime", "torch", "engine-speed", "overlap"})
TAIL = 2000
"""Characters of a failed stage's output that are kept."""


@dataclass
class Outcome:
    """What became of a stage.

    Attributes:
        stage: its name, and the model it was about.
        status: ``done``, ``failed`` or ``not run``.
        seconds: how long it took.
        reason: why it failed or was not run; empty if it is done.
        found: its result.
        date: when the command that ran it began.
        commit: of the tree that it ran.
        gpu: that the command found; None without one.
        rehearsal: whether it was one.
    """

    stage: str
    status: str
    seconds: float = 0.0
    reason: str = ""
    found: dict[str, Any] = field(default_factory=dict)
    date: str = ""
    commit: str | None = None
    gpu: str | None = None
    rehearsal: bool = False


def stages(models: list[str]) -> list[tuple[str, str]]:
    """Stages with their models, what matters most first."""
    order = [("machine", ""), ("ceiling", "")]
    for model in models:
        order += [(stage, model) for stage in ("export", "onnxruntime", "torch")]
    order += [
        (stage, models[0])
        for stage in ("engines", "verify", "engine-speed", "overlap", "rtx-older")
    ]
    for model in models[1:]:
        order += [(stage, model) for stage in ("engines", "verify", "engine-speed", "overlap")]
    return order


def main() -> None:
    """Runs the check."""
    options = _options()
    options.work = _work(options.work)
    if options.out is None:
        options.out = options.work if options.cpu_rehearsal else ROOT / "bench" / "cards"
    started = time.monotonic()
    kept = options.work / "outcomes.json"
    site, wheels = _installed(options)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(_paths(site))}
    environment["CLIPRT_HOME"] = str(options.work / "home")
    about = {
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "commit": _commit(),
        "rehearsal": options.cpu_rehearsal,
        "batches": options.batches,
        "samples": options.samples,
    }
    machine = _run("machine", "", options, environment, options.stage_limit_s)
    if machine.status != "done":
        sys.exit(f"machine: {machine.status}: {machine.reason}")
    gpu = machine.found["gpu"]
    outcomes: dict[str, Outcome] = {}
    for former in _former(kept) if options.only else []:
        if (former.gpu, former.rehearsal) == (gpu, options.cpu_rehearsal):
            outcomes[former.stage] = former
        else:
            how = " in a rehearsal" if former.rehearsal else ""
            print(f"{former.stage}: left out, it is of {former.gpu or 'no GPU'}{how}")

    def keep(outcome: Outcome) -> tuple[Path, Path]:
        outcome.date, outcome.commit = about["date"], about["commit"]
        outcome.gpu, outcome.rehearsal = gpu, options.cpu_rehearsal
        outcomes[outcome.stage] = outcome
        why = outcome.reason.rpartition("\n")[2]
        print(f"{outcome.stage}: {outcome.status} {outcome.seconds:.0f} s {why}", flush=True)
        all_so_far = [asdict(each) for each in outcomes.values()]
        kept.write_text(json.dumps(all_so_far, allow_nan=False), encoding="utf-8")
        return write_card(options.out, about, all_so_far)

    keep(wheels)
    written = keep(machine)
    if missing := machine.found.get("missing modules"):
        sys.exit(
            f"this Python lacks {', '.join(missing)}, without which nothing can be checked; "
            "give their wheels with --wheels"
        )
    wanted = set(options.only or STAGES)
    if wanted & TIMED:
        # Shares are those of the ceiling of the same run.
        wanted.add("ceiling")
    for stage, model in stages(options.models):
        if stage in wanted and stage != "machine":
            left = options.limit_s - (time.monotonic() - started)
            limit_s = min(left, options.stage_limit_s)
            written = keep(_run(stage, model, options, environment, limit_s))
    print(f"written: {written[0]} and {written[1].name}")
    failed = [outcome for outcome in outcomes.values() if outcome.status == "failed"]
    sys.exit(1 if failed else 0)


def _work(named: Path | None) -> Path:
    """The working folder, in which nobody else may write: what lies in it is run."""
    if named is None:
        work = Path(tempfile.mkdtemp(prefix="cliprt-gpu-check-"))
        print(f"working in {work}; --work keeps it for --only", flush=True)
        return work.resolve()
    named.mkdir(parents=True, exist_ok=True, mode=0o700)
    found = named.stat()
    if found.st_uid != os.getuid() or found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        sys.exit(
            f"{named} is not yours alone to write, and code from it is run; name another --work, "
            f"or: chown {os.getuid()} {named}; chmod go-w {named}"
        )
    return named.resolve()


def _former(kept: Path) -> list[Outcome]:
    """What earlier commands with the same working folder found."""
    if not kept.is_file():
        return []
    return [Outcome(**each) for each in json.loads(kept.read_text(encoding="utf-8"))]


def _run(
    stage: str, model: str, options: argparse.Namespace, environment: dict[str, str], limit_s: float
) -> Outcome:
    name = f"{stage} {model}".strip()
    if limit_s < 5:
        return Outcome(name, "not run", reason="no time was left (--limit-s)")
    result = options.work / f"{name.replace(' ', '.')}.json"
    result.unlink(missing_ok=True)
    here = Path(__file__).parent
    if stage == "machine":
        command = [sys.executable, str(here / "machine.py"), "--result", str(result)]
    else:
        command = [
            sys.executable, str(here / "stages.py"), stage,
            "--model", model, "--work", str(options.work), "--result", str(result),
            "--batches", *map(str, options.batches), "--samples", str(options.samples),
        ]  # fmt: skip
        if options.cpu_rehearsal:
            command.append("--cpu")
    start = time.monotonic()
    log = options.work / f"{result.stem}.log"
    with log.open("w", encoding="utf-8") as output:
        # A session of its own: a stage's compilers end with it.
        process = subprocess.Popen(
            command, env=environment, stdout=output, stderr=output, start_new_session=True
        )
        try:
            status = process.wait(limit_s)
            said = log.read_text(encoding="utf-8", errors="replace")[-TAIL:].strip()
            reason = "" if status == 0 else f"ended with status {status}: {said}"
        except subprocess.TimeoutExpired:
            reason = f"took longer than {limit_s:.0f} s"
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    seconds = time.monotonic() - start
    found = json.loads(result.read_text(encoding="utf-8")) if result.is_file() else {}
    if reason:
        return Outcome(name, "failed", seconds, reason, found)
    if "not_run" in found:
        return Outcome(name, "not run", seconds, found["not_run"])
    return Outcome(name, "done", seconds, found=found)


def _installed(options: argparse.Namespace) -> tuple[Path, Outcome]:
    """Joins and installs the wheels; what fails here is an outcome like any other."""
    site = options.work / "site"
    start = time.monotonic()
    if not options.wheels:
        return site, Outcome("wheels", "not run", reason="none were given (--wheels)")
    try:
        whole = join(options.wheels, options.work / "wheels")
        wheels = [path for path in whole if path.suffix == ".whl"]
        # --no-deps: what is not given stays what this interpreter has.
        subprocess.run(
            [
                sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps",
                "--no-compile", "--upgrade", "--disable-pip-version-check",
                "--target", str(site), *map(str, wheels),
            ],
            check=True,
            capture_output=True,
            text=True,
        )  # fmt: skip
    except (OSError, ValueError, subprocess.CalledProcessError) as error:
        reason = (getattr(error, "stderr", None) or str(error))[-TAIL:].strip()
        return site, Outcome("wheels", "failed", time.monotonic() - start, reason)
    found = {"wheels": sorted(path.name for path in wheels)}
    return site, Outcome("wheels", "done", time.monotonic() - start, found=found)


def _paths(site: Path) -> list[str]:
    """Where Python looks first: this tree, then the wheels that came along."""
    return [*(str(ROOT / package) for package in PACKAGES), str(site)]


def _commit() -> str | None:
    try:
        found = subprocess.run(
            ["git", "-C", str(ROOT), "describe", "--always", "--dirty"],
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return found.stdout.strip()


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="gpu_check", description="Check a GPU and write cards.")
    parser.add_argument("--wheels", type=Path, action="append", default=[], help="folder of parts")
    parser.add_argument("--out", type=Path, help="folder of cards (bench/cards)")
    parser.add_argument(
        "--work", type=Path, help="folder of what is made, yours alone (a new one in TMPDIR)"
    )
    parser.add_argument("--models", nargs="+", default=list(MODELS))
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 8, 64, 256])
    parser.add_argument(
        "--only",
        nargs="+",
        choices=STAGES,
        help="these stages, beside what former commands with the same --work found",
    )
    parser.add_argument("--samples", type=int, default=50, help="timed calls of each figure (50)")
    parser.add_argument("--stage-limit-s", type=float, default=420)
    parser.add_argument("--limit-s", type=float, default=24 * 3600, help="of everything")
    parser.add_argument("--cpu-rehearsal", action="store_true", help="no GPU: show that it works")
    options = parser.parse_args()
    if options.only and options.work is None:
        parser.error("--only adds to what lies in the folder --work of a former command; name it")
    return options


if __name__ == "__main__":
    main()
