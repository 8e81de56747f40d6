"""A long run needs no more memory than a short one."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from batch_inputs import Shape, caption, small_pictures, write_source

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


# A run over pictures; after each shard it prints the peaks of all its processes, added up.
PICTURES = """
import re, sys
from pathlib import Path
from cliprt_batch import JobOptions, Local, Source, embed
from cliprt_batch._run_folder import RunFolder

def peak(pid):
    folder = Path(f"/proc/{pid}")
    own = int(re.search(r"VmHWM:\\s*(\\d+) kB", (folder / "status").read_text())[1])
    children = [
        child for file in folder.glob("task/*/children") for child in file.read_text().split()
    ]
    return own + sum(map(peak, children))

commit = RunFolder.commit
def told(self, unit, parts):
    record = commit(self, unit, parts)
    print(peak("self"), flush=True)
    return record
RunFolder.commit = told

if __name__ == "__main__":
    options = JobOptions(shard_size=200)
    summary = embed(
        Source(sys.argv[2]), Path(sys.argv[3]), Local(Path(sys.argv[1])), options, workers=2
    )
    assert summary.embedded == 4_000
"""


def peaks_of(program: str, bundle: Bundle, source: Path, out: Path) -> list[int]:
    """What a program printed: most memory so far in kB, after each twentieth of the items."""
    done = subprocess.run(
        [sys.executable, "-c", program, str(bundle.path), str(source), str(out)],
        capture_output=True, text=True, timeout=200, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    peaks = [int(line) for line in done.stdout.splitlines()]
    assert len(peaks) == 20
    return peaks


@pytest.mark.parametrize("shape", ["folder", "parquet"])
def test_4_000_pictures(demo_bundle: Bundle, tmp_path: Path, shape: Shape) -> None:
    noise = np.random.default_rng(0)
    # Behind its end a JPEG file may hold anything: much to carry, and nothing to decode.
    pictures = {name: data + noise.bytes(28_000) for name, data in small_pictures(4_000).items()}
    source = write_source(shape, tmp_path / "source", pictures)
    if shape == "parquet":
        # In groups as long as a shard: what the reader needs for one group is the file's affair.
        table = pq.read_table(source)
        pq.write_table(table, source, row_group_size=200)
    peaks = peaks_of(PICTURES, demo_bundle, source, tmp_path / "out")
    # After a tenth come 108 MB of encoded pictures, and 44 MB of decoded ones.
    assert peaks[-1] - peaks[1] < ALLOWED_KB, peaks


def test_200_000_texts(demo_bundle: Bundle, tmp_path: Path) -> None:
    source = tmp_path / "texts.jsonl"
    with source.open("w") as file:
        for number in range(200_000):
            file.write(json.dumps({"key": f"k{number}", "caption": caption(number)}) + "\n")
    peaks = peaks_of(PROGRAM, demo_bundle, source, tmp_path / "out")
    # After a tenth: what comes later, tables of the allocator among it, is bounded.
    assert peaks[-1] - peaks[1] < ALLOWED_KB, peaks
