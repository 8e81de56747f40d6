"""Engines are measured; every way in which one goes wrong is found by its own check.

The engines here are ONNX towers in the engine's place, some of them broken on purpose: checks run
against any tower. On a GPU test_on_gpu.py runs the same command on real ones.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from broken_engines import (
    Floats,
    Lenient,
    Sound,
    batch_dependent,
    broken,
    constant,
    greatest_only,
    last_row_lost,
    normal,
    not_numbers,
    overflowing,
    second_piece,
    seeing_padding,
    spilling,
    stale,
    stale_at,
    too_long,
)
from click.testing import CliRunner
from engine_folders import PROFILES, write_engine
from numpy.typing import NDArray

from cliprt import Bundle, DeploymentError, EngineError, EngineMismatch
from cliprt_engines import Engine, Profile, Span, find_engines
from cliprt_engines._manifest import read_plan
from cliprt_export import verify_engines
from cliprt_export._engine_certificate import read_engine_certificate
from cliprt_export._engine_shapes import alternations_of
from cliprt_export._engine_verify import holds_engines
from cliprt_export._verify_cli import verify


@pytest.fixture(scope="module")
def engines(small_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("verify") / "engines"
    for tower in PROFILES:
        write_engine(folder, small_bundle, tower)
    return folder


def missed(engines: Path, bundle: Bundle, kind: type[Sound]) -> dict[str, list[str]]:
    """What is missed by each tower."""
    result = verify_engines(engines, bundle=bundle.path, samples=8, load=kind)
    found = {}
    for row in result.rows:
        assert row.certificate is not None
        found[row.certificate.tower] = row.certificate.missed
    return found


def test_a_sound_engine_passes_every_check(engines: Path, small_bundle: Bundle) -> None:
    result = verify_engines(engines, bundle=small_bundle.path, samples=8, load=Sound)
    assert result.passed
    image, text = (row.certificate for row in result.rows)
    assert image is not None
    assert text is not None
    assert [check.name for check in image.checks] == [
        "answers",
        "alternating inputs",
        "profile edges",
        "single against full batch",
        "extreme neighbours",
    ]
    assert [check.name for check in text.checks[5:]] == ["padding", "foreign token ids"]
    assert set(image.against) == {"known answers", "fp32 tower"}
    for certificate in (image, text):
        assert certificate.missed == []
        assert all((check.worst_cosine or 0) > 0.99999 for check in certificate.checks)
        # Corners of two profiles, and one beyond.
        edges = certificate.checks[2]
        assert edges.runs >= 5


def test_the_certificate_lies_beside_the_engine(engines: Path, small_bundle: Bundle) -> None:
    verify_engines(engines, bundle=small_bundle.path, samples=8, load=Sound)
    for engine in find_engines(engines):
        certificate = read_engine_certificate(engine)
        assert certificate is not None
        assert certificate.engine == engine.path.name
        assert certificate.plan_sha256 == engine.manifest.plan.sha256
        assert certificate.measured_on.items == 8


def test_a_certificate_of_another_plan_does_not_count(small_bundle: Bundle, tmp_path: Path) -> None:
    folder = write_engine(tmp_path / "engines", small_bundle, "image")
    verify_engines(folder, bundle=small_bundle.path, samples=8, load=Sound)
    (engine,) = find_engines(folder)
    content = json.loads((folder / "certificate.json").read_text())
    content["plan_sha256"] = "0" * 64
    (folder / "certificate.json").write_text(json.dumps(content))
    assert read_engine_certificate(engine) is None


def test_each_profile_takes_turns_with_another() -> None:
    image = alternations_of(PROFILES["image"])
    assert [[str(shape) for shape in group] for group in image] == [
        ["a batch of 6", "a batch of 2"],
        ["a batch of 9", "a batch of 2"],
    ]
    only = alternations_of((Profile(batch=Span(4, 4, 4)),))
    assert [[str(shape) for shape in group] for group in only] == [
        ["a batch of 4"],
        ["a batch of 8", "a batch of 4"],
    ]


def test_an_inexact_answer_is_not_called_stale(engines: Path, small_bundle: Bundle) -> None:
    noise = np.random.default_rng(5)

    def inexact(tower: Sound, batch: NDArray[Any], right: Floats) -> Floats:
        return normal(right + noise.normal(size=right.shape) * 0.02)

    for texts in missed(engines, small_bundle, broken(inexact)).values():
        assert not any("(stale)" in text for text in texts)


@pytest.mark.parametrize(
    ("kind", "towers", "check", "message"),
    [
        (broken(stale), ("image", "text"), "alternating inputs", "input before (stale)"),
        (
            broken(stale_at(greatest_only)),
            ("image", "text"),
            "alternating inputs",
            "input before (stale)",
        ),
        (
            broken(stale_at(second_piece)),
            ("image", "text"),
            "alternating inputs",
            "input before (stale)",
        ),
        (broken(constant), ("image", "text"), "answers", "differ and get the same answer"),
        (broken(not_numbers), ("image", "text"), "answers", "1 of 8 answers are not numbers"),
        (broken(too_long), ("image", "text"), "answers", "not of length 1 but of 2 to 2"),
        (
            broken(batch_dependent),
            ("image", "text"),
            "single against full batch",
            "the same item gets answers with the cosine",
        ),
        (
            broken(spilling),
            ("image", "text"),
            "extreme neighbours",
            "an item's answer changes: the cosine is",
        ),
        (
            broken(overflowing),
            ("image", "text"),
            "extreme neighbours",
            "among extreme inputs",
        ),
        (broken(last_row_lost), ("image", "text"), "profile edges", "1 answers are wrong"),
        (broken(seeing_padding), ("text",), "padding", "a text's answer changes"),
        (Lenient, ("text",), "foreign token ids", "the token id -1, which the tower does not have"),
    ],
)
def test_what_is_wrong_is_found_by_its_own_check(
    kind: type[Sound],
    towers: tuple[str, ...],
    check: str,
    message: str,
    engines: Path,
    small_bundle: Bundle,
) -> None:
    found = missed(engines, small_bundle, kind)
    for tower in towers:
        assert any(text.startswith(f"{check}: ") and message in text for text in found[tower])
    for tower in found.keys() - set(towers):
        assert found[tower] == []


def test_an_engine_that_cannot_run_here_does_not_hide_the_others(
    engines: Path, small_bundle: Bundle
) -> None:
    def load(engine: Engine, bundle: Bundle) -> Sound:
        if engine.manifest.recipe.tower == "image":
            raise EngineMismatch("its architecture is sm80, here it is sm90")
        return Sound(engine, bundle)

    result = verify_engines(engines, bundle=small_bundle.path, samples=8, load=load)
    image, text = result.rows
    assert (image.certificate, image.refused) == (None, "its architecture is sm80, here it is sm90")
    assert text.certificate is not None
    assert result.passed


def test_a_damaged_engine_does_not_pass(small_bundle: Bundle, tmp_path: Path) -> None:
    """Beside a sound one: it was for this machine, and is not to be loaded."""
    for tower in PROFILES:
        write_engine(tmp_path, small_bundle, tower)
    image, _ = find_engines(tmp_path)
    (image.path / "engine.plan").write_bytes(b"\0" * image.manifest.plan.size)

    def load(engine: Engine, bundle: Bundle) -> Sound:
        read_plan(engine)
        return Sound(engine, bundle)

    result = verify_engines(tmp_path, bundle=small_bundle.path, samples=8, load=load)
    damaged, sound = result.rows
    assert damaged.refused is None
    assert "its manifest vouches for" in (damaged.failed or "")
    assert sound.certificate is not None
    assert not result.passed


def test_an_engine_without_the_memory_it_needs_does_not_pass(
    engines: Path, small_bundle: Bundle
) -> None:
    def load(engine: Engine, bundle: Bundle) -> Sound:
        if engine.manifest.recipe.tower == "image":
            raise DeploymentError("cudaMalloc failed on GPU 0")
        return Sound(engine, bundle)

    result = verify_engines(engines, bundle=small_bundle.path, samples=8, load=load)
    assert result.rows[0].failed == "cudaMalloc failed on GPU 0"
    assert not result.passed


def test_an_engine_that_fails_during_its_checks_does_not_pass(
    engines: Path, small_bundle: Bundle
) -> None:
    class Failing(Sound):
        def run(self, batch: NDArray[Any]) -> Floats:
            if batch.dtype == np.int32 and len(batch) == self.most:
                raise DeploymentError("cudaGraphLaunch failed on GPU 0")
            return super().run(batch)

    result = verify_engines(engines, bundle=small_bundle.path, samples=8, load=Failing)
    image, text = result.rows
    assert image.certificate is not None
    assert text.failed == "cudaGraphLaunch failed on GPU 0"
    assert not result.passed


def test_what_cannot_be_written_is_still_told(small_bundle: Bundle, tmp_path: Path) -> None:
    folder = write_engine(tmp_path / "engines", small_bundle, "image")
    (folder / "certificate.json").mkdir()
    (folder / "certificate.json" / "in the way").touch()
    result = verify_engines(folder, bundle=small_bundle.path, samples=8, load=Sound)
    (row,) = result.rows
    assert row.certificate is not None
    assert "certificate.json cannot be written" in (row.unsaved or "")
    assert sorted(path.name for path in folder.iterdir()) == [
        "certificate.json", "engine.plan", "manifest.json",
    ]  # fmt: skip


def test_without_any_engine_that_runs_nothing_passes(engines: Path, small_bundle: Bundle) -> None:
    def load(engine: Engine, bundle: Bundle) -> Sound:
        raise EngineMismatch("no GPU")

    with pytest.raises(EngineError, match="no engine of .* can be run here: no GPU"):
        verify_engines(engines, bundle=small_bundle.path, load=load)


def test_the_bundle_beside_the_engines_is_found(small_bundle: Bundle, tmp_path: Path) -> None:
    folder = write_engine(tmp_path / "engines", small_bundle, "image").parent
    with pytest.raises(EngineError, match="lies beside .*; name it with --bundle"):
        verify_engines(folder, load=Sound)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "card.json").write_text("{}")
    (tmp_path / "the bundle").symlink_to(small_bundle.path)
    assert verify_engines(folder, samples=8, load=Sound).passed


def test_what_holds_engines(engines: Path, small_bundle: Bundle, tmp_path: Path) -> None:
    assert holds_engines(engines)
    assert holds_engines(find_engines(engines)[0].path)
    assert not holds_engines(small_bundle.path)
    assert not holds_engines(tmp_path)
    assert not holds_engines(tmp_path / "missing")
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "engine.plan").write_bytes(b"")
    assert holds_engines(tmp_path)


def test_options_of_the_other_kind_are_refused(engines: Path, small_bundle: Bundle) -> None:
    run = CliRunner().invoke
    of_engines = run(verify, [str(engines), "--layers"])
    assert of_engines.exit_code == 2
    assert "--layers is for a BUNDLE" in of_engines.output
    of_bundle = run(verify, [str(small_bundle.path), "--bundle", "x"])
    assert of_bundle.exit_code == 2
    assert "--bundle is for ENGINES" in of_bundle.output


def test_the_command_prints_checks_and_what_is_missed(
    engines: Path, small_bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Default arguments are bound when the function is made.
    monkeypatch.setitem(verify_engines.__kwdefaults__, "load", broken(stale))
    arguments = [str(engines), "--bundle", str(small_bundle.path), "--samples", "8"]
    result = CliRunner().invoke(verify, arguments)
    assert result.exit_code == 1
    assert "alternating inputs" in result.output
    assert "(stale)" in result.output
    monkeypatch.setitem(verify_engines.__kwdefaults__, "load", Sound)
    result = CliRunner().invoke(verify, [*arguments, "--json"])
    assert result.exit_code == 0
    assert json.loads(result.output)["passed"] is True
