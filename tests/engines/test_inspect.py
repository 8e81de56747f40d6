"""No product falls back to float32 unseen: every kind of tower in every precision, and frauds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
from engine_kit import build_text, with_files
from towers import TOWERS, drawn_inputs, drawn_tensors

from cliprt import Bundle, EngineError, FileEntry
from cliprt_engines import BuilderOptions, Profile, Span
from cliprt_engines._flavor import Toolkit
from cliprt_engines._inspect import (
    Inspection,
    check_inspection,
    check_interface,
    inspect_plan,
)
from cliprt_engines._manifest import Recipe
from cliprt_engines._network import BuiltPlan, build_plan
from cliprt_export._calibration import Calibration
from cliprt_export._precision import QUANTISED, Precision, PrecisionName
from cliprt_export._quantise import choose
from cliprt_export._specs import TextTower
from cliprt_export._towers import write_tower


def recipe_of(kind: str, precision: str, toolkit: Toolkit) -> Recipe:
    tower = TOWERS[kind]
    text = isinstance(tower, TextTower)
    changing = isinstance(tower, TextTower) and not tower.fixed_length
    return Recipe(
        cliprt="test",
        space="test",
        tower="text" if text else "image",
        precision=precision,
        files={"tower.onnx": FileEntry(sha256="0" * 64, size=1)},
        profiles=(Profile(batch=Span(1, 2, 4), length=Span(2, 8, 12) if changing else None),),
        flavor=toolkit.flavor,
        version=toolkit.version,
        architectures=("sm89",),
        built_on=None,
        options=BuilderOptions(),
    )


def write(folder: Path, kind: str, name: PrecisionName, peaks: dict[str, float]) -> Path:
    tower, tensors = TOWERS[kind], drawn_tensors(TOWERS[kind])
    precision = Precision(name, peaks=peaks)
    if name in QUANTISED:
        calibration = Calibration(tower)
        calibration.run(tensors, drawn_inputs(tower, 12, seed=5))
        chosen = choose(calibration, tensors, name)
        precision = Precision(name, peaks=peaks, ranges=chosen.ranges())
        tensors = chosen.smoothed(tensors)
    path = folder / f"tower.{name}.onnx"
    write_tower(path, tower, tensors, "test", precision)
    return path


def built(
    folder: Path,
    kind: str,
    name: PrecisionName,
    rtx: Toolkit,
    peaks: dict[str, float] | None = None,
) -> tuple[BuiltPlan, Inspection]:
    path = write(folder, kind, name, peaks or {})
    plan = build_plan(rtx, path, recipe_of(kind, name, rtx), lambda phase: None)
    return plan, inspect_plan(rtx, plan.plan, plan.demanded, PORTS, gpu=False)


PORTS = ("pixels", "tokens", "embedding")
NAMES: tuple[PrecisionName, ...] = ("fp32", "fp16", "int8", "fp8")
NARROW = {"fp16": "float16", "int8": "int8", "fp8": "float8"}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", TOWERS)
def test_every_kind_is_built_in_every_precision(
    kind: str, name: PrecisionName, tmp_path: Path, rtx: Toolkit
) -> None:
    plan, inspection = built(tmp_path, kind, name, rtx)
    check_inspection(inspection, tower="tower", precision=name, islands=[])
    check_interface(inspection, recipe_of(kind, name, rtx), plan.input, plan.output)
    assert inspection.source == "plan"
    assert inspection.architectures == ("sm89",)
    assert inspection.built.keys() == inspection.demanded.keys()
    image = not isinstance(TOWERS[kind], TextTower)
    assert plan.input.name == ("pixels" if image else "tokens")
    assert (plan.output.name, plan.output.dtype) == ("embedding", "float32")
    assert plan.output.shape == (TOWERS[kind].dim,)
    if name == "fp32":
        assert set(inspection.built.values()) == {"float32"}
        return
    # All but the head of a ResNet, and the projection where there is one.
    wide = [product for product, dtype in inspection.built.items() if dtype == "float32"]
    assert all(product.startswith(("projection", "head.attention")) for product in wide)
    assert NARROW[name] in inspection.demanded.values()
    assert "float32" not in {now for _, now in inspection.widened().values()}


def test_a_float32_graph_that_calls_itself_fp16_is_found(
    half_bundle: Bundle, tmp_path: Path
) -> None:
    fraud = {"text.fp16.onnx": (half_bundle.path / "text.fp32.onnx").read_bytes()}
    bundle = with_files(half_bundle, tmp_path / "bundle", **fraud)
    with pytest.raises(EngineError, match=r"promises fp16, but .* of its 20 products take float32"):
        build_text(bundle, tmp_path / "engines")
    assert not list((tmp_path / "engines").glob("text*"))


def test_an_fp16_graph_that_calls_itself_int8_is_found(rtx: Toolkit, tmp_path: Path) -> None:
    _, inspection = built(tmp_path, "text, end", "fp16", rtx)
    with pytest.raises(EngineError, match="none of its 20 products takes int8"):
        check_inspection(inspection, tower="tower", precision="int8", islands=[])


def test_a_single_product_in_float32_is_found_unless_it_is_an_island(
    rtx: Toolkit, tmp_path: Path
) -> None:
    """An island that the bundle records is one; the same graph without the record is a fraud."""
    peaks = {"blocks.1.mlp.hidden": 1e5}
    _, inspection = built(tmp_path, "text, end", "fp16", rtx, peaks)
    islands = Precision("fp16", peaks=peaks).islands()
    assert islands == ["blocks.1.mlp"]
    check_inspection(inspection, tower="tower", precision="fp16", islands=islands)
    with pytest.raises(EngineError, match=r"but blocks\.1\.mlp\.down\.product, blocks\.1\.mlp\.up"):
        check_inspection(inspection, tower="tower", precision="fp16", islands=[])


def test_a_residual_stream_in_float32_is_an_island(rtx: Toolkit, tmp_path: Path) -> None:
    peaks = {"blocks.1.add1": 1e5}
    for kind in ("vit", "resnet", "text, end"):
        _, inspection = built(tmp_path, kind, "fp16", rtx, peaks)
        islands = Precision("fp16", peaks=peaks).islands()
        check_inspection(inspection, tower="tower", precision="fp16", islands=islands)


def changed(inspection: Inspection, **products: Any) -> Inspection:
    return Inspection(
        inspection.source, inspection.demanded, {**inspection.built, **products}, None
    )


def test_what_the_builder_widens_to_float32_is_found(rtx: Toolkit, tmp_path: Path) -> None:
    _, inspection = built(tmp_path, "text, end", "int8", rtx)
    fallen = changed(inspection, **{"blocks.0.mlp.up.product": "float32"})
    with pytest.raises(EngineError, match=r"computes blocks\.0\.mlp\.up\.product of tower in floa"):
        check_inspection(fallen, tower="tower", precision="int8", islands=[])
    # Halves in place of bytes are slower, not wrong: they are counted.
    wider = changed(inspection, **{"blocks.0.mlp.up.product": "float16"})
    check_inspection(wider, tower="tower", precision="int8", islands=[])
    assert wider.widened()["blocks.0.mlp.up.product"] == ("int8", "float16")
    assert wider.widened_counts()["int8 -> float16"] >= 1


def test_silence_is_not_consent(rtx: Toolkit, tmp_path: Path) -> None:
    plan, inspection = built(tmp_path, "text, end", "fp16", rtx)
    names = dict(inspection.built)
    del names["blocks.0.mlp.up.product"]
    quiet = Inspection("plan", inspection.demanded, names, None)
    with pytest.raises(EngineError, match=r"does not say what blocks\.0\.mlp\.up\.product compute"):
        check_inspection(quiet, tower="tower", precision="fp16", islands=[])
    # A plan whose text cannot be read at all is not called inspected.
    garbled = plan.plan.replace(b"descriptors {", b"something    ")
    other = inspect_plan(rtx, garbled, plan.demanded, PORTS, gpu=False)
    assert other.source == "network"


FOR_ONE = {
    "image": (Profile(batch=Span(1, 1, 1)), Profile(batch=Span(1, 4, 8))),
    "text": (
        Profile(batch=Span(1, 1, 1), length=Span(12, 12, 12)),
        Profile(batch=Span(1, 4, 8), length=Span(2, 12, 12)),
    ),
}


@pytest.mark.parametrize("wide", [False, True], ids=["alone", "beside a wide one"])
@pytest.mark.parametrize("name", ["fp16", "int8"])
@pytest.mark.parametrize("kind", ["vit", "text, end"])
def test_a_profile_of_one_item_says_what_it_computes_in(
    kind: str, name: PrecisionName, wide: bool, tmp_path: Path, rtx: Toolkit
) -> None:
    """There a product is a matrix times a vector, which has kernels of another name."""
    recipe = recipe_of(kind, name, rtx)
    one, more = FOR_ONE[recipe.tower]
    recipe = msgspec.structs.replace(recipe, profiles=(more, one) if wide else (one,))
    path = write(tmp_path, kind, name, {})
    plan = build_plan(rtx, path, recipe, lambda phase: None)
    assert b"MulSum" in plan.plan
    inspection = inspect_plan(rtx, plan.plan, plan.demanded, PORTS, gpu=False)
    check_interface(inspection, recipe, plan.input, plan.output)
    check_inspection(inspection, tower="tower", precision=name, islands=[])
    wide_ones = [product for product, dtype in inspection.built.items() if dtype == "float32"]
    assert wide_ones == ["projection"]


def test_a_fallback_for_one_item_is_found(tmp_path: Path, rtx: Toolkit) -> None:
    """A graph with an island: what a batch of one computes there is not taken for narrow."""
    path = write(tmp_path, "text, end", "fp16", {"blocks.1.mlp.hidden": 1e5})
    recipe = msgspec.structs.replace(
        recipe_of("text, end", "fp16", rtx), profiles=FOR_ONE["text"][:1]
    )
    plan = build_plan(rtx, path, recipe, lambda phase: None)
    inspection = inspect_plan(rtx, plan.plan, plan.demanded, PORTS, gpu=False)
    assert inspection.built["blocks.1.mlp.up.product"] == "float32"
    assert inspection.built["blocks.0.mlp.up.product"] == "float16"


def test_no_profile_speaks_for_another(rtx: Toolkit, tmp_path: Path) -> None:
    one, more = FOR_ONE["text"]
    recipe = msgspec.structs.replace(recipe_of("text, end", "fp16", rtx), profiles=(more, one))
    path = write(tmp_path, "text, end", "fp16", {})
    plan = build_plan(rtx, path, recipe, lambda phase: None)
    # The second profile's matrix times vector under a name that nobody knows.
    assert plan.plan.count(b"MulSum") > 0
    quiet = plan.plan.replace(b"MulSum", b"Secret")
    inspection = inspect_plan(rtx, quiet, plan.demanded, PORTS, gpu=False)
    with pytest.raises(EngineError, match=r"does not say what .* compute in, at least for some of"):
        check_inspection(inspection, tower="tower", precision="fp16", islands=[])


def test_the_record_of_islands_is_read_from_the_bundle(half_bundle: Bundle, tmp_path: Path) -> None:
    files = {"precisions.json": msgspec.json.encode({"image": {}})}
    bundle = with_files(half_bundle, tmp_path / "bundle", **files)
    with pytest.raises(EngineError, match=r"precisions\.json of .* says nothing of text fp16"):
        build_text(bundle, tmp_path / "engines")


@pytest.mark.parametrize(
    ("spans", "profiles"),
    [
        (((1, 2, 4), (2, 8, 12)), (((1, 4), (2, 12)),)),
        (((2, 2, 2), (2, 8, 12)), (((2, 12),),)),
        (((1, 2, 4), (8, 8, 8)), (((1, 4),),)),
    ],
)
def test_the_built_plan_has_the_profiles_that_were_asked_for(
    spans: tuple[tuple[int, int, int], ...], profiles: Any, rtx: Toolkit, tmp_path: Path
) -> None:
    path = write(tmp_path, "text, end", "fp16", {})
    batch, length = (Span(*span) for span in spans)
    recipe = msgspec.structs.replace(
        recipe_of("text, end", "fp16", rtx), profiles=(Profile(batch=batch, length=length),)
    )
    plan = build_plan(rtx, path, recipe, lambda phase: None)
    inspection = inspect_plan(rtx, plan.plan, plan.demanded, PORTS, gpu=False)
    assert inspection.profiles == profiles
    check_interface(inspection, recipe, plan.input, plan.output)
    other = msgspec.structs.replace(recipe, profiles=(Profile(batch=Span(1, 9, 9), length=length),))
    with pytest.raises(EngineError, match="has other profiles than asked for"):
        check_interface(inspection, other, plan.input, plan.output)


def test_another_interface_than_asked_for_is_found(rtx: Toolkit, tmp_path: Path) -> None:
    recipe = recipe_of("text, end", "fp16", rtx)
    plan, inspection = built(tmp_path, "text, end", "fp16", rtx)
    wrong = msgspec.structs.replace(plan.input, dtype="int64")
    with pytest.raises(EngineError, match=r"other types than asked for: .*int32.* instead of .*64"):
        check_interface(inspection, recipe, wrong, plan.output)
    other = msgspec.structs.replace(recipe, architectures=("sm86",))
    with pytest.raises(EngineError, match=r"other architectures than asked for: \('sm89',\) inst"):
        check_interface(inspection, other, plan.input, plan.output)
