"""Environments of the rivals: each made from exact pins, or absent with a reason.

They lie in ``$CLIPRT_HOME/rivals/NAME`` and are kept. One with torch takes 1.5 GB. Rivals whose
pins agree share one: those of ``transformers.txt``, and those of ``onnx.txt``. The pins are of
Python 3.11 on Linux and name all that is needed. torch is pinned without its build: a CPU build, if
pip is pointed to one, or the one for CUDA with what that needs.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from cliprt._cache_home import cache_home
from rivals.perf_analyzer import fetch_libb64
from rivals.reasons import cleaned, reason_in

REQUIREMENTS = Path(__file__).parent / "requirements"
BENCH = Path(__file__).parent.parent
READY = "pins.sha256"
# Of these pip follows no dependencies: only a program of the wheel is used.
ALONE = frozenset({"perf-analyzer"})
# A slow network and a large wheel.
INSTALL_S, PROBE_S = 3600, 300

# By environment, a program that fails if the rival cannot be used in it.
PROBES: Mapping[str, str] = {
    "transformers": "from transformers import CLIPModel",
    "onnx": "import onnxruntime, openvino, transformers",
    "sentence-transformers": "import sentence_transformers",
    "infinity": "import infinity_emb, aiohttp",
    "clip-retrieval": "import rivals.clip_retrieval_job",
    "perf-analyzer": "from rivals.perf_analyzer import version; version()",
}


@dataclass(frozen=True)
class Environment:
    """An environment that works.

    Attributes:
        name: of the environment.
        python: its interpreter.
    """

    name: str
    python: Path


@dataclass(frozen=True)
class Refusal:
    """Why an environment or a rival is absent.

    Attributes:
        step: ``install``, ``import``, ``start``, ``ask`` or ``prepare``.
        reason: the last line of what failed, without paths.
    """

    step: str
    reason: str


def home() -> Path:
    """The folder of all environments."""
    return cache_home() / "rivals"


def make_environment(
    name: str, folder: Path | None = None, *, tell: Callable[[str], None] = lambda line: None
) -> Environment | Refusal:
    """The environment of a name, made if it is not there.

    What could not be made is tried again by the next call: a reason may go away.

    Args:
        name: of a file in ``requirements``.
        folder: where environments lie; None means `home`.
        tell: is told what takes long.
    """
    target = (folder or home()) / name
    python = target / "bin" / "python"
    pins = (REQUIREMENTS / f"{name}.txt").read_bytes()
    digest = hashlib.sha256(pins + sys.version.encode()).hexdigest()
    ready = target / READY
    if not ready.is_file() or ready.read_text() != digest:
        tell(f"installing {name}")
        shutil.rmtree(target, ignore_errors=True)
        if refusal := _install(name, target, python):
            return refusal
        ready.write_text(digest)
    if refusal := attempt("import", [str(python), "-W", "ignore", "-c", PROBES[name]], PROBE_S):
        return refusal
    return Environment(name, python)


def worker_environment() -> dict[str, str]:
    """Environment variables of programs that run in a rival's environment.

    They find ``rivals``, ask no hub and tell nobody.
    """
    kept = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    return {**kept, "PYTHONPATH": str(BENCH), "HF_HUB_OFFLINE": "1", "DO_NOT_TRACK": "1"}


def attempt(step: str, command: list[str], seconds: float, *, clean: bool = True) -> Refusal | None:
    """Runs a program; what went wrong, or None.

    Args:
        step: of the refusal.
        command: what is run.
        seconds: until it is ended.
        clean: in the environment variables of rivals, and not in those of this process.
    """
    try:
        run = subprocess.run(
            command,
            env=worker_environment() if clean else None,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=seconds,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return Refusal(step, f"not done after {seconds:.0f} s")
    except OSError as error:
        return Refusal(step, cleaned(f"{type(error).__name__}: {error.strerror or error}"))
    if run.returncode == 0:
        return None
    output = run.stdout.decode(errors="replace")
    return Refusal(step, reason_in(output, f"it ended with status {run.returncode}"))


def _install(name: str, target: Path, python: Path) -> Refusal | None:
    commands = [
        [sys.executable, "-m", "venv", str(target)],
        [
            *(str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"),
            *(["--no-deps"] if name in ALONE else []),
            *("--requirement", str(REQUIREMENTS / f"{name}.txt")),
        ],
    ]
    for command in commands:
        if refusal := attempt("install", command, INSTALL_S):
            shutil.rmtree(target, ignore_errors=True)
            return refusal
    if name == "perf-analyzer":
        fetch_libb64(target)
    return None
