"""Draws the sample pictures, with their captions and the queries that look for them.

    python demo/samples.py

writes `demo/pictures`. One seed decides every scene, size and query. It is one of several that were
tried: the first with which the model answers all of them rightly, because the demo checks the road
from checkpoint to answer with them. How often the model is right at all is in its card.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
from PIL import Image

from draw import NAME_FIELDS, Scene, combinations, describe, draw, random_scene, random_size

FOLDER = Path(__file__).parent / "pictures"
SEED = 30_007
HELD_OUT, SEEN = 24, 4
GROUP_EVERY = 4
SMALLEST, LARGEST = 80, 280
JPEG_QUALITY = 88
RGBA_FILE, PALETTE_FILE = 1, 3
# What each query states of one sample picture; the count is always told.
QUERIES: tuple[frozenset[str], ...] = (
    NAME_FIELDS,
    NAME_FIELDS,
    NAME_FIELDS | {"background"},
    NAME_FIELDS | {"position"},
    NAME_FIELDS - {"pattern"},
    NAME_FIELDS - {"colour"},
    NAME_FIELDS - {"shape"},
    NAME_FIELDS - {"pattern"},
)


def sample_scenes(rng: np.random.Generator) -> list[Scene]:
    """Returns scenes of different combinations, most of them held out of training.

    Every fourth scene shows two to four objects, the others show one.

    Args:
        rng: The source of chance.
    """
    new, known = combinations(held_out=True), combinations(held_out=False)
    triples = [new[int(index)] for index in rng.permutation(len(new))[:HELD_OUT]]
    triples += [known[int(index)] for index in rng.permutation(len(known))[:SEEN]]
    scenes: list[Scene] = []
    for number, triple in enumerate(triples):
        count = 2 + number // GROUP_EVERY % 3 if number % GROUP_EVERY == 0 else 1
        scenes.append(random_scene(rng, *triple, count=count))
    return scenes


def write_samples(scenes: list[Scene], folder: Path, rng: np.random.Generator) -> list[str]:
    """Draws the scenes into JPEG and PNG files in turn.

    Args:
        scenes: What to draw.
        folder: Where to write.
        rng: The source of chance.

    Returns:
        The file names, one for each scene.
    """
    names: list[str] = []
    for number, scene in enumerate(scenes):
        suffix = "png" if number % 2 else "jpg"
        name = f"{number + 1:02}-{scene.name.replace(' ', '-')}.{suffix}"
        picture = draw(scene, random_size(rng, SMALLEST, LARGEST), rng)
        if suffix == "jpg":
            picture.save(folder / name, quality=JPEG_QUALITY)
        else:
            _as_user_sends(picture, number).save(folder / name, optimize=True)
        names.append(name)
    return names


def queries(scenes: list[Scene], names: list[str]) -> list[dict[str, object]]:
    """Returns text queries, each with the files of all the scenes it is true of."""
    entries: list[dict[str, object]] = []
    for number, stated in enumerate(QUERIES):
        wanted = scenes[number * len(scenes) // len(QUERIES)]
        entries.append(
            {
                "query": f"a picture of {describe(wanted, stated)}",
                "expected": [
                    name
                    for name, scene in zip(names, scenes, strict=True)
                    if all(getattr(scene, field) == getattr(wanted, field) for field in stated)
                ],
            }
        )
    return entries


def _as_user_sends(picture: Image.Image, number: int) -> Image.Image:
    """Returns the picture in the pixel format of its PNG file; one is RGBA and one a palette."""
    if number == RGBA_FILE:
        picture.putalpha(200)
    elif number == PALETTE_FILE:
        return picture.quantize(64)
    return picture


def main() -> None:
    """Writes the sample pictures anew."""
    rng = np.random.default_rng(SEED)
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir()
    scenes = sample_scenes(rng)
    names = write_samples(scenes, FOLDER, rng)
    captions = [
        {
            "file": name,
            "class": scene.name,
            "caption": f"a picture of {describe(scene, NAME_FIELDS | {'position', 'background'})}",
        }
        for name, scene in zip(names, scenes, strict=True)
    ]
    for file, content in (("captions", captions), ("queries", queries(scenes, names))):
        text = json.dumps(content, indent=2)
        (FOLDER / f"{file}.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
