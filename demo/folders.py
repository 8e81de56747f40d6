"""Draws folders as `cliprt export` takes them: one to calibrate on, one to measure on.

    python demo/folders.py FOLDER

FOLDER/calibrate holds pictures of every kind and captions.txt, a caption on each line;
FOLDER/evaluate holds pictures of the combinations that the demo model never saw in training, a
sub-folder for each.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from draw import caption, combinations, draw, random_scene, random_size

# Shared by no picture of the training, of the evaluation or of the samples.
CALIBRATION_SEED, EVALUATION_SEED = 41_000, 42_000
SMALLEST, LARGEST = 80, 320


def write_calibration(folder: Path, count: int = 384) -> None:
    """Draws pictures of all combinations, and as many captions.

    Args:
        folder: where to; it must not exist.
        count: how many of each.
    """
    folder.mkdir(parents=True)
    rng = np.random.default_rng(CALIBRATION_SEED)
    known = combinations(held_out=False) + combinations(held_out=True)
    captions = []
    for index in range(count):
        scene = random_scene(rng, *known[rng.integers(len(known))])
        captions.append(caption(scene, rng))
        picture = draw(scene, random_size(rng, SMALLEST, LARGEST), rng)
        picture.save(folder / f"{index:04}.png")
    (folder / "captions.txt").write_text("\n".join(captions) + "\n", encoding="utf-8")


def write_evaluation(folder: Path, each: int = 25) -> None:
    """Draws pictures of the held-out combinations, each in a sub-folder with its name.

    Args:
        folder: where to; it must not exist.
        each: pictures of each combination.
    """
    rng = np.random.default_rng(EVALUATION_SEED)
    for triple in combinations(held_out=True):
        inside = folder / "_".join(triple)
        inside.mkdir(parents=True)
        for index in range(each):
            scene = random_scene(rng, *triple, count=1)
            draw(scene, random_size(rng, SMALLEST, LARGEST), rng).save(inside / f"{index:02}.png")


def main() -> None:
    """Draws both folders."""
    parser = argparse.ArgumentParser(description="Draw folders to calibrate and to measure on.")
    parser.add_argument("folder", type=Path, help="where calibrate/ and evaluate/ go")
    folder = parser.parse_args().folder
    write_calibration(folder / "calibrate")
    write_evaluation(folder / "evaluate")
    print(f"drew {folder / 'calibrate'} and {folder / 'evaluate'}")


if __name__ == "__main__":
    main()
