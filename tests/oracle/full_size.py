"""Parity, time and memory of export at full size, with drawn weights: `make full-size`.

Each checkpoint is written in its published format, exported by the command line in a process of its
own, and compared with its home library in float32 on the same pictures and texts. These go through
the library's own processor and tokenizer there; the torch reference of RN50, which has none, gets
cliprt's pixels and tokens. Prints a table in Markdown.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from cases import arrays
from checkpoints import VIT_B_32, Size, write_checkpoint
from numpy.typing import NDArray
from openclip_checkpoints import draw_openclip, write_openclip
from oracle.openclip_reference import OpenClip
from oracle.reference import Reference
from PIL import Image
from siglip_checkpoints import SiglipSize, write_siglip
from transformers import AutoTokenizer, SiglipImageProcessorPil, SiglipModel

from cliprt import Bundle, Limits, open_bundle
from cliprt._images import preprocess
from cliprt._texts import TextTokenizer
from cliprt_engines import OnnxTower

Floats = NDArray[np.float32]
Pair = tuple[Floats, Floats]

TEXTS = ("a", "a photo of a cat", "two dogs, one of them RED, under a tree " * 12)
_TEXT_12 = {"width": 512, "heads": 8, "layers": 12}
RN50 = {
    "embed_dim": 1024,
    "quick_gelu": True,
    "vision_cfg": {"image_size": 224, "layers": [3, 4, 6, 3], "width": 64},
    "text_cfg": _TEXT_12,
}
# The peak of its own memory: what `wait4` reports includes that of the process that forked.
RUN = """
import atexit, re, sys
from pathlib import Path
from cliprt._cli import main
status, peak = Path("/proc/self/status"), Path(sys.argv.pop(1))
atexit.register(lambda: peak.write_text(re.search(r"VmHWM:\\s*(\\d+) kB", status.read_text())[1]))
sys.argv[0] = "cliprt"
main()
"""


@dataclass(frozen=True)
class Case:
    """A published architecture.

    Attributes:
        write: writes its checkpoint into a folder.
        embed: what its home library answers: pictures, texts.
    """

    write: Callable[[Path], Path]
    embed: Callable[[Path, Bundle, Sequence[Image.Image]], Pair]


def transformers_clip(folder: Path, bundle: Bundle, pictures: Sequence[Image.Image]) -> Pair:
    reference = Reference(folder)
    return reference.embed_images(pictures), reference.embed_texts(TEXTS)


def transformers_siglip(folder: Path, bundle: Bundle, pictures: Sequence[Image.Image]) -> Pair:
    model = SiglipModel.from_pretrained(folder, dtype=torch.float32).eval()
    pixels = SiglipImageProcessorPil.from_pretrained(folder)(list(pictures), return_tensors="pt")
    tokens = AutoTokenizer.from_pretrained(folder)(
        list(TEXTS), padding="max_length", truncation=True, max_length=64, return_tensors="pt"
    )
    with torch.no_grad():
        images = model.get_image_features(**pixels).pooler_output
        texts = model.get_text_features(tokens["input_ids"]).pooler_output
    normalise = torch.nn.functional.normalize
    return normalise(images, dim=-1).numpy(), normalise(texts, dim=-1).numpy()


def openclip_reference(folder: Path, bundle: Bundle, pictures: Sequence[Image.Image]) -> Pair:
    reference, (pixels, tokens) = OpenClip(RN50, draw_openclip(RN50)), inputs(bundle, pictures)
    spec = bundle.card.image
    assert spec is not None
    full = np.zeros((len(tokens), 77), dtype=np.int64)
    full[:, : tokens.shape[1]] = tokens
    return reference.embed_pixels(pixels, spec.mean, spec.std), reference.embed_tokens(full)


def hf(size: Size) -> Case:
    return Case(lambda folder: write_checkpoint(folder, size), transformers_clip)


CASES = {
    "ViT-B/32": hf(VIT_B_32),
    "ViT-B/16": hf(Size(224, 16, 768, 12, 12, 512, 12, 8, 512)),
    "ViT-L/14": hf(Size(224, 14, 1024, 24, 16, 768, 12, 12, 768)),
    "ViT-L/14@336": hf(Size(336, 14, 1024, 24, 16, 768, 12, 12, 768)),
    "RN50": Case(lambda folder: write_openclip(folder, RN50), openclip_reference),
    "SigLIP-B/16": Case(
        lambda folder: write_siglip(
            folder,
            SiglipSize(
                width=768,
                heads=12,
                layers=12,
                hidden=3072,
                text_layers=12,
                image_size=224,
                patch_size=16,
            ),
        ),
        transformers_siglip,
    ),
}


def inputs(
    bundle: Bundle, pictures: Sequence[Image.Image]
) -> tuple[NDArray[np.uint8], NDArray[np.int32]]:
    """What cliprt feeds the towers."""
    card = bundle.card
    assert card.image is not None
    assert card.text is not None
    pixels = np.stack([preprocess(picture, card.image, Limits()) for picture in pictures])
    content = bundle.file("tokenizer.json").read_text(encoding="utf-8")
    tokenizer = TextTokenizer(content, card.text, Limits())
    return pixels, tokenizer.pad(tokenizer(TEXTS))


def measure(name: str, folder: Path) -> str:
    """One row of the table; AssertionError beyond 1e-5."""
    case = CASES[name]
    checkpoint = case.write(folder / "checkpoint")
    weights = sum(path.stat().st_size for path in checkpoint.glob("*.safetensors"))
    command = [sys.executable, "-c", RUN, str(folder / "peak"), "export", str(checkpoint)]
    started = time.perf_counter()
    subprocess.run([*command, "--out", str(folder / "out")], check=True, stdout=subprocess.DEVNULL)
    took = time.perf_counter() - started
    bundle = open_bundle(folder / "out")
    pictures = [Image.fromarray(array) for array in arrays(3, 200)]
    expected = case.embed(checkpoint, bundle, pictures)
    differences = []
    for tower, fed, wanted in zip(
        ("image", "text"), inputs(bundle, pictures), expected, strict=True
    ):
        found = OnnxTower(bundle.file(f"{tower}.fp32.onnx")).run(fed)
        np.testing.assert_allclose(found, wanted, atol=1e-5)
        differences.append(float(np.abs(found - wanted).max()))
    peak = int((folder / "peak").read_text()) * 1024
    return (
        f"| {name} | {differences[0]:.1e} | {differences[1]:.1e} | {weights / 1e9:.2f} GB "
        f"| {took:.0f} s | {peak / 1e9:.2f} GB | {peak / weights:.2f} |"
    )


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description="Parity, time and memory at full size.")
    parser.add_argument("names", nargs="*", default=list(CASES), help=", ".join(CASES))
    print("| model | image | text | weights | export | peak memory | peak / weights |")
    print("|---|---|---|---|---|---|---|")
    for name in parser.parse_args().names:
        with tempfile.TemporaryDirectory() as folder:
            print(measure(name, Path(folder)), flush=True)


if __name__ == "__main__":
    main()
