"""Whether `make chaos` would notice a broken promise."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cliprt import Bundle, InvalidInput, Overloaded
from cliprt_triton import TritonServer

BENCH = Path(__file__).resolve().parent.parent.parent / "bench"


@pytest.fixture(scope="module")
def chaos() -> Iterator[Any]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCH))
        from chaos import __main__, golden, tally, traffic

        yield SimpleNamespace(main=__main__, golden=golden, tally=tally, traffic=traffic)


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
