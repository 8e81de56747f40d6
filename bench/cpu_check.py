"""How fast a CPU embeds, beside transformers and beside its int8 units: `make cpu-check`.

One run, one process, the same weights (ViT-B/32 of drawn ones, written as a Hugging Face
checkpoint), the same pictures and captions; systems take turns, so that what else happens on the
machine meets all of them. LocalClip starts from uint8 pictures and strings; transformers gets its
tensors ready made, in the batch that suits it best, texts filled up to 77 tokens as usual.

The ceiling is the best rate of int8 matrix products of the image tower's own shapes by the quickest
library at hand. The share counts the tower's 8-bit products alone.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
from checkpoints import VIT_B_32, write_checkpoint
from transformers import CLIPModel, CLIPTokenizer

from cliprt import open_bundle
from cliprt._cores import usable_cores
from cliprt_bench._inputs import long_captions
from cliprt_bench._machine import cpu_fields
from cliprt_bench._products import OPERATIONS, SHAPES, computes_bf16, int8_session
from cliprt_engines import CpuSettings, LocalClip
from cliprt_export import export_checkpoint
from folders import write_calibration

Work = Callable[[], Any]

IMAGES, TEXTS = 32, 128
TOKENS_AN_IMAGE, WIDTH, HIDDEN, LAYERS = 50, 768, 3072, 12
PATCHES, PATCH_BYTES = 49, 32 * 32 * 3
# How often in a row: some tenths of a second, so that it is no peak of an instant.
BURST = 16
PAUSE_S = 0.25

# `--processor-time` puts another one here.
CLOCK = [time.perf_counter]


@dataclass(frozen=True)
class Row:
    """What was seen of one system.

    Attributes:
        system: its name.
        images_per_s: of every round.
        texts_per_s: of every round.
    """

    system: str
    images_per_s: list[float]
    texts_per_s: list[float]

    @property
    def images(self) -> float:
        """Median pictures in a second."""
        return statistics.median(self.images_per_s)

    @property
    def texts(self) -> float:
        """Median captions in a second."""
        return statistics.median(self.texts_per_s)


def int8_operations() -> int:
    """8-bit operations of one picture: after the last keys and values one token is left."""
    block = 4 * WIDTH * WIDTH + 2 * WIDTH * HIDDEN
    last = 2 * WIDTH * WIDTH * TOKENS_AN_IMAGE + (block - 2 * WIDTH * WIDTH)
    products = (LAYERS - 1) * block * TOKENS_AN_IMAGE + last + PATCHES * PATCH_BYTES * WIDTH
    return 2 * products


def prepare(folder: Path) -> tuple[Path, Path]:
    """Checkpoint and bundle in a folder, made if they are not there."""
    checkpoint, bundle = folder / "checkpoint", folder / "bundle"
    if not checkpoint.exists():
        write_checkpoint(checkpoint, VIT_B_32)
    if not bundle.exists():
        if not (folder / "calibrate").exists():
            write_calibration(folder / "calibrate", 64)
        export_checkpoint(
            checkpoint, bundle, precisions=["int8-cpu"], calibrate=folder / "calibrate"
        )
    return checkpoint, bundle


class Transformers:
    """The home library, with tensors ready made."""

    def __init__(self, checkpoint: Path, dtype: torch.dtype) -> None:
        self.model = CLIPModel.from_pretrained(checkpoint, dtype=dtype).eval()
        self.tokenizer = CLIPTokenizer.from_pretrained(checkpoint)
        self.dtype = dtype
        self.batches = {"image": 16, "text": 16}

    def images(self, pixels: torch.Tensor) -> torch.Tensor:
        """Embeddings [n, dim] of normalised pixels [n, 3, 224, 224]."""
        parts = pixels.to(self.dtype).split(self.batches["image"])
        with torch.inference_mode():
            found = [self.model.get_image_features(part).pooler_output for part in parts]
        return torch.nn.functional.normalize(torch.cat(found).float(), dim=-1)

    def texts(self, tokens: torch.Tensor) -> torch.Tensor:
        """Embeddings [n, dim] of tokens [n, 77]."""
        parts = tokens.split(self.batches["text"])
        with torch.inference_mode():
            found = [self.model.get_text_features(part).pooler_output for part in parts]
        return torch.nn.functional.normalize(torch.cat(found).float(), dim=-1)

    def tune(self, pixels: torch.Tensor, tokens: torch.Tensor) -> None:
        """Finds the batch that suits it best."""
        for tower, work in (
            ("image", lambda: self.images(pixels[:16])),
            ("text", lambda: self.texts(tokens[:16])),
        ):
            seconds = {}
            for size in (4, 8, 16):
                self.batches[tower] = size
                seconds[size] = min(timed(work) for _ in range(2))
            self.batches[tower] = min(seconds, key=lambda size: seconds[size])


def timed(work: Work) -> float:
    """Seconds that it takes, by the clock chosen."""
    begun = CLOCK[0]()
    work()
    return CLOCK[0]() - begun


def ceilings() -> dict[str, Callable[[], float]]:
    """By library, what measures its int8 operations in a second."""
    cores = usable_cores()
    left = [torch.randint(-128, 127, shape[:2], dtype=torch.int8) for shape in SHAPES]
    right = [torch.randint(-128, 127, shape[1:], dtype=torch.int8) for shape in SHAPES]

    def torch_products() -> None:
        for _ in range(BURST):
            for a, b in zip(left, right, strict=True):
                torch._int_mm(a, b)

    def joined() -> float:
        torch_products()
        return BURST * OPERATIONS / timed(torch_products)

    def apart() -> float:
        with one_thread(), ThreadPoolExecutor(cores) as pool:
            run = lambda: list(pool.map(lambda _: torch_products(), range(cores)))  # noqa: E731
            run()
            return BURST * OPERATIONS * cores / timed(run)

    sessions = [int8_session(shape) for shape in SHAPES]
    inputs = [tensor.numpy().view(np.uint8) for tensor in left]

    def onnx_products() -> None:
        for _ in range(BURST):
            for session, x in zip(sessions, inputs, strict=True):
                session.run(None, {"x": x})

    def onnx_apart() -> float:
        with ThreadPoolExecutor(cores) as pool:
            run = lambda: list(pool.map(lambda _: onnx_products(), range(cores)))  # noqa: E731
            run()
            return BURST * OPERATIONS * cores / timed(run)

    return {
        "oneDNN by torch, all cores on one product": joined,
        "oneDNN by torch, a product on each core": apart,
        "MLAS by ONNX Runtime, a product on each core": onnx_apart,
    }


@contextmanager
def one_thread() -> Iterator[None]:
    """Products of torch on one thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def first_use(bundle: Path) -> dict[str, float]:
    """Seconds that the choice of settings takes: measured, and remembered."""
    seconds = {}
    for name in ("measured", "remembered"):
        with LocalClip(bundle, precision="int8-cpu") as clip:
            begun = time.perf_counter()
            clip.settings("image")
            clip.settings("text")
            seconds[name] = time.perf_counter() - begun
    return seconds


def check(folder: Path, rounds: int) -> dict[str, Any]:
    """Runs everything, and returns what was seen."""
    checkpoint, path = prepare(folder)
    torch.set_num_threads(usable_cores())
    bundle = open_bundle(path)
    random = np.random.Generator(np.random.PCG64(0))
    pictures = random.integers(0, 256, (IMAGES, 224, 224, 3), dtype=np.uint8)
    strings = long_captions(TEXTS)
    seconds = first_use(path)

    spec = bundle.card.image
    assert spec is not None
    pixels = (torch.from_numpy(pictures).float() / 255 - torch.tensor(spec.mean)) / torch.tensor(
        spec.std
    )
    pixels = pixels.permute(0, 3, 1, 2).contiguous()
    locals_ = {
        "LocalClip int8-cpu": LocalClip(bundle, precision="int8-cpu"),
        "LocalClip int8-cpu, ONNX Runtime": LocalClip(
            bundle, precision="int8-cpu", settings=CpuSettings(workers=usable_cores())
        ),
        "LocalClip fp32": LocalClip(bundle, precision="fp32"),
    }
    if version("openvino"):
        settings = CpuSettings(runtime="openvino", workers=usable_cores(), bfloat16=computes_bf16())
        locals_["LocalClip int8-cpu, OpenVINO"] = LocalClip(
            bundle, precision="int8-cpu", settings=settings
        )
    homes = {
        "transformers float32": Transformers(checkpoint, torch.float32),
        "transformers bfloat16": Transformers(checkpoint, torch.bfloat16),
    }
    tokens = homes["transformers float32"].tokenizer(
        strings, padding="max_length", max_length=77, truncation=True, return_tensors="pt"
    )["input_ids"]
    work: dict[str, tuple[Work, Work]] = {
        name: (partial(clip.encode_image, pictures), partial(clip.encode_text, strings))
        for name, clip in locals_.items()
    }
    for name, home in homes.items():
        home.tune(pixels, tokens)
        # A quarter of the captions: filled up to 77 tokens they take long.
        few = tokens[: TEXTS // 4]
        work[name] = (partial(home.images, pixels), partial(home.texts, few))
    answers = {
        name: (np.asarray(image()), np.asarray(text())) for name, (image, text) in work.items()
    }

    rows = {name: Row(name, [], []) for name in work}
    libraries = ceilings()
    limits: dict[str, list[float]] = {name: [] for name in libraries}
    for number in range(rounds):
        for name, (image, text) in work.items():
            rows[name].images_per_s.append(IMAGES / timed(image))
            time.sleep(PAUSE_S)
            count = len(answers[name][1])
            rows[name].texts_per_s.append(count / timed(text))
            # Threads of some libraries wait in busy loops for a while.
            time.sleep(PAUSE_S)
        for name, library in libraries.items():
            limits[name].append(library())
        print(f"round {number + 1} of {rounds}", file=sys.stderr)
    reference = answers["transformers float32"]
    return {
        "processor": cpu_fields().get("model name", "a processor without a name"),
        "cores": usable_cores(),
        "clock": CLOCK[0].__name__,
        "versions": {
            name: version(name) for name in ("onnxruntime", "openvino", "torch", "transformers")
        },
        "rows": [asdict(row) for row in rows.values()],
        "settings": {
            name: {tower: msgspec.to_builtins(clip.settings(tower)) for tower in ("image", "text")}
            for name, clip in locals_.items()
        },
        "batches": {name: home.batches for name, home in homes.items()},
        "least_cosine": {
            name: [
                float((found[: len(wanted)] * wanted[: len(found)]).sum(axis=1).min())
                for found, wanted in zip(pair, reference, strict=True)
            ]
            for name, pair in answers.items()
        },
        "ceilings": limits,
        "first_use_s": seconds,
        "int8_operations_per_image": int8_operations(),
    }


def version(package: str) -> str | None:
    """Version of a package, if it is there."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def figures(seen: dict[str, Any]) -> dict[str, float]:
    """The figures that are promised, from what was seen: ratios of medians.

    A ceiling is the best round of the best library, since whatever else happens only lowers it.
    """
    rows = {row["system"]: Row(**row) for row in seen["rows"]}
    ours, base = rows["LocalClip int8-cpu"], rows["transformers float32"]
    ceiling = max(max(rates) for rates in seen["ceilings"].values())
    return {
        "images, int8-cpu / transformers float32": ours.images / base.images,
        "images, int8-cpu / transformers bfloat16": ours.images
        / rows["transformers bfloat16"].images,
        "captions, int8-cpu / transformers float32 at 77": ours.texts / base.texts,
        "share of the int8 ceiling, images": ours.images
        * seen["int8_operations_per_image"]
        / ceiling,
        "share of the int8 ceiling, images, ONNX Runtime": rows[
            "LocalClip int8-cpu, ONNX Runtime"
        ].images
        * seen["int8_operations_per_image"]
        / ceiling,
        "first use, seconds": seen["first_use_s"]["measured"],
        "second use, seconds": seen["first_use_s"]["remembered"],
    }


def table(seen: dict[str, Any]) -> str:
    """What was seen, for people."""
    lines = [
        f"{seen['processor']}, {seen['cores']} cores, {seen['clock']}; "
        + ", ".join(f"{name} {number or '-'}" for name, number in seen["versions"].items()),
        "",
        "| system | images/s | captions/s | least cosine, images | captions |",
        "|---|---|---|---|---|",
    ]
    for row in (Row(**row) for row in seen["rows"]):
        image, text = seen["least_cosine"][row.system]
        lines.append(
            f"| {row.system} | {row.images:.1f} | {row.texts:.0f} | {image:.5f} | {text:.5f} |"
        )
    lines.append("")
    for name, rates in seen["ceilings"].items():
        best, middle = max(rates) / 1e9, statistics.median(rates) / 1e9
        lines.append(f"int8 products, {name}: {middle:.0f} GOP/s, {best:.0f} at best")
    for name, clip in seen["settings"].items():
        for tower, settings in clip.items():
            lines.append(f"{name}, {tower}: {CpuSettings(**settings)}")
    lines.append("")
    lines.extend(f"{name}: {value:.2f}" for name, value in figures(seen).items())
    return "\n".join(lines)


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description="Speed on the CPU beside transformers.")
    parser.add_argument("--folder", type=Path, help="where checkpoint and bundle are kept")
    parser.add_argument("--rounds", type=int, default=7, help="how often the systems take turns")
    parser.add_argument("--json", action="store_true", help="for machines")
    parser.add_argument(
        "--processor-time",
        action="store_true",
        help="for a busy machine: count seconds of processor time; needs one core (taskset -c 0)",
    )
    arguments = parser.parse_args()
    if arguments.processor_time:
        if usable_cores() > 1:
            parser.error("--processor-time is fair on one core only: run it by taskset -c 0")
        CLOCK[0] = time.process_time
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        # A home of its own, so that the first use is one.
        os.environ["CLIPRT_HOME"] = f"{temporary}/home"
        os.environ.pop("CLIPRT_CPU_CHOICE", None)
        seen = check(folder, arguments.rounds)
    if arguments.json:
        print(json.dumps({**seen, "figures": figures(seen)}, indent=2))
    else:
        print(table(seen))


if __name__ == "__main__":
    main()
