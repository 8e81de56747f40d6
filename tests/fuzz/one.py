"""Fuzzes one target in this process, guided by coverage; ``run.py`` starts it for each.

Its arguments are the target, a folder for what it finds, and then libFuzzer's own.
"""

from __future__ import annotations

import hashlib
import random
import resource
import sys
import traceback
from pathlib import Path

import atheris

# Their branches count as coverage: what reads bytes in Python.
_FOLLOWED = [
    "PIL", "cliprt", "cliprt_batch", "cliprt_bench", "cliprt_engines", "cliprt_export",
    "cliprt_triton", "ftfy", "gzip", "html", "json", "tarfile", "zipfile",
]  # fmt: skip

with atheris.instrument_imports(include=_FOLLOWED):
    from fuzz.harness import Target, check
    from fuzz.targets import TARGETS

_MOST_MEMORY = 2 * 2**30
"""Bytes of memory that an input may take, besides what the process has when it begins."""


class Findings:
    """Inputs that broke the promise, one of each kind, as files in a folder."""

    def __init__(self, tested: Target, folder: Path) -> None:
        self._tested, self._folder = tested, folder
        self._known: set[tuple[object, ...]] = set()

    def run(self, data: bytes) -> None:
        """Gives an input to the target. What it finds ends nothing, so that more is found."""
        try:
            check(self._tested, data)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # noqa: BLE001 - that is what is looked for
            kind = (type(error), *_places(error))
            if kind not in self._known:
                self._known.add(kind)
                self._keep(data, error)

    def _keep(self, data: bytes, error: BaseException) -> None:
        name = f"{self._tested.name}-{hashlib.sha256(data).hexdigest()[:12]}"
        (self._folder / name).write_bytes(data)
        told = "".join(traceback.format_exception(error))
        (self._folder / f"{name}.txt").write_text(told, encoding="utf-8", errors="replace")
        print(f"FOUND {name}: {type(error).__name__}: {str(error)[:200]!r}", flush=True)


def _places(error: BaseException) -> list[tuple[str, int]]:
    """Where it arose, and the last places of the target and of cliprt on the way there."""
    frames = [
        (frame.filename, frame.lineno or 0) for frame in traceback.extract_tb(error.__traceback__)
    ]
    ours = [frame for frame in frames if "cliprt" in frame[0] or "/fuzz/" in frame[0]]
    return [*frames[-1:], *ours[-1:]]


def main() -> None:
    """Fuzzes until libFuzzer has had enough."""
    program, name, found, *options = sys.argv
    tested = TARGETS[name]
    findings = Findings(tested, Path(found))

    def mutated(data: bytes, most: int, seed: int) -> bytes:
        def raw(part: bytes) -> bytes:
            return bytes(atheris.Mutate(part, len(part) + 64))

        return tested.mutate(bytes(data), random.Random(seed), raw)[:most]

    # Once, so that what it loads at first does not count as memory of an input.
    findings.run(b"")
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + _MOST_MEMORY, used + _MOST_MEMORY))
    arguments = [program, f"-max_len={tested.most}", f"-artifact_prefix={found}/{name}-", *options]
    atheris.Setup(arguments, findings.run, custom_mutator=mutated)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
