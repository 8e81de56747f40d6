"""One valid file of each kind: what is kept as a seed, and what fuzzing begins with."""

from __future__ import annotations

import functools
import gzip
import hashlib
import io
import json
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from bench_cards import card as bench_card_of
from onnx import TensorProto, helper
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from cliprt import Card, FileEntry, ImageSpec, TextSpec
from cliprt._card import encode_card
from cliprt_batch._disk import FileRecord
from cliprt_batch._manifest import Failure, Manifest, UnitRecord, manifest_of
from cliprt_batch._run_config import RunConfig
from cliprt_batch._run_records import Intent, RunRecord, ShareRecord
from cliprt_engines import CpuSettings
from cliprt_engines import _manifest as engines
from cliprt_engines._profiles import Profile, Span
from cliprt_export._certificate import SCHEMA as CERTIFICATE_SCHEMA
from cliprt_export._certificate import Bars, Certificate, MeasuredOn
from cliprt_export._engine_certificate import EngineCertificate
from cliprt_export._fidelity import Fidelity
from cliprt_triton import Policy, Tuned

DATA = Path(__file__).resolve().parent.parent / "data"
DIM = 8
SPACE = "5a" * 32
PLAN = b"no plan that any TensorRT reads"

IMAGE = ImageSpec(
    height=32,
    width=32,
    resize="shortest",
    resize_height=32,
    resize_width=32,
    resample="bicubic",
    crop="floor",
    convert="first",
    transparency="white",
    mean=(0.5, 0.5, 0.5),
    std=(0.5, 0.5, 0.5),
    rescale=1 / 255,
)
TEXT = TextSpec(
    context_length=8,
    fixed_length=False,
    pooling="end",
    cleaning="none",
    end_id=22,
    pad_id=0,
    vocabulary=24,
)


@functools.cache
def tokenizer() -> bytes:
    """A tokenizer.json of two dozen pieces, with every part that a real one has."""
    letters = "abcdefghij"
    vocabulary = {letter: index for index, letter in enumerate(letters)}
    vocabulary |= {f"{letter}</w>": 10 + index for index, letter in enumerate(letters)}
    vocabulary |= {"ab": 20, "<s>": 21, "</s>": 22, "ab</w>": 23}
    made = Tokenizer(
        models.BPE(
            vocab=vocabulary,
            merges=[("a", "b"), ("a", "b</w>")],
            end_of_word_suffix="</w>",
            unk_token="</s>",
        )
    )
    made.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Whitespace(), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    made.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 21), ("</s>", 22)]
    )
    return str(made.to_str()).encode()


@functools.cache
def golden() -> bytes:
    """A golden.npz."""
    drawn = np.random.default_rng(0)
    embeddings = drawn.standard_normal((2, DIM)).astype(np.float32)
    embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
    out = io.BytesIO()
    np.savez(
        out,
        pixels=drawn.integers(0, 256, (2, 4, 4, 3)).astype(np.uint8),
        image_embedding=embeddings,
        tokens=np.array([[21, 0, 22], [21, 3, 22]], dtype=np.int32),
        text_embedding=embeddings,
    )
    return out.getvalue()


@functools.cache
def graph() -> bytes:
    """An ONNX graph whose weight lies in another file."""
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[4])
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", "weights.data"), ("offset", "0"), ("length", "16")):
        tensor.external_data.add(key=key, value=value)
    x, y = (helper.make_tensor_value_info(port, TensorProto.FLOAT, [4]) for port in "xy")
    constant = helper.make_tensor("c", TensorProto.FLOAT, [4], [1.0, 2.0, 3.0, 4.0])
    nodes = [
        helper.make_node("Constant", [], ["c"], value=constant),
        helper.make_node("Add", ["x", "w"], ["z"]),
        helper.make_node("Mul", ["z", "c"], ["y"]),
    ]
    made = helper.make_graph(nodes, "g", [x], [y], [tensor])
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 20)])
    return bytes(model.SerializeToString())


WEIGHTS = bytes(16)


def fidelity() -> Fidelity:
    return Fidelity(
        items=8,
        min_cosine=0.9999,
        p01_cosine=0.9999,
        mean_cosine=0.99995,
        max_abs_diff=1e-4,
        single_vs_batch=0.0,
        padding=1e-6,
    )


MEASURED = MeasuredOn(items=8, labelled=0, given=0, drawn=8, skipped=0, digest="ab" * 32)


def certificate() -> bytes:
    """A certificate.json of a bundle."""
    return _written(
        Certificate(
            schema=CERTIFICATE_SCHEMA,
            towers={"image": {"fp32": fidelity()}, "text": {"fp32": fidelity()}},
            measured_on={"image": MEASURED, "text": MEASURED},
            prompt=None,
            classes=[],
            calibrated_on=[],
            bars=Bars(),
            reference="NumPy",
            runtime="onnxruntime",
            cpu="Example CPU",
        )
    )


def bundle_files() -> dict[str, bytes]:
    """Files of a bundle besides its card."""
    return {
        "certificate.json": certificate(),
        "golden.npz": golden(),
        "image.fp32.onnx": graph(),
        "tokenizer.json": tokenizer(),
        "weights.data": WEIGHTS,
    }


def card() -> Card:
    """A card of such a bundle."""
    files = {name: _entry(content) for name, content in bundle_files().items()}
    return Card(
        schema=2,
        name="example/model",
        family="hf-clip",
        revision="0123abc",
        space=SPACE,
        identity={"image": "11" * 32, "text": "22" * 32},
        dim=DIM,
        logit_scale=100.0,
        logit_bias=None,
        image=IMAGE,
        text=TEXT,
        files=files,
        exporter={"cliprt": "0.1.0"},
    )


def engine_manifest() -> bytes:
    """A manifest.json of an engine."""
    recipe = engines.Recipe(
        cliprt="0.1.0",
        space=SPACE,
        tower="text",
        precision="fp16",
        files={"text.fp16.onnx": _entry(b"graph")},
        profiles=(
            Profile(batch=Span(1, 4, 8), length=Span(2, 77, 77)),
            Profile(batch=Span(1, 4, 8), length=Span(2, 8, 16)),
        ),
        flavor="tensorrt",
        version="11.0.0",
        architectures=("sm89",),
        built_on=engines.BuiltOn(gpu="Example GPU", cuda="13.0", driver="580.95.05"),
        options=engines.BuilderOptions(version_compatible=True, hardware="ampere-plus"),
    )
    return _written(
        engines.Manifest(
            schema=engines.SCHEMA,
            model="example/model",
            recipe=recipe,
            plan=_entry(PLAN),
            input=engines.TensorEntry(name="tokens", dtype="int32", shape=(None,)),
            output=engines.TensorEntry(name="embedding", dtype="float32", shape=(DIM,)),
            products={"float16": 12},
            widened={"int8 -> float16": 1},
            fused_attentions=2,
            inspected="engine",
            built_at="2026-11-21T00:00:00Z",
        )
    )


def engine_certificate() -> bytes:
    """A certificate.json of an engine."""
    return _written(
        EngineCertificate(
            schema=1,
            engine="text.fp16.tensorrt-11.0.0.sm89",
            plan_sha256=hashlib.sha256(PLAN).hexdigest(),
            space=SPACE,
            tower="text",
            precision="fp16",
            runtime="TensorRT 11.0.0 on Example GPU",
            cuda="13.0",
            driver=None,
            reference_runtime="onnxruntime",
            against={"known answers": fidelity(), "fp32 tower": fidelity()},
            checks=[],
            measured_on=MEASURED,
            bars=Bars(),
            missed=[],
        )
    )


def run_config() -> RunConfig:
    """What a batch run is asked for."""
    return RunConfig(
        source={"kind": "folder", "address": "/pictures"},
        model="example/model",
        space=SPACE,
        dim=DIM,
        towers=("image", "text"),
        layout="npy",
        dtype="float32",
        shard_size=20,
        options={"truncate": True, "precision": "fp32", "limit": 5, "rate": 0.5},
    )


def unit_record(number: int = 0) -> UnitRecord:
    """A committed shard."""
    files = {
        f"img_emb/img_emb_{number:06d}.npy": FileRecord("ab" * 32, 160),
        f"metadata/metadata_{number:06d}.parquet": FileRecord("cd" * 32, 900),
    }
    return UnitRecord(number=number, items=20, embedded=19, failed={"decode": 1}, files=files)


def batch_manifest() -> Manifest:
    """The manifest of a finished run."""
    return manifest_of(run_config(), "ef" * 32, (unit_record(0), unit_record(1)))


def run_records() -> dict[str, bytes]:
    """Records of a run, by kind."""
    failure = Failure(key="a.jpg", shard=0, row=3, stage="decode", reason="it is no picture")
    moves = (("_cliprt/tmp/1-of-1/ab", "img_emb/img_emb_000000.npy"),)
    return {
        "run": _written(RunRecord(1, run_config(), "ef" * 32)),
        "done": _written(unit_record()),
        "share": _written(ShareRecord((1, 2), 4, "ef" * 32)),
        "intent": _written(Intent(unit_record(), moves)),
        "failed": msgspec.json.encode(failure) + b"\n",
    }


def plan() -> bytes:
    """A plan.jsonl of two units of lines."""
    header = {
        "cliprt_plan": 1,
        "source": {"kind": "jsonl", "address": "/items.jsonl"},
        "kind": "jsonl",
        "form": "objects",
        "wanted": [["image", "text"], None, None, None],
        "shard_size": 2,
        "base": "/",
        "files": 1,
        "empty": {},
        "listing_bytes": None,
        "listing_sha256": None,
    }
    units = [
        {"number": number, "address": "/items.jsonl", "stamp": "size=9", "items": 2}
        | {"start": 4 * number, "end": 4 * number + 4, "line": 1 + 2 * number}
        for number in range(2)
    ]
    return b"".join(json.dumps(record).encode() + b"\n" for record in (header, *units))


def tuned() -> bytes:
    """What `cliprt tune` writes."""
    return _written(
        Tuned(
            schema=1,
            model="example/model",
            space=SPACE,
            machine="Example CPU, 2 cores",
            goal="image, 16 callers of 1, p99 within 50 ms",
            why="Best.",
            precision="fp32",
            policy=Policy(max_batch_size=4, max_queue_delay_us=2_000),
            settings={"image": CpuSettings(workers=1, threads=2, batch=4)},
            evidence=("fp32: 10 items/s",),
        )
    )


def bench_card() -> bytes:
    """What `cliprt bench` writes."""
    return _written(bench_card_of())


def request() -> bytes:
    """The body of a request to the HTTP front."""
    body: dict[str, Any] = {
        "model": "clip",
        "input": ["a cat", "data:image/png;base64,iVBORw0KGgo="],
        "encoding_format": "base64",
        "dimensions": DIM,
        "user": "somebody",
    }
    return json.dumps(body).encode()


def spiece() -> bytes:
    """A SentencePiece model as SigLIP's."""
    return gzip.decompress((DATA / "siglip_spiece.model.gz").read_bytes())


def card_bytes() -> bytes:
    """The card as it lies in a bundle."""
    return encode_card(card())


def _entry(content: bytes) -> FileEntry:
    return FileEntry(sha256=hashlib.sha256(content).hexdigest(), size=len(content))


def _written(value: msgspec.Struct) -> bytes:
    return msgspec.json.format(msgspec.json.encode(value), indent=1)
