"""clip-retrieval's inference loop on a folder of pictures, in its own environment.

It prints a line of JSON: the seconds of its loop, in which it loads the model itself, the number
of pictures, versions, and which of torchvision's operators were only declared.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from importlib import metadata
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from rivals.torchvision_operators import declare_operators

# Before the first import of torchvision, which the next one makes.
DECLARED = declare_operators()

import pandas  # noqa: E402
from clip_retrieval.clip_inference import clip_inference  # noqa: E402

BATCH = 64
PACKAGES = ("all-clip", "clip_retrieval", "numpy", "torch", "torchvision", "transformers")


def main() -> None:
    """Writes the embeddings, float16 as the loop does, in the order of the pictures' names."""
    parser = argparse.ArgumentParser()
    parser.add_argument("checkpoint")
    parser.add_argument("pictures", type=Path)
    parser.add_argument("out", type=Path, help="a .npy file, float16 [n, dim]")
    arguments = parser.parse_args()
    report = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    with TemporaryDirectory() as folder:
        begun = time.perf_counter()
        clip_inference(
            input_dataset=str(arguments.pictures),
            output_folder=folder,
            clip_model=f"hf_clip:{arguments.checkpoint}",
            enable_text=False,
            batch_size=BATCH,
            num_prepro_workers=len(os.sched_getaffinity(0)),
            output_partition_count=1,
        )
        seconds = time.perf_counter() - begun
        rows = np.load(Path(folder, "img_emb", "img_emb_0.npy"))
        paths = pandas.read_parquet(Path(folder, "metadata", "metadata_0.parquet"))["image_path"]
    np.save(arguments.out, rows[np.argsort(paths.to_numpy())])
    versions = {name: metadata.version(name) for name in PACKAGES}
    line = {"seconds": seconds, "pictures": len(rows), "versions": versions, "declared": DECLARED}
    report.write(json.dumps(line) + "\n")
    report.flush()


if __name__ == "__main__":
    main()
