"""The configurations in triton_models/examples: what the generator writes for ViT-B/32.

They are made without the model: what a configuration says follows from the card, the policy and the
manifests of engines alone. Identities are invented, so that the files are the same everywhere.
``make examples`` writes them; a test compares.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path

import msgspec
from engine_folders import write_engine

from cliprt import Bundle, Card, FileEntry, ImageSpec, Limits, TextSpec
from cliprt._names import ModelNames
from cliprt_engines import TowerInfo
from cliprt_engines._profiles import default_profiles
from cliprt_triton import Policy
from cliprt_triton._repository import served_models
from cliprt_triton._runtime import Runtime

EXAMPLES = Path(__file__).resolve().parent.parent / "triton_models" / "examples"

IMAGE = ImageSpec(
    height=224, width=224, resize="shortest", resize_height=224, resize_width=224,
    resample="bicubic", crop="floor", convert="first", transparency="drop",
    mean=(0.48145466, 0.4578275, 0.40821073), std=(0.26862954, 0.26130258, 0.27577711),
    rescale=1 / 255,
)  # fmt: skip
TEXT = TextSpec(
    context_length=77, fixed_length=False, pooling="end", cleaning="none",
    end_id=49407, pad_id=49407, vocabulary=49408,
)  # fmt: skip
CARD = Card(
    schema=2, name="openai/clip-vit-base-patch32", family="hf-clip", revision=None,
    space="0123456789abcdef" * 4, identity={}, dim=512, logit_scale=100.0, logit_bias=None,
    image=IMAGE, text=TEXT, files={}, exporter={},
)  # fmt: skip
OTHERS = ("tokenizer.json", "golden.npz", "certificate.json")
TOWERS = {
    "image": TowerInfo("pixels", "uint8", (224, 224, 3), 512, None, None, ""),
    "text": TowerInfo("tokens", "int32", (None,), 512, None, None, ""),
}


def rendered(work: Path) -> dict[str, str]:
    """By the path below the examples, the text of each file.

    Args:
        work: a folder for what the generator reads.
    """
    bundle = _bundle(work / "bundle")
    for architecture in ("sm80", "sm89"):
        for tower, info in TOWERS.items():
            spec = IMAGE if tower == "image" else TEXT
            write_engine(
                work / "engines", bundle, tower, precision="fp16", info=info,
                profiles=default_profiles(spec), architectures=(architecture,),
            )  # fmt: skip
    runtimes = {
        "python": Runtime(),
        "onnxruntime-cpu": Runtime(name="onnxruntime"),
        "onnxruntime-cuda": Runtime(name="onnxruntime", provider="cuda"),
        "onnxruntime-tensorrt": Runtime(
            name="onnxruntime", provider="tensorrt", engine_cache="/var/cache/cliprt"
        ),
        "tensorrt": Runtime(name="tensorrt", engines=work / "engines"),
    }
    found = {}
    for folder, runtime in runtimes.items():
        models = served_models(bundle, ModelNames("clip"), runtime, Policy(), limits=Limits())
        for model in models:
            found[f"{folder}/{model.config.name}.pbtxt"] = model.config.to_pbtxt()
    return found


def _bundle(folder: Path) -> Bundle:
    """A bundle of empty towers: configurations do not depend on what is in them."""
    folder.mkdir()
    names = [f"{tower}.{kind}.onnx" for tower in TOWERS for kind in ("fp32", "fp16")]
    for name in names:
        (folder / name).touch()
    files = {name: FileEntry(sha256="0" * 64, size=1) for name in (*names, *OTHERS)}
    return Bundle(folder, msgspec.structs.replace(CARD, files=files))


def write() -> None:
    """Writes the examples anew."""
    with tempfile.TemporaryDirectory() as work:
        files = rendered(Path(work))
    shutil.rmtree(EXAMPLES, ignore_errors=True)
    for name, text in files.items():
        (EXAMPLES / name).parent.mkdir(parents=True, exist_ok=True)
        (EXAMPLES / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    write()
    sys.stdout.write(f"{EXAMPLES}\n")
