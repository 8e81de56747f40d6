"""A matrix becomes points: what is asked, how often, and what is told of it."""

from __future__ import annotations

import pytest
from bench_subjects import DIM, Counted

from cliprt import InvalidInput, Overloaded, ServerError
from cliprt_bench._bench_card import Method, Model, Tower, Workload
from cliprt_bench._inputs import drawn_inputs
from cliprt_bench._measure import Measurement

INPUTS = drawn_inputs(3, 5)
METHOD = Method(warmup_s=0.02, repeat_s=0.1, repeats=2, seed=0, command="cliprt bench latency")


def closed(tower: Tower = "image", batch: int = 1, callers: int = 1) -> Workload:
    return Workload(tower=tower, batch=batch, concurrency=callers, loop="closed")


def test_every_workload_is_measured_as_often_as_asked() -> None:
    subject, told = Counted(), list[str]()
    measurement = Measurement(subject, INPUTS, METHOD)
    workloads = [closed(batch=2), closed("text", 3)]
    measurement.run(workloads, told.append)
    one, other = measurement.points()
    assert [one.workload, other.workload] == workloads
    assert len(one.figures["items_s"].repeats) == METHOD.repeats
    assert one.samples > 4
    assert one.errors == {}
    assert {len(items) for items in subject.asked} == {2, 3}
    # Both warm up; the second round goes backwards.
    a, b = (workload.in_words() for workload in workloads)
    assert told == [f"warm-up: {a}", f"warm-up: {b}", a, b, b, a]


def test_all_inputs_take_their_turn() -> None:
    subject = Counted()
    Measurement(subject, INPUTS, METHOD).run([closed(batch=2)])
    assert {item for items in subject.asked for item in items} == set(INPUTS.pictures)


def test_as_many_callers_as_asked() -> None:
    subject = Counted(0.02)
    Measurement(subject, INPUTS, METHOD).run([closed(callers=3)])
    assert subject.most == 3


def test_an_open_loop_keeps_its_rate() -> None:
    subject = Counted()
    workload = Workload(tower="image", batch=1, concurrency=8, loop="open", rate=60)
    measurement = Measurement(subject, INPUTS, METHOD)
    measurement.run([workload])
    (point,) = measurement.points()
    assert point.workload == workload
    assert 0 < point.samples < 60
    assert point.figures["offered_s"].value == 60


def test_a_rate_may_be_a_share_of_what_was_reached() -> None:
    subject = Counted()
    workload = Workload(tower="image", batch=2, concurrency=8, loop="open", share=0.5)
    measurement = Measurement(subject, INPUTS, METHOD)
    measurement.run([workload], capacities={workload: 80})
    (point,) = measurement.points()
    assert point.figures["offered_s"].value == 80
    assert workload.in_words().startswith("image, batch 2, open loop, 0.5 of capacity")


def test_errors_are_counted_by_kind() -> None:
    subject = Counted()
    subject.error = Overloaded("the queue is full")
    measurement = Measurement(subject, INPUTS, METHOD)
    measurement.run([closed()])
    (point,) = measurement.points()
    assert point.errors == {"Overloaded": point.samples}
    assert any("Overloaded" in mark for mark in point.marks)


def test_a_target_that_fails_at_once_is_not_measured() -> None:
    class Broken(Counted):
        model = Model(name="broken", space="0" * 16, dim=DIM + 1)

    with pytest.raises(ServerError, match=r"the answer has the shape \(1, 4\), not \(1, 5\)"):
        Measurement(Broken(), INPUTS, METHOD).run([closed()])


def test_tokens_need_a_tokenizer() -> None:
    workload = Workload(tower="text", batch=1, concurrency=1, loop="closed", text_length=7)
    with pytest.raises(InvalidInput, match="need the model's tokenizer; pass --bundle"):
        Measurement(Counted(), INPUTS, METHOD).run([workload])


def test_what_was_measured_before_an_interrupt_stays() -> None:
    subject = Counted()
    measurement = Measurement(subject, INPUTS, METHOD)

    def interrupt(what: str) -> None:
        if what == closed().in_words():
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        measurement.run([closed(), closed(batch=2)], interrupt)
    (point,) = measurement.points()
    assert point.workload == closed()


@pytest.mark.parametrize(
    ("workload", "words"),
    [
        (closed(), "image, batch 1, 1 caller"),
        (closed("text", 8, 4), "text, batch 8, 4 callers"),
        (
            Workload(
                tower="text", batch=1, concurrency=9, loop="open", rate=12.345, text_length=16
            ),
            "text, batch 1, open loop, 12.345/s, at most 9 under way, 16 tokens",
        ),
    ],
)
def test_workloads_in_words(workload: Workload, words: str) -> None:
    assert workload.in_words() == words
