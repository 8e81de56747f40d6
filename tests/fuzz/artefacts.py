"""Targets: what a deployment is made of. Cards, bundles, graphs, engines, policies."""

from __future__ import annotations

import functools
import re
import sys
from pathlib import Path

import numpy as np
from fuzz import samples
from fuzz.harness import check_words, refusing, scratch, target, written
from fuzz.mutation import in_json, in_protobuf, in_zip

from cliprt import BundleError, Card, InvalidInput, Limits, TextSpec, open_bundle
from cliprt._bundle import Bundle
from cliprt._card import decode_card, encode_card
from cliprt._errors import EngineError, EngineMismatch
from cliprt._external import external_files
from cliprt._images import preprocess
from cliprt._known import PRECISIONS, Known, bar_of
from cliprt._texts import TextTokenizer, fill_up
from cliprt_bench._bench_card import BenchCard, BenchCardError, read_bench_card
from cliprt_engines._device import Device
from cliprt_engines._flavor import FLAVORS, Toolkit
from cliprt_engines._manifest import check_engine, read_engine, read_plan
from cliprt_export._certificate import read_certificate
from cliprt_export._engine_certificate import read_engine_certificate
from cliprt_triton._tuned import read_tuned
from pictures import rgb

# What a card may make a client take for one picture or text.
_MOST_BYTES = 64 * 2**20


@target(in_json, most=8192)
def card(data: bytes) -> None:
    """Any bytes are a card that comes back as it was written and can be worked with, or refused."""
    with refusing(BundleError) as read:
        found = decode_card(data, origin="the server")
    if not read.accepted:
        return
    assert decode_card(encode_card(found), origin="the server") == found
    _check_usable(found)


def _check_usable(found: Card) -> None:
    if found.image is not None:
        assert found.image.height * found.image.width * 3 <= _MOST_BYTES
        with refusing(InvalidInput) as read:
            pixels = preprocess(rgb(50, 40), found.image, Limits())
        assert read.accepted or found.image.resize == "none"
        if read.accepted:
            assert pixels.shape == (found.image.height, found.image.width, 3)
    if found.text is not None:
        tokens = fill_up([[found.text.end_id], [0, found.text.end_id]], found.text, ())
        assert tokens.nbytes <= _MOST_BYTES
        assert tokens.max() < found.text.vocabulary
    if found.logit_scale is not None:
        scaled = np.float32(found.logit_scale) * np.float32(-1) + np.float32(found.logit_bias or 0)
        assert np.isfinite(scaled)


@functools.cache
def _bundle_folder() -> Path:
    folder = scratch() / "bundle"
    for name, content in samples.bundle_files().items():
        written(f"bundle/{name}", content)
    # What no card may reach.
    written("outside", b"secret")
    (folder / "link").symlink_to(scratch() / "outside")
    return folder


@target(in_json, most=8192)
def bundle(data: bytes) -> None:
    """With any card in it, a bundle opens with nothing but its own files, or is refused."""
    folder = _bundle_folder()
    (folder / "card.json").write_bytes(data)
    with refusing(BundleError) as read:
        found = open_bundle(folder)
    if not read.accepted:
        return
    for name in found.card.files:
        assert found.file(name).parent == folder
        assert found.file(name).is_file()
        if name.endswith(".onnx"):
            assert set(found.weights_of(name)) <= set(found.card.files)


@target(in_protobuf, most=8192)
def graph(data: bytes) -> None:
    """Any bytes keep their weights in their own folder, or are refused."""
    folder = _bundle_folder()
    path = folder / "graph.onnx"
    path.write_bytes(data)
    with refusing(BundleError) as read:
        names = external_files(path)
    if read.accepted:
        for name in names:
            assert (folder / name).resolve().parent == folder.resolve()
        assert _by_onnx(data) <= names


def _by_onnx(data: bytes) -> set[str]:
    """Names that the onnx package would open."""
    import onnx
    from onnx.external_data_helper import _get_all_tensors, uses_external_data

    model = onnx.ModelProto()
    try:
        model.ParseFromString(data)
    except Exception:  # noqa: BLE001 - protobuf's own
        return set()
    tensors = [tensor for tensor in _get_all_tensors(model) if uses_external_data(tensor)]
    entries = [[e.value for e in t.external_data if e.key == "location"][-1:] for t in tensors]
    return {name for found in entries for name in found}


@target(in_zip, most=16_384)
def golden(data: bytes) -> None:
    """Any bytes are known answers of one shape and type, or refused."""
    for tower in ("image", "text"):
        with refusing(BundleError) as read:
            known = Known.read(data, tower, origin="the server")
        if read.accepted:
            assert len(known.inputs) == len(known.expected) >= 1
            assert known.expected.dtype == np.float32
            assert known.inputs.dtype == (np.uint8 if tower == "image" else np.int32)


@target(in_json, most=16_384)
def tokenizer(data: bytes) -> None:
    """Any tokenizer.json works, or is refused at the latest when it is used."""
    content = data.decode("utf-8", "replace")
    for spec in (samples.TEXT, _SIGLIP):
        with refusing(BundleError):
            loaded = TextTokenizer(content, spec, Limits())
            texts = ["ab z", "", "<s> a", "é\0 </s>" * 9]
            ids = loaded(texts)
            assert len(ids) == len(texts)
            assert all(len(one) <= spec.context_length for one in ids)


_SIGLIP = TextSpec(
    context_length=8,
    fixed_length=True,
    pooling="last",
    cleaning="siglip",
    end_id=1,
    pad_id=1,
    vocabulary=1500,
)


@target(in_json, most=8192)
def certificate(data: bytes) -> None:
    """Any bytes are a certificate of a bundle or an engine, or refused by each of its readers."""
    folder = scratch() / "certified"
    written("certified/certificate.json", data)
    with refusing(BundleError):
        read_certificate(Bundle(folder, samples.card()))
    for precision in PRECISIONS:
        with refusing(BundleError) as read:
            bar = bar_of(data, "text", precision, origin="the server")
        # Whatever it says, no answer passes that is further off than the precision allows.
        if read.accepted:
            assert bar.min_cosine <= 1
            assert bar.max_batch_effect > 0
    written("certified/manifest.json", samples.engine_manifest())
    with refusing(EngineError):
        read_engine_certificate(read_engine(folder))


@target(in_json, most=8192)
def engine(data: bytes) -> None:
    """Any manifest vouches for an engine or not; one for another machine is refused in words."""
    folder = scratch() / "engine"
    written("engine/manifest.json", data)
    written("engine/engine.plan", samples.PLAN)
    with refusing(EngineError) as read:
        found = read_engine(folder)
    if not read.accepted:
        return

    recipe = found.manifest.recipe
    assert re.fullmatch("[0-9a-f]{64}", recipe.key)
    assert Path(recipe.name).name == recipe.name
    check_words(found.rebuild)
    with refusing(EngineError):
        read_plan(found)
    for flavor in FLAVORS:
        for device in (None, Device("Example GPU", "sm89", 2**34, "13.0", "580.95.05")):
            toolkit = Toolkit(flavor, "11.0.0", sys)
            with refusing(EngineMismatch, EngineError):
                opened = Bundle(folder, samples.card())
                check_engine(found, bundle=opened, toolkit=toolkit, device=device)
            with refusing(EngineMismatch):
                check_engine(found, bundle=None, toolkit=toolkit, device=device)


@target(in_json, most=8192)
def tuned(data: bytes) -> None:
    """Any bytes are a policy that comes back as it was written, or refused."""
    path = written("policy.json", data)
    with refusing(InvalidInput) as read:
        found = read_tuned(path)
    if read.accepted:
        found.write(path)
        assert read_tuned(path) == found


@target(in_json, most=16_384)
def bench_card(data: bytes) -> None:
    """Any bytes are a measurement that comes back as it was written, or refused."""
    path = written("bench.json", data)
    with refusing(BenchCardError) as read:
        found: BenchCard = read_bench_card(path)
    if read.accepted:
        found.write(path)
        assert read_bench_card(path) == found
