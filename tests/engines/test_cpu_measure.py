"""Measuring candidates: wrong, differing and failing ones cost themselves alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import numpy as np
import pytest
from numpy.typing import NDArray

from cliprt import Bundle, BundleError, _known
from cliprt._known import bar_of_folder
from cliprt_engines import CpuSettings, OnnxTower
from cliprt_engines import _cpu_measure as measuring
from cliprt_engines._cpu_measure import Measured
from cliprt_engines._cpu_settings import load_tower

Batch: TypeAlias = NDArray[np.uint8] | NDArray[np.int32]
Change: TypeAlias = Callable[[NDArray[np.float32]], NDArray[np.float32]]
Spoil: TypeAlias = Callable[[Change], list[OnnxTower]]

GOOD, BAD = CpuSettings(workers=1), CpuSettings(workers=2)


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing here depends on how well it is timed."""
    monkeypatch.setattr(measuring, "_TIMED_S", 0.01)


@pytest.fixture
def spoil(monkeypatch: pytest.MonkeyPatch) -> Spoil:
    """Changes what towers of two workers answer; the list holds those that were closed."""
    original, load = OnnxTower.run, load_tower
    spoilt: list[OnnxTower] = []
    closed: list[OnnxTower] = []

    def spoiling(change: Change) -> list[OnnxTower]:
        def run(self: OnnxTower, batch: Batch) -> NDArray[np.float32]:
            found = original(self, batch)
            return change(found) if self in spoilt else found

        monkeypatch.setattr(OnnxTower, "run", run)
        return closed

    def loading(path: Path, settings: CpuSettings) -> object:
        tower = load(path, settings)
        assert isinstance(tower, OnnxTower)
        if settings.workers == BAD.workers:
            spoilt.append(tower)
        return tower

    monkeypatch.setattr(measuring, "load_tower", loading)
    monkeypatch.setattr(OnnxTower, "close", lambda self: closed.append(self))
    return spoiling


def measured(bundle: Bundle, *candidates: CpuSettings) -> list[Measured]:
    return measuring.measure(bundle, "text", "fp32", candidates, goal="throughput", budget_s=9)


def test_wrong_answers_are_never_chosen(small_bundle: Bundle, spoil: Spoil) -> None:
    """As int8 products that saturate on old processors would give."""
    spoil(np.negative)
    found = measured(small_bundle, BAD, GOOD)
    assert found[0].settings.workers == 1
    assert found[-1].items_per_s == 0
    assert "known answers have a cosine of -1" in found[-1].refused
    assert found[-1].min_cosine == pytest.approx(-1)


def test_an_answer_that_is_no_number_is_wrong(small_bundle: Bundle, spoil: Spoil) -> None:
    spoil(lambda answers: answers * np.float32(np.nan))
    assert "a cosine of nan" in measured(small_bundle, BAD)[0].refused


def test_in_float32_roundings_pass_and_nothing_else(small_bundle: Bundle, spoil: Spoil) -> None:
    """A cosine of 0.99995, as of products in half precision, is refused."""

    def turned(answers: NDArray[np.float32]) -> NDArray[np.float32]:
        changed = answers.copy()
        changed[:, :2] = answers[:, 1::-1] * np.float32([1, -1])
        changed = answers + (changed - answers) * np.float32(0.02)
        return changed / np.linalg.norm(changed, axis=1, keepdims=True)

    spoil(turned)
    (found,) = measured(small_bundle, BAD)
    assert found.min_cosine is not None
    assert 0.999 < found.min_cosine < 0.999_999
    assert "known answers" in found.refused


def test_candidates_must_agree_with_the_first(
    small_bundle: Bundle, spoil: Spoil, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both within the bar of an 8-bit precision, and yet not the same."""
    monkeypatch.setitem(_known._MIN_COSINE, "fp32", -1.0)
    spoil(lambda answers: np.roll(answers, 1, axis=1))
    found = measured(small_bundle, GOOD, BAD)
    assert found[-1].items_per_s == 0
    assert "to the first candidate's answers, below 0.999" in found[-1].refused


@pytest.mark.parametrize("good_runs", [0, 2])
def test_a_candidate_that_fails_costs_itself_alone(
    small_bundle: Bundle, spoil: Spoil, good_runs: int
) -> None:
    runs: list[int] = []

    def failing(answers: NDArray[np.float32]) -> NDArray[np.float32]:
        runs.append(1)
        if len(runs) > good_runs:
            raise MemoryError
        return answers

    closed = spoil(failing)
    found = measured(small_bundle, BAD, GOOD)
    assert found[0].settings.workers == 1
    assert [(seen.items_per_s, seen.refused) for seen in found if seen.settings.workers == 2] == [
        (0, "MemoryError")
    ]
    assert len(closed) == 2


def test_no_other_candidate_is_begun_when_the_time_is_spent(small_bundle: Bundle) -> None:
    many = [CpuSettings(batch=size) for size in (1, 2, 3)]
    found = measuring.measure(small_bundle, "text", "fp32", many, goal="throughput", budget_s=0.0)
    assert [seen.settings.batch for seen in found] == [1]


def test_a_certificate_that_cannot_be_read_is_a_bundle_error(
    small_bundle: Bundle, tmp_path: Path
) -> None:
    for path in small_bundle.path.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "certificate.json").write_text("{}")
    with pytest.raises(BundleError, match="the certificate of .* cannot be read"):
        bar_of_folder(tmp_path, "text", "fp32")
