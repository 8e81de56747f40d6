"""A long run needs no more memory than a short one."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from batch_inputs import caption

from cliprt import Bundle

# A run over texts with a model that takes no time; it prints its peak after each shard.
PROGRAM = """
import re, sys
from pathlib import Path
import numpy as np
from cliprt import open_bundle
from cliprt_batch import JobOptions, embed
from cliprt_batch._run_folder import RunFolder
from cliprt_batch._source import Source

class Quick:
    threads, window, described, settings = 3, 64, {"computed": "for a test"}, {}
    card = open_bundle(Path(sys.argv[1])).card
    def images(self, pixels): raise AssertionError
    def texts(self, texts):
        return list(np.full((len(texts), self.card.dim), 0.5, np.float32))

commit = RunFolder.commit
def told(self, unit, parts):
    record = commit(self, unit, parts)
    print(re.search(r"VmHWM:\\s*(\\d+) kB", Path("/proc/self/status").read_text())[1], flush=True)
    return record
RunFolder.commit = told
options = JobOptions(towers=("text",), shard_size=10_000)
summary = embed(Source(sys.argv[2]), Path(sys.argv[3]), Quick(), options, workers=1)
assert summary.embedded == 200_000
"""

ALLOWED_KB = 40_000


def test_200_000_texts(demo_bundle: Bundle, tmp_path: Path) -> None:
    source = tmp_path / "texts.jsonl"
    with source.open("w") as file:
        for number in range(200_000):
            file.write(json.dumps({"key": f"k{number}", "caption": caption(number)}) + "\n")
    arguments = [str(demo_bundle.path), str(source), str(tmp_path / "out")]
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *arguments],
        capture_output=True, text=True, timeout=200, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    peaks = [int(line) for line in done.stdout.splitlines()]
    assert len(peaks) == 20
    # After a tenth: what comes later, tables of the allocator among it, is bounded.
    assert peaks[-1] - peaks[1] < ALLOWED_KB, peaks
