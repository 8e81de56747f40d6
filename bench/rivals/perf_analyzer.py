"""NVIDIA's perf_analyzer, a load generator that is not ours, on a served cliprt.

It gets its inputs from a file written here: it would draw tokens and bytes at random otherwise,
which are no texts and no pictures. Its wheel brings no libb64; `fetch_libb64` gets it from the
distribution where apt-get is at hand.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import shutil
import struct
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

LIBB64 = "libb64-0d"
_LIBRARIES = ("lib/libb64", f"lib/python{sys.version_info[0]}.{sys.version_info[1]}/site-packages")
FETCH_S, VERSION_S = 120, 30


def write_inputs(path: Path, name: str, items: Sequence[bytes] | Sequence[str]) -> None:
    """Writes a file for ``--input-data``: a request for each item.

    Args:
        path: where to write.
        name: of the model's input, a tensor BYTES [1] without the batch.
        items: encoded pictures or strings.
    """
    data = []
    for item in items:
        content = item.encode() if isinstance(item, str) else item
        # What b64 holds is sent as it is, and a tensor BYTES has its length before every element.
        raw = struct.pack("<I", len(content)) + content
        data.append({name: {"b64": base64.b64encode(raw).decode(), "shape": [1]}})
    path.write_text(json.dumps({"data": data}))


def binary() -> Path:
    """The program, in the environment that this runs in."""
    return Path(sys.prefix) / "bin" / "perf_analyzer"


def variables() -> dict[str, str]:
    """Environment variables with which the program finds its libraries."""
    folders = [Path(sys.prefix) / _LIBRARIES[0]]
    folders.append(Path(sys.prefix) / _LIBRARIES[1] / "nvidia" / "cuda_runtime" / "lib")
    # A distribution's package puts its library below usr/lib/ARCHITECTURE.
    folders += [path.parent for path in folders[0].rglob("libb64.so.*")]
    given = os.environ.get("LD_LIBRARY_PATH", "").split(":")
    return {**os.environ, "LD_LIBRARY_PATH": ":".join(filter(None, [*map(str, folders), *given]))}


def version() -> str:
    """What the program says about itself.

    Raises:
        RuntimeError: it does not run; the message is the loader's.
    """
    run = subprocess.run(
        [str(binary()), "--version"],
        env=variables(),
        capture_output=True,
        text=True,
        timeout=VERSION_S,
        check=False,
    )
    if run.returncode:
        raise RuntimeError((run.stderr or run.stdout).strip() or f"status {run.returncode}")
    return run.stdout.strip()


def fetch_libb64(environment: Path) -> None:
    """Puts libb64 below ``lib/libb64`` of an environment, where apt-get and dpkg-deb are at hand.

    Without them, or without a network, it does nothing: the system may have the library, and if
    not, the program's loader says so.
    """
    if not shutil.which("apt-get") or not shutil.which("dpkg-deb"):
        return
    folder = environment / _LIBRARIES[0]
    folder.mkdir(parents=True, exist_ok=True)
    _try(["apt-get", "download", "--quiet", LIBB64], folder)
    for package in folder.glob(f"{LIBB64}_*.deb"):
        _try(["dpkg-deb", "-x", package.name, "."], folder)
        package.unlink()


def _try(command: list[str], folder: Path) -> None:
    with contextlib.suppress(subprocess.TimeoutExpired):
        subprocess.run(command, cwd=folder, capture_output=True, timeout=FETCH_S, check=False)


if __name__ == "__main__":
    # In the environment perf-analyzer: the arguments are the program's own.
    os.execve(binary(), [str(binary()), *sys.argv[1:]], variables())
