"""Ceilings are those of what computed, in items of what was measured."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import bench_cards as cards
import pytest
from bench_subjects import Counted, Elsewhere

from cliprt import Bundle, MissingExtra
from cliprt_bench import _bounds
from cliprt_bench._bench_card import Ceiling, Gpu, Point
from cliprt_bench._bounds import bounds_of, computes_on_cpu
from cliprt_bench._ceilings import Rate
from cliprt_bench._figures import figure
from cliprt_bench._inputs import drawn_inputs
from cliprt_bench._targets import InProcess, Subject

INPUTS = drawn_inputs(1, 20)
RATES = [
    Rate("matmul_fp32", figure([100.0]), "GFLOP/s", "one"),
    Rate("loopback", figure([300.0]), "MB/s", "one"),
]


class Measured:
    """Stands for the measurement of ceilings: keeps what was asked for, and may break off."""

    def __init__(self, patch: pytest.MonkeyPatch, ends: BaseException | None = None) -> None:
        self.given: dict[str, Any] = {}
        self._ends = ends
        patch.setattr(_bounds, "measure", self)

    def __call__(self, *arguments: Any, **given: Any) -> Iterator[Rate]:
        self.given = given
        yield RATES[0]
        if self._ends is not None:
            raise self._ends
        yield RATES[1]


def bounds(
    subject: Subject, points: Sequence[Point] = (), gpus: tuple[Gpu, ...] = ()
) -> tuple[tuple[Ceiling, ...], bool, list[str]]:
    warned: list[str] = []
    machine = cards.machine(gpus=gpus)
    found, complete = bounds_of(
        subject, INPUTS, points, machine, tell=lambda what: None, warn=warned.append
    )
    return found, complete, warned


def point(**more: Any) -> Point:
    sent = more.pop("sent", None)
    return cards.point(cards.workload(**more), figures={"sent_bytes": sent})


def test_a_target_elsewhere_has_no_ceilings_of_this_machine() -> None:
    assert bounds(Elsewhere(), [point()]) == ((), True, [])


@pytest.mark.parametrize(
    ("device", "gpus", "found"),
    [
        ("cpu", (), True),
        ("cpu", (cards.gpu(),), True),
        ("gpu", (), False),
        ("gpu", (cards.gpu(),), False),
        (None, (), True),
        (None, (cards.gpu(),), False),
    ],
)
def test_products_of_the_processor_bound_what_it_computes(
    monkeypatch: pytest.MonkeyPatch, device: Any, gpus: tuple[Gpu, ...], found: bool
) -> None:
    subject = Counted()
    subject.target = cards.target(device=device)
    assert computes_on_cpu(subject.target, cards.machine(gpus=gpus)) == found
    measured = Measured(monkeypatch)
    bounds(subject, [point()], gpus)
    assert bool(measured.given["kinds"]) == found


def test_requests_are_as_large_as_those_that_were_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    measured = Measured(monkeypatch)
    points = [
        point(batch=1, sent=1000.0),
        point(batch=16, sent=900.0),
        point(tower="text", text_length=8, sent=50.0),
    ]
    found, _, _ = bounds(Counted(), points)
    assert measured.given["request"] == (16 * 900, 16 * 4 * Counted.model.dim)
    # The fewest bytes of an item are what bounds it.
    assert found[1].items_s == {"image": pytest.approx(3e8 / 900), "text": pytest.approx(3e8 / 50)}
    bounds(Counted(), [point()])
    assert measured.given["request"] is None


def test_texts_have_the_ceiling_of_their_length(
    monkeypatch: pytest.MonkeyPatch, demo_bundle: Bundle
) -> None:
    Measured(monkeypatch)
    local = InProcess(demo_bundle)
    points = [point(tower="text", text_length=length) for length in (7, 24)]
    try:
        (fp32, _), complete, warned = bounds(local, points)
        (alone, _), _, _ = bounds(local, points[:1])
    finally:
        local.close()
    assert complete
    assert not warned
    assert list(fp32.text_items_s) == [7, 24]
    # Nearly as many times the work as it has times the tokens.
    assert 2 < fp32.text_items_s[7] / fp32.text_items_s[24] < 5
    assert not fp32.items_s
    assert alone.items_s == {"text": fp32.text_items_s[7]}


def test_ctrl_c_keeps_the_ceilings_so_far(monkeypatch: pytest.MonkeyPatch) -> None:
    Measured(monkeypatch, KeyboardInterrupt())
    found, complete, _ = bounds(Counted(), [point()])
    assert [each.name for each in found] == ["matmul_fp32"]
    assert not complete


@pytest.mark.parametrize("error", [MissingExtra("install onnx"), OSError("no process")])
def test_what_fails_is_told_and_the_rest_is_kept(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    Measured(monkeypatch, error)
    found, complete, warned = bounds(Counted(), [point()])
    assert [each.name for each in found] == ["matmul_fp32"]
    assert complete
    assert warned == [f"not all ceilings were measured: {error}"]
