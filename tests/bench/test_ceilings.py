"""Ceilings are what real work reaches, in the units that they say."""

from __future__ import annotations

import threading
from io import BytesIO

import bench_cards as cards
import msgspec
import pytest

import pictures
from cliprt import Bundle, InvalidInput
from cliprt._card import ImageSpec
from cliprt._errors import MissingExtra
from cliprt_bench import _ceilings, _products
from cliprt_bench._bench_card import Ceiling
from cliprt_bench._ceilings import (
    Rate,
    as_ceilings,
    calls_a_second,
    decode,
    loopback,
    matmul,
    measure,
    memory,
)
from cliprt_bench._figures import figure
from cliprt_bench._operations import Operations

SHORT = {"repeats": 2, "seconds": 0.05}


def jpeg(width: int, height: int) -> bytes:
    file = BytesIO()
    pictures.rgb(width, height).save(file, "JPEG")
    return file.getvalue()


@pytest.fixture
def spec(small_bundle: Bundle) -> ImageSpec:
    assert small_bundle.card.image is not None
    return small_bundle.card.image


@pytest.fixture
def small_products(monkeypatch: pytest.MonkeyPatch) -> None:
    """Products that take no time; everything else is as it is."""
    shapes = ((50, 64, 192), (50, 192, 64))
    monkeypatch.setattr(_products, "SHAPES", shapes)
    monkeypatch.setattr(_products, "OPERATIONS", sum(2 * a * b * c for a, b, c in shapes))


def well_measured(rate: Rate | None, name: str, unit: str) -> bool:
    assert rate is not None
    assert (rate.name, rate.unit) == (name, unit)
    assert len(rate.figure.repeats) == SHORT["repeats"]
    assert rate.best == max(rate.figure.repeats)
    return min(rate.figure.repeats) > 0 and bool(rate.by)


def test_operations_of_the_products() -> None:
    # 4 products of one block: 3 + 1 squares of the width, and twice into a hidden layer.
    assert _products.OPERATIONS == 2 * 800 * (4 * 768**2 + 2 * 768 * 3072)


@pytest.mark.usefixtures("small_products")
@pytest.mark.parametrize(("kind", "unit"), [("fp32", "GFLOP/s"), ("int8", "GOP/s")])
def test_products(kind: str, unit: str) -> None:
    assert well_measured(matmul(kind, **SHORT), f"matmul_{kind}", unit)


@pytest.mark.usefixtures("small_products")
@pytest.mark.skipif(not _products.computes_bf16(), reason="needs instructions for bfloat16")
def test_products_in_bfloat16() -> None:
    assert well_measured(matmul("bf16", **SHORT), "matmul_bf16", "GFLOP/s")


@pytest.mark.usefixtures("small_products")
def test_without_openvino_there_is_no_bfloat16_and_onnx_runtime_is_the_ceiling(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def require(module: str, *, extra: str) -> object:
        if module == "openvino":
            raise MissingExtra(f"no {module}", name=module)
        return original(module, extra=extra)

    original = _products.require
    monkeypatch.setattr(_products, "require", require)
    assert matmul("bf16", **SHORT) is None
    rate = matmul("int8", **SHORT)
    assert rate is not None
    assert rate.by.startswith("ONNX Runtime")


@pytest.mark.usefixtures("small_products")
def test_openvino_computes_the_same_products_as_onnx_runtime() -> None:
    """A library that skipped work would be a ceiling that nothing reaches."""
    import numpy as np
    import onnxruntime
    import openvino

    shape = (50, 64, 192)
    values = _products._pixels(shape)
    quick = openvino.Core().compile_model(
        openvino.Core().read_model(BytesIO(_products._quantised_model(shape))), "CPU"
    )(values)[0]
    session = onnxruntime.InferenceSession(
        _products._quantised_model(shape), providers=["CPUExecutionProvider"]
    )
    other = session.run(None, {"x": values})[0]
    assert len(np.unique(quick)) > 5
    assert np.abs(quick.astype(int) - other.astype(int)).max() <= 1


def test_decoding(spec: ImageSpec) -> None:
    files = [jpeg(80, 60), jpeg(60, 90), jpeg(40, 40)]
    assert well_measured(decode(files, spec, **SHORT), "decode", "pictures/s")
    alone = decode(files, spec, resize=False, **SHORT)
    assert well_measured(alone, "decode_only", "pictures/s")


def test_a_file_that_is_no_picture_is_refused(spec: ImageSpec) -> None:
    with pytest.raises(InvalidInput, match="not an image"):
        decode([b"no picture"], spec, resize=False, **SHORT)


def test_no_pictures_are_refused(spec: ImageSpec) -> None:
    with pytest.raises(ValueError, match="no pictures"):
        decode([], spec)


def test_loopback_counts_bytes_and_round_trips() -> None:
    carried, trips = loopback(200_000, 2_048, **SHORT)
    assert well_measured(carried, "loopback", "MB/s")
    assert well_measured(trips, "round_trips", "round trips/s")
    assert carried.by == "plain TCP between two processes, 200000 bytes to 2048"
    assert trips.by == "gRPC between two processes of Python, 200000 bytes to 2048"


def test_requests_larger_than_grpcs_own_limit_pass() -> None:
    assert loopback(5 * 2**20, 5 * 2**20, **SHORT)[0].figure.value > 0


def test_copies(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_ceilings, "_COPY_BYTES", 2**20)
    assert well_measured(memory(**SHORT), "memory", "GB/s")


@pytest.mark.usefixtures("small_products")
def test_all_of_them(spec: ImageSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_ceilings, "_COPY_BYTES", 2**20)
    rates = measure([jpeg(40, 40)], spec, kinds=("fp32", "int8"), request=(1000, 100), **SHORT)
    assert [rate.name for rate in rates] == [
        "matmul_fp32", "matmul_int8", "decode", "decode_only", "loopback", "round_trips", "memory",
    ]  # fmt: skip


def test_only_what_was_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_ceilings, "_COPY_BYTES", 2**20)
    assert [rate.name for rate in measure(kinds=(), **SHORT)] == ["memory"]


def test_the_library_with_the_best_repeat_counts_and_they_take_turns(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The better one was held up twice."""
    seen = iter([10.0, 2.0, 11.0, 20.0, 12.0, 3.0])
    monkeypatch.setattr(_ceilings, "calls_a_second", lambda works, seconds: next(seen))
    libraries = {"worse": [lambda: None], "better": [lambda: None]}
    rate = _ceilings._best("any", "MB/s", libraries, 2.0, 3, 0.05)
    assert (rate.by, rate.best, rate.figure.repeats) == ("better", 40.0, (4.0, 40.0, 6.0))


def test_all_work_at_the_same_time() -> None:
    both = threading.Barrier(2, timeout=30)
    # Neither call returns unless the other one is under way as well.
    assert calls_a_second([both.wait, both.wait], 0.0) > 0


def test_what_fails_is_told_and_nobody_waits_for_it() -> None:
    def broken() -> None:
        raise KeyError("broken")

    with pytest.raises(KeyError, match="broken"):
        calls_a_second([lambda: None, broken, lambda: None], 0.0)


RATES = [
    Rate("matmul_fp32", figure([90.0, 100.0]), "GFLOP/s", "one"),
    Rate("matmul_int8", figure([400.0]), "GOP/s", "other"),
    Rate("decode", figure([150.0, 160.0]), "pictures/s", "one"),
    Rate("loopback", figure([300.0]), "MB/s", "one"),
    Rate("round_trips", figure([900.0]), "round trips/s", "one"),
    Rate("memory", figure([20.0]), "GB/s", "one"),
]


def test_rates_come_to_items_of_the_towers_that_they_bound() -> None:
    operations = {
        ("image", None): Operations(floating=10**8, int8=8 * 10**9),
        ("text", None): Operations(floating=2 * 10**9, int8=0),
    }
    found = as_ceilings(RATES, operations=operations, item_bytes={("image", None): 150_000})
    assert not any(ceiling.text_items_s for ceiling in found)
    assert {ceiling.name: ceiling.items_s for ceiling in found} == {
        "matmul_fp32": {"text": 50.0},
        "matmul_int8": {"image": 50.0},
        "decode": {"image": 160.0},
        "loopback": {"image": 2000.0},
        "round_trips": {},
        "memory": {},
    }


def test_texts_of_several_lengths_have_a_ceiling_each() -> None:
    operations = {
        ("text", 8): Operations(floating=10**9, int8=0),
        ("text", 77): Operations(floating=10**10, int8=0),
    }
    item_bytes = {("text", 8): 300.0, ("text", 77): 600.0}
    fp32, wire = as_ceilings([RATES[0], RATES[3]], operations=operations, item_bytes=item_bytes)
    assert fp32.items_s == wire.items_s == {}
    assert fp32.text_items_s == {8: 100.0, 77: 10.0}
    assert wire.text_items_s == {8: 1e6, 77: 5e5}
    texts = {length: cards.workload("text", text_length=length) for length in (8, 77, 16, None)}
    assert [fp32.of(texts[length]) for length in (8, 77, 16, None)] == [100.0, 10.0, None, None]
    assert fp32.of(cards.workload("image")) is None
    assert msgspec.json.decode(msgspec.json.encode(fp32), type=Ceiling) == fp32


def test_texts_of_one_length_have_the_tower_s_ceiling() -> None:
    (fp32,) = as_ceilings(RATES[:1], operations={("text", 8): Operations(10**9, 0)})
    assert (fp32.items_s, fp32.text_items_s) == ({"text": 100.0}, {8: 100.0})
    assert fp32.of(cards.workload("text", text_length=8)) == 100.0


def test_rates_alone() -> None:
    found = as_ceilings(RATES[:2])
    assert [(each.name, each.unit, each.figure.value) for each in found] == [
        ("matmul_fp32", "GFLOP/s", 95.0),
        ("matmul_int8", "GOP/s", 400.0),
    ]
    assert all(not each.items_s for each in found)
