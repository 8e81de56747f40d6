"""Makes the golden files in tests/golden from transformers. Run by ``make golden``.

- ``tokens.json``: ids of ``hostile.strings()``, with OpenAI's vocabulary and with the demo's;
- ``siglip_tokens.json.gz``: the same of SigLIP's tokenizers, without what fills up a text;
- ``pixels.json``: SHA-256 of the processor's pixels for each picture of ``pictures.py``, side 64;
- ``demo.npz``: normalised float32 embeddings of the demo model;
- ``vit_b_32.npz``: the same for the drawn ViT-B/32, and for it with a legacy configuration.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import sys
import tempfile
from io import BytesIO
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from cases import ROOT, arrays, demo_pictures, texts
from checkpoints import VIT_B_32, write_checkpoint, write_tokenizer
from hostile import strings
from oracle.reference import Reference
from PIL import Image
from siglip_checkpoints import write_siglip
from transformers import AutoTokenizer, CLIPImageProcessorPil, CLIPTokenizer

from pictures import file_cases, pil_cases

GOLDEN = ROOT / "tests" / "golden"
DEMO = ROOT / "demo" / "checkpoint"


def main() -> None:
    GOLDEN.mkdir(exist_ok=True)
    make_tokens()
    make_siglip_tokens()
    make_pixels()
    demo = Reference(DEMO)
    np.savez(
        GOLDEN / "demo.npz",
        images=demo.embed_images([Image.open(path) for path in demo_pictures()]),
        texts=demo.embed_texts(texts(32)),
    )
    with tempfile.TemporaryDirectory() as folder:
        new = Reference(write_checkpoint(Path(folder) / "new", VIT_B_32))
        legacy = Reference(write_checkpoint(Path(folder) / "old", VIT_B_32, eos_token_id=2))
        np.savez(
            GOLDEN / "vit_b_32.npz",
            images=new.embed_images(arrays(8, 224)),
            texts=new.embed_texts(texts(77)),
            legacy_texts=legacy.embed_texts(texts(77)),
        )


def make_tokens() -> None:
    with tempfile.TemporaryDirectory() as folder:
        write_tokenizer(Path(folder))
        openai = CLIPTokenizer.from_pretrained(folder)
    tokenizers = {"openai": openai, "demo": CLIPTokenizer.from_pretrained(DEMO)}
    golden = {
        name: [tokenizer(text, truncation=True)["input_ids"] for text in strings()]
        for name, tokenizer in tokenizers.items()
    }
    (GOLDEN / "tokens.json").write_text(json.dumps(golden, separators=(",", ":")) + "\n")


def make_siglip_tokens() -> None:
    golden = {}
    for words in ("SiglipTokenizer", "GemmaTokenizer", "Siglip2Tokenizer"):
        with tempfile.TemporaryDirectory() as folder:
            tokenizer = AutoTokenizer.from_pretrained(write_siglip(Path(folder), words=words))
            options = {"truncation": True, "max_length": 64}
            golden[words] = [tokenizer(text, **options)["input_ids"] for text in strings()]
    content = json.dumps(golden, separators=(",", ":")).encode()
    (GOLDEN / "siglip_tokens.json.gz").write_bytes(gzip.compress(content, mtime=0))


def make_pixels() -> None:
    size = {"shortest_edge": 64}
    processor = CLIPImageProcessorPil(size=size, crop_size={"height": 64, "width": 64})
    golden = {}
    cases = [*pil_cases(), *((name, Image.open(BytesIO(data))) for name, data in file_cases())]
    for name, image in cases:
        out = processor(image, do_rescale=False, do_normalize=False)["pixel_values"][0]
        pixels = np.ascontiguousarray(np.moveaxis(np.asarray(out), 0, -1))
        assert pixels.dtype == np.uint8
        golden[name] = hashlib.sha256(pixels.tobytes()).hexdigest()
    (GOLDEN / "pixels.json").write_text(json.dumps(golden, indent=1) + "\n")


if __name__ == "__main__":
    main()
