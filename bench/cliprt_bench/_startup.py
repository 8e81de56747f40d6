"""How long it takes from nothing to the first answer, in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

from cliprt import open_bundle
from cliprt._errors import DeploymentError
from cliprt._extras import require
from cliprt_bench._figures import Figure, figure

# Prints the monotonic clock, which all processes of a machine share, after each step.
_CLOCK = """
import json, sys, time
from contextlib import ExitStack
seen = {}
def step(name):
    seen[name] = time.monotonic()
    print(json.dumps([name, seen[name]]), flush=True)
"""

_LOCAL = (
    _CLOCK
    + """
import cliprt_engines
step("import")
with ExitStack() as stack:
    clip = stack.enter_context(cliprt_engines.LocalClip(sys.argv[1], precision=sys.argv[2] or None))
    step("open")
    if clip.card.text is not None:
        clip.encode_text(["a photo of a cat"])
        step("first text")
    if clip.card.image is not None:
        import numpy as np
        clip.encode_image([np.zeros((480, 640, 3), np.uint8)])
        step("first picture")
"""
)

_SERVED = (
    _CLOCK
    + """
import cliprt, cliprt_triton
step("import")
with ExitStack() as stack:
    server = stack.enter_context(cliprt_triton.TritonServer(sys.argv[1]))
    step("ready")
    client = stack.enter_context(cliprt.Client(server.address))
    step("connect")
    if client.card.text is not None:
        client.encode_text(["a photo of a cat"])
        step("first text")
    if client.card.image is not None:
        import numpy as np
        client.encode_image([np.zeros((480, 640, 3), np.uint8)])
        step("first picture")
"""
)

_PATIENCE_S = 600.0


def startup_of(
    bundle: Path,
    precision: str | None,
    *,
    served: bool,
    repeats: int,
    advance: Callable[[str], None] = lambda what: None,
) -> Iterator[dict[str, dict[str, Figure]]]:
    """Milliseconds of each step, under the name ``startup``.

    A first start that is not counted lets the runtime's settings be measured and files be read
    once: what is told is the start of a machine that has done it before.

    Args:
        bundle: what is started.
        precision: of its towers; None means the default.
        served: start a Triton that serves it, and not LocalClip.
        repeats: how often.
        advance: is told of a start that was measured.

    Yields:
        After each start what is known by then.

    Raises:
        DeploymentError: the start failed, or took too long.
    """
    steps: dict[str, list[float]] = {}
    with TemporaryDirectory() as folder:
        program, words = _LOCAL, [str(bundle), precision or ""]
        if served:
            require("cliprt_triton", extra="serve")
            from cliprt_triton import write_repository

            repository = Path(folder) / "repository"
            write_repository(open_bundle(bundle), repository, precision=precision)
            program, words = _SERVED, [str(repository)]
        for number in range(repeats + 1):
            took = _start(program, words)
            advance(f"start {number}" if number else "a start that does not count")
            if number:
                for name, value in took.items():
                    steps.setdefault(name, []).append(value)
                yield {"startup": {name: figure(values) for name, values in steps.items()}}


def _start(program: str, words: list[str]) -> dict[str, float]:
    begun = time.monotonic()
    try:
        done = subprocess.run(
            [sys.executable, "-c", program, *words],
            capture_output=True, text=True, timeout=_PATIENCE_S, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise DeploymentError(
            f"the start took more than {_PATIENCE_S:g} s, and was ended"
        ) from None
    if done.returncode:
        raise DeploymentError(f"the start failed: {(done.stderr.splitlines() or ['?'])[-1]}")
    found, before = {}, begun
    for line in done.stdout.splitlines():
        name, moment = json.loads(line)
        found[name] = (moment - before) * 1e3
        before = moment
    return found
