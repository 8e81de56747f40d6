"""How fast pictures become pixels, beside transformers: `make preprocess-check`.

Three questions. One core: how many 640 x 480 JPEG files a second, beside CLIPImageProcessor with
its Pillow backend, which does the same work and gives the same pixels; systems take turns, one
thread each, and seconds of processor time are counted, so that a busy machine meets both alike.
Several cores: what threads and processes make of them, by the clock on the wall. Scaled decoding of
JPEG files: what it saves, and how far it moves the embeddings.

The pictures are drawn, unless files are given: noise whose amplitude falls with frequency as in
photographs, in colour, saved at quality 90 with halved chroma; about 2.8 bits a pixel.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from transformers import CLIPImageProcessorPil

from cliprt import Bundle, Card, Decoding, ImageSpec, Limits, open_bundle
from cliprt import _images as images
from cliprt._cores import usable_cores
from cliprt._decoding import Decoder
from cliprt._images import preprocess
from cliprt_bench import photo
from cliprt_engines import OnnxTower
from cliprt_export import export_checkpoint, export_random

DEMO = Path(__file__).resolve().parent.parent / "demo" / "checkpoint"
SIZE = (640, 480)
BATCH = 16
FAST_SIZES = [(640, 480), (1024, 768), (1280, 960), (1920, 1080), (3000, 2000), (4000, 3000)]
MARGINS = (1.0, 1.5, 2.0, 3.0)
LIMITS = Limits()

Work = Callable[[], Any]


def clip_spec(side: int = 224) -> ImageSpec:
    """The recipe of CLIP."""
    mean, std = CLIPImageProcessorPil.image_mean, CLIPImageProcessorPil.image_std
    return ImageSpec(
        height=side, width=side, resize="shortest", resize_height=side, resize_width=side,
        resample="bicubic", crop="floor", convert="first", transparency="white",
        mean=tuple(mean), std=tuple(std), rescale=1 / 255,
    )  # fmt: skip


def check_pixels(files: Iterable[bytes], spec: ImageSpec) -> None:
    """Fails unless pixels are those of the processor, before and after its normalisation."""
    processor = CLIPImageProcessorPil()
    raw = partial(processor, do_rescale=False, do_normalize=False, return_tensors="np")
    for data in files:
        ours = preprocess(data, spec, LIMITS)
        theirs = raw(Image.open(BytesIO(data)))["pixel_values"][0]
        if not np.array_equal(ours, np.moveaxis(theirs, 0, -1)):
            raise SystemExit("the pixels differ from the processor's")
        planes = np.moveaxis(ours, -1, 0)
        finished = processor(planes, do_resize=False, do_center_crop=False, return_tensors="np")
        reference = processor(Image.open(BytesIO(data)), return_tensors="np")
        if not np.array_equal(finished["pixel_values"], reference["pixel_values"]):
            raise SystemExit("the processor's output differs from that of our pixels")


def opened(files: Iterable[bytes]) -> list[Image.Image]:
    """Pillow images as a user has them: the header read, the rest still in the file."""
    return [Image.open(BytesIO(data)) for data in files]


def systems(spec: ImageSpec) -> dict[str, tuple[Callable[[list[Any]], None], bool]]:
    """By name, what prepares pictures, and whether it is given Pillow images rather than bytes."""
    processor = CLIPImageProcessorPil()

    def theirs(given: list[Any]) -> None:
        for image in given:
            picture = image if isinstance(image, Image.Image) else Image.open(BytesIO(image))
            processor(picture, return_tensors="np")

    def theirs_batched(given: list[Any]) -> None:
        processor(given, return_tensors="np")

    def ours(given: list[Any]) -> None:
        for data in given:
            preprocess(data, spec, LIMITS)

    def ours_batched(given: list[Any]) -> None:
        np.stack([preprocess(data, spec, LIMITS) for data in given])

    return {
        "processor, a Pillow image a call": (theirs, True),
        "processor, bytes opened within": (theirs, False),
        f"processor, {BATCH} Pillow images a call": (theirs_batched, True),
        "cliprt, bytes": (ours, False),
        f"cliprt, {BATCH} of bytes, stacked": (ours_batched, False),
        "cliprt, Pillow images": (ours, True),
    }


def spent_ms(files: list[bytes], work: Callable[[list[Any]], None], wants_images: bool) -> float:
    """Processor time of a picture."""
    given: list[Any] = opened(files) if wants_images else list(files)
    begun = time.process_time()
    work(given)
    return (time.process_time() - begun) / len(files) * 1000


def one_core(files: list[bytes], spec: ImageSpec, rounds: int) -> dict[str, list[float]]:
    """Milliseconds of processor time a picture, of every round, by system; all in this process."""
    found: dict[str, list[float]] = {name: [] for name in systems(spec)}
    for turn in range(rounds + 1):
        for name, (work, wants_images) in systems(spec).items():
            spent = spent_ms(files, work, wants_images)
            if turn:  # the first one warms up
                found[name].append(spent)
    return found


def apart(files: list[bytes], spec: ImageSpec, rounds: int) -> dict[str, list[float]]:
    """The same, each system in processes of its own, as programs have them.

    What one system frees, the next one in the same process gets without asking the kernel for
    memory, and the allocator learns from the largest: alone, each pays for itself.
    """
    found: dict[str, list[float]] = {name: [] for name in systems(spec)}
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder, f"{index}.jpg") for index in range(len(files))]
        for path, data in zip(paths, files, strict=True):
            path.write_bytes(data)
        for _ in range(rounds):
            for name in found:
                command = [sys.executable, "-W", "ignore", __file__, "--alone", name, "--files"]
                answer = subprocess.check_output([*command, *map(str, paths)], text=True)
                found[name].append(float(answer))
    return found


def ratio(above: list[float], below: list[float]) -> tuple[float, float]:
    """Median and least ratio of neighbours in time."""
    ratios = [a / b for a, b in zip(above, below, strict=True)]
    return statistics.median(ratios), min(ratios)


def print_one_core(files: list[bytes], spec: ImageSpec, rounds: int) -> None:
    """One core, beside the processor."""
    check_pixels(files, spec)
    size = sum(map(len, files)) // len(files)
    print(f"{len(files)} files, {size:,} bytes on average; pixels identical")
    print("all in one process:")
    print_ratios(one_core(files, spec, rounds))
    print("each in processes of its own:")
    print_ratios(apart(files, spec, max(3, rounds // 3)))


def print_ratios(found: dict[str, list[float]]) -> None:
    """A table, and who is how many times as fast as whom."""
    for name, spent in found.items():
        middle = statistics.median(spent)
        print(f"{name:36} {middle:6.2f} ms {1000 / middle:6.0f} images/s")
    names = list(found)
    pairs = ((names[0], names[3]), (names[1], names[3]), (names[2], names[4]), (names[0], names[5]))
    for above, below in pairs:
        middle, least = ratio(found[above], found[below])
        print(f"{middle:.2f} x ({least:.2f} at least): {below} / {above}")


def print_scaling(files: list[bytes], spec: ImageSpec, rounds: int) -> None:
    """Threads and processes on 1 to all cores."""
    batch = files * 4
    decoders = {
        (kind, workers): Decoder(spec, LIMITS, Decoding(workers=workers, kind=kind))
        for kind in ("threads", "processes")
        for workers in range(1, usable_cores() + 1)
    }
    rates: dict[Any, list[float]] = {key: [] for key in decoders}
    for turn in range(rounds + 1):
        for key, decoder in decoders.items():
            begun = time.perf_counter()
            decoder.prepare(0, batch)
            if turn:
                rates[key].append(len(batch) / (time.perf_counter() - begun))
    for (kind, workers), found in rates.items():
        alone = statistics.median(rates[kind, 1])
        middle = statistics.median(found)
        print(f"{kind:10} {workers:2} {middle:6.0f} images/s, {middle / alone:.2f} x one, "
              f"best {max(found):.0f}")  # fmt: skip
    for decoder in decoders.values():
        decoder.close()


def embedded(tower: OnnxTower, pixels: list[NDArray[np.uint8]]) -> NDArray[np.float32]:
    """Embeddings [n, dim]."""
    return tower.run(np.stack(pixels))


def print_fast(bundle: Bundle, count: int, rounds: int) -> None:
    """What scaled decoding saves and moves, by size and margin."""
    card: Card = bundle.card
    assert card.image is not None
    spec, tower = card.image, OnnxTower(bundle.file("image.fp32.onnx"))
    print(f"\n{card.name}, {spec.width} x {spec.height}: least and mean cosine, and speed-up")
    chosen = images.FAST_JPEG_MARGIN
    for width, height in FAST_SIZES:
        files = [photo(width, height, seed) for seed in range(count)]
        exact = [preprocess(data, spec, LIMITS) for data in files]
        reference = embedded(tower, exact)
        others = reference @ reference.T
        between = others[~np.eye(count, dtype=bool)].mean()
        cells = []
        for margin in MARGINS:
            images.FAST_JPEG_MARGIN = margin
            fast = [preprocess(data, spec, LIMITS, fast_jpeg=True) for data in files]
            if all(map(np.array_equal, exact, fast)):
                cells.append(f"{margin:g}: as before")
                continue
            cosines = (reference * embedded(tower, fast)).sum(axis=1)
            plain, quick = [], []
            for _ in range(rounds):
                for spent, options in ((plain, {}), (quick, {"fast_jpeg": True})):
                    begun = time.process_time()
                    for data in files:
                        preprocess(data, spec, LIMITS, **options)
                    spent.append(time.process_time() - begun)
            cells.append(f"{margin:g}: {cosines.min():.5f} {cosines.mean():.5f} "
                         f"{ratio(plain, quick)[0]:.1f} x")  # fmt: skip
        print(
            f"{width} x {height} (two pictures: {between:.2f})  " + "  |  ".join(cells), flush=True
        )
    images.FAST_JPEG_MARGIN = chosen


def main() -> None:
    """Prints all three."""
    parser = argparse.ArgumentParser(description="Preprocessing beside CLIPImageProcessor.")
    parser.add_argument("--rounds", type=int, default=15, help="how often the systems take turns")
    parser.add_argument("--pictures", type=int, default=8, help="for the cosines, of each size")
    parser.add_argument("--bundle", type=Path, action="append", help="for the cosines")
    parser.add_argument("--files", type=Path, nargs="+", help="photographs instead of drawn ones")
    parser.add_argument("--only", choices=("core", "scaling", "fast"), action="append")
    parser.add_argument("--alone", help=argparse.SUPPRESS)  # what `apart` starts
    arguments = parser.parse_args()
    if arguments.alone:
        torch.set_num_threads(1)
        files = [path.read_bytes() for path in arguments.files]
        system = systems(clip_spec())[arguments.alone]
        print(statistics.median([spent_ms(files, *system) for _ in range(8)][1:]))
        return
    parts = arguments.only or ["core", "scaling", "fast"]
    torch.set_num_threads(1)
    files = [path.read_bytes() for path in arguments.files or []]
    files = (files * BATCH)[:BATCH] or [photo(*SIZE, seed) for seed in range(BATCH)]
    if "core" in parts:
        print_one_core(files, clip_spec(), arguments.rounds)
    if "scaling" in parts:
        print(f"\n{usable_cores()} cores, load {os.getloadavg()[0]:.1f}")
        print_scaling(files, clip_spec(), max(3, arguments.rounds // 3))
    if "fast" in parts:
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary)
            bundles = [open_bundle(path) for path in arguments.bundle or []] or [
                export_checkpoint(str(DEMO), folder / "demo"),
                export_random("ViT-B-32", folder / "random"),
            ]
            for bundle in bundles:
                print_fast(bundle, arguments.pictures, max(3, arguments.rounds // 5))


if __name__ == "__main__":
    main()
