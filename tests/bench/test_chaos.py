"""Whether `make chaos` would notice a broken promise."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc
import pytest
from rich.progress import Progress

from cliprt import (
    Bundle,
    ClosedError,
    DeadlineExceeded,
    InvalidInput,
    ModelUnavailable,
    Overloaded,
    ServerError,
    ServerUnavailable,
)
from cliprt_triton import TritonServer

BENCH = Path(__file__).resolve().parent.parent.parent / "bench"


@pytest.fixture(scope="module")
def chaos() -> Iterator[Any]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCH))
        from chaos import __main__, faults, golden, tally, traffic

        yield SimpleNamespace(
            main=__main__, faults=faults, golden=golden, tally=tally, traffic=traffic
        )


def outcome(chaos: Any, failed: Exception | None, seconds: float = 0.0) -> tuple[str, bool]:
    """What a request's end counts as, and whether the promise is kept."""
    tally = chaos.tally.Tally()
    tally.add(chaos.traffic._outcome("texts", 5.0, time.monotonic() - seconds, failed))
    (row,) = tally.rows()
    (end,) = (key for key, count in row.items() if count == 1 and key != "asked")
    return end, chaos.main.report(tally, {}, 0, 1)["kept"]


def test_what_ends_count_as(chaos: Any) -> None:
    assert outcome(chaos, None) == ("right", True)
    assert outcome(chaos, Overloaded("full")) == ("refused", True)
    assert outcome(chaos, chaos.traffic.Wrong("off")) == ("wrong", False)
    assert outcome(chaos, InvalidInput("a good item")) == ("wrong", False)
    assert outcome(chaos, KeyError("embedding")) == ("untyped", False)
    assert outcome(chaos, None, seconds=60) == ("lost", False)
    assert outcome(chaos, Overloaded("full"), seconds=60) == ("lost", False)


@pytest.mark.parametrize(
    "error", [Overloaded, DeadlineExceeded, ServerUnavailable, ModelUnavailable]
)
def test_errors_that_say_what_to_do_are_refusals(chaos: Any, error: type[Exception]) -> None:
    assert outcome(chaos, error("later")) == ("refused", True)


@pytest.mark.parametrize("error", [ServerError("broken"), ClosedError("closed"), OSError("socket")])
def test_errors_that_no_good_request_should_meet_are_none(chaos: Any, error: Exception) -> None:
    assert outcome(chaos, error) == ("untyped", False)


class Status(grpc.RpcError):  # type: ignore[misc]
    """What a caller without a client gets."""

    def __init__(self, code: grpc.StatusCode, details: str) -> None:
        self.code = lambda: code
        self.details = lambda: details


REFUSALS = {"UNAVAILABLE", "DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED", "NOT_FOUND", "CANCELLED"}


@pytest.mark.parametrize("code", grpc.StatusCode)
def test_what_a_status_counts_as(chaos: Any, code: grpc.StatusCode) -> None:
    end = outcome(chaos, Status(code, "said so"))
    if code.name in REFUSALS:
        assert end == ("refused", True)
    elif code is grpc.StatusCode.INVALID_ARGUMENT:
        assert end == ("wrong", False)
    else:
        assert end == ("untyped", False)


def test_the_process_of_a_model_that_died_is_told_in_tritons_words(chaos: Any) -> None:
    died = "Failed to process the request(s) for model instance 'clip_text_0', message: Stub "
    died += "process 'clip_text_0' is not healthy."
    assert outcome(chaos, Status(grpc.StatusCode.INTERNAL, died)) == ("refused", True)


def run_of(chaos: Any, monkeypatch: pytest.MonkeyPatch, recovered: str | None = None) -> Any:
    """A run whose world is sound, or does not recover."""
    monkeypatch.setattr(chaos.main.Run, "_state", lambda self: ([], 0))
    monkeypatch.setattr(chaos.main.Run, "_recovered", lambda self, deadline: recovered)
    monkeypatch.setattr(chaos.main.Run, "_pause", lambda self: None)
    return chaos.main.Run(None, [], 1)


def test_each_kind_happens_once_in_order_whatever_became_of_those_before(
    chaos: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    def kind(name: str, error: Exception | None = None) -> Any:
        def fault(world: Any, choose: random.Random) -> Any:
            seen.append(name)
            if error is not None:
                raise error
            return lambda: seen.append(f"after {name}")

        return fault

    failed = chaos.faults.Failed
    kinds = {
        "second": kind("second", ProcessLookupError(3, "No such process")),
        "first": kind("first"),
        "third": kind("third", failed("a damaged model was loaded")),
        "fourth": kind("fourth", IndexError("Cannot choose from an empty sequence")),
    }
    run = run_of(chaos, monkeypatch)
    run.each_once(kinds, Progress(disable=True))
    assert seen == ["second", "first", "after first", "third", "fourth"]
    found = chaos.main.report(chaos.tally.Tally(), run.records, 0, 1)
    assert not found["kept"]
    assert found["broken"] == [
        "fourth: IndexError: Cannot choose from an empty sequence",
        "second: ProcessLookupError: [Errno 3] No such process",
        "third: a damaged model was loaded",
    ]
    assert [(row["fault"], row["injected"], row["survived"]) for row in found["faults"]] == [
        ("first", 1, 1),
        ("fourth", 1, 0),
        ("second", 1, 0),
        ("third", 1, 0),
    ]


def test_nothing_is_injected_into_what_did_not_recover(
    chaos: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = run_of(chaos, monkeypatch, recovered="not right after 120 s")
    kinds = {"one": lambda *_: None, "other": lambda *_: None}
    run.each_once(kinds, Progress(disable=True))
    assert {kind: record.failures for kind, record in run.records.items()} == {
        "one": ["not right after 120 s"]
    }


def test_every_kind_of_fault_is_among_those_that_happen(chaos: Any) -> None:
    kinds = chaos.faults.faults(disk=True)
    assert {"server frozen", "model frozen", "log full"} <= kinds.keys()
    assert kinds.keys() - chaos.faults.faults(disk=False).keys() == {"log full"}


def test_a_fault_that_is_not_survived_breaks_the_promise(chaos: Any) -> None:
    records = {
        "one": chaos.main.Record([1.0, 3.0, 2.0]),
        "other": chaos.main.Record([1.0], ["not right after 120 s"]),
    }
    found = chaos.main.report(chaos.tally.Tally(), records, 2, 1)
    assert not found["kept"]
    assert found["broken"] == ["other: not right after 120 s"]
    assert [row["survived"] for row in found["faults"]] == [3, 1]
    assert [row["injected"] for row in found["faults"]] == [3, 2]
    assert found["faults"][0]["recovery_median_s"] == 2
    assert found["faults"][0]["recovery_max_s"] == 3


def test_other_answers_than_the_known_ones_are_noticed(
    chaos: Any, demo_bundle: Bundle, demo_server: TritonServer
) -> None:
    texts, pictures = chaos.golden.golden_of(demo_bundle)
    others = chaos.golden.Golden(texts.items, texts.embeddings[::-1])

    def callers(known: Any) -> list[tuple[Any, str]]:
        return [
            (chaos.traffic.ClientCaller(demo_server.address, known, pictures, 1), "texts"),
            (
                chaos.traffic.BareCaller(demo_server.address, known, pictures),
                "strings, without a client",
            ),
        ]

    for caller, _ in callers(texts):
        caller.ask_all(random.Random(1))
        caller.close()
    for caller, kind in callers(others):
        with pytest.raises(chaos.traffic.Wrong, match="an answer that is off by"):
            caller.kinds[kind](random.Random(1))
        caller.close()
