"""Rivals: the worker process, refusals, and answers before speed."""

from __future__ import annotations

import json
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from msgspec import to_builtins

from cliprt_bench._figures import Figure, figure
from cliprt_bench._inputs import long_captions
from rivals import batch_work, environments, measuring
from rivals.__main__ import behind
from rivals.adapters import Adapter
from rivals.asking import NotStarted, Worker
from rivals.comparing import likeness
from rivals.entries import (
    BFLOAT16,
    EXACT,
    INT8,
    OWN_ENTRIES,
    POINTS,
    REFERENCE,
    RIVALS,
    SINGLE,
    Entry,
)
from rivals.environments import Environment, Refusal, make_environment
from rivals.inputs import Inputs
from rivals.protocol import (
    ProtocolError,
    RivalError,
    pack_request,
    receive_frame,
    send_frame,
    unpack_answer,
)
from rivals.reasons import MOST_LETTERS, cleaned, reason_in, reason_of
from rivals.worker import Server, checked

HERE = Environment("cliprt", Path(sys.executable))

# An adapter whose embedding of an item is a function of its bytes alone; `turn` makes it another.
LENGTHS = """
import os
import numpy as np
from rivals.adapters import Adapter

class Rival(Adapter):
    packages = ("numpy",)

    def __init__(self, *, turn="0", fail=""):
        if fail:
            raise OSError(f"cannot open shared object file: /usr/lib/deep/{fail}")
        self.turn = float(turn)

    def embed(self, kind, items):
        print("libraries print")
        if items and items[0] in ("refuse", b"refuse"):
            raise ValueError("first line\\nno such word in /home/somebody/words.txt")
        if items and items[0] in ("end", b"end"):
            os._exit(3)
        found = []
        for item in items:
            data = item if isinstance(item, bytes) else item.encode()
            angle = sum(data) + self.turn
            found.append([3 * np.cos(angle), 3 * np.sin(angle)])
        return np.array(found)
"""


@pytest.fixture
def lengths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The adapter above, found by workers and by this process."""
    package = tmp_path / "package" / "rivals_of_tests"
    package.mkdir(parents=True)
    (package / "lengths.py").write_text(LENGTHS)
    # A worker has a path of its own; what is added to it here is seen there.
    monkeypatch.setattr(
        "rivals.asking.worker_environment",
        lambda: {
            **environments.worker_environment(),
            "PYTHONPATH": f"{environments.BENCH}:{package.parent}",
        },
    )
    return "rivals_of_tests.lengths"


@contextmanager
def worker_of(adapter: str, **settings: Any) -> Iterator[Worker]:
    entry = Entry("lengths", adapter, "cliprt", settings)
    with measuring.started(entry, HERE, {}) as worker:
        yield worker


# --- protocol ---


def test_a_worker_answers_with_rows_of_length_1(lengths: str) -> None:
    with worker_of(lengths) as worker:
        assert worker.versions == {"numpy": np.__version__}
        assert not worker.threads
        found = worker.ask("text", ["a", "b"])
    np.testing.assert_allclose(found[:, 0], np.cos([97, 98]), rtol=1e-6)


def test_many_threads_get_their_own_answers(lengths: str) -> None:
    found: dict[int, Any] = {}
    with worker_of(lengths) as worker:

        def ask(number: int) -> None:
            found[number] = [worker.ask("image", [bytes([number])])[0, 0] for _ in range(20)]

        threads = [threading.Thread(target=ask, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    for number in range(4):
        np.testing.assert_allclose(found[number], np.cos(number), rtol=1e-6)


def test_a_refused_request_leaves_the_worker_as_it_was(lengths: str) -> None:
    with worker_of(lengths) as worker:
        with pytest.raises(RivalError, match=r"^ValueError: no such word in words\.txt$"):
            worker.ask("text", ["refuse"])
        assert worker.ask("text", ["a"]).shape == (1, 2)


def test_a_worker_that_ends_is_told(lengths: str) -> None:
    with worker_of(lengths) as worker, pytest.raises(ProtocolError, match="ended"):
        worker.ask("text", ["end"])


def test_an_adapter_that_cannot_be_loaded_is_refused(lengths: str) -> None:
    with pytest.raises(NotStarted) as caught, worker_of(lengths, fail="libgone.so"):
        pass
    told = "OSError: cannot open shared object file: libgone.so"
    assert caught.value.refusal == Refusal("start", told)


def test_an_adapter_that_is_not_there_is_refused(lengths: str) -> None:
    told = "ModuleNotFoundError: .*'rivals_of_tests.none'"
    with pytest.raises(NotStarted, match=told), worker_of("rivals_of_tests.none"):
        pass


def test_an_interpreter_that_ends_at_once_is_refused(tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho 'ERROR: no Python in /opt/deep/env' >&2; exit 2\n")
    python.chmod(0o755)
    with pytest.raises(NotStarted) as caught:
        Worker(python, "none", {}, tmp_path)
    assert caught.value.refusal == Refusal("start", "ERROR: no Python in env")


class Meeting(Adapter):
    """Counts how many threads are in it, and waits for a second one for a while."""

    patience_s = 0.2

    def __init__(self) -> None:
        self.most, self.now, self.lock = 0, 0, threading.Lock()
        self.both = threading.Event()

    def embed(self, kind: str, items: Any) -> Any:
        with self.lock:
            self.now += 1
            self.most = max(self.most, self.now)
            if self.now == 2:
                self.both.set()
        self.both.wait(self.patience_s)
        with self.lock:
            self.now -= 1
        return np.ones((len(items), 2))


class Free(Meeting):
    threads = True
    patience_s = 20.0


@pytest.mark.parametrize(("adapter", "most"), [(Meeting(), 1), (Free(), 2)])
def test_only_adapters_that_say_so_are_called_at_once(adapter: Meeting, most: int) -> None:
    server, pairs = Server(adapter), [socket.socketpair() for _ in range(2)]
    threads = [threading.Thread(target=server.answer_all, args=(theirs,)) for _, theirs in pairs]
    for thread in threads:
        thread.start()
    for ours, _ in pairs:
        send_frame(ours, pack_request("text", ["a"]))
    for ours, _ in pairs:
        answer = receive_frame(ours)
        assert answer is not None
        assert unpack_answer(answer).shape == (1, 2)
        ours.close()
    for thread in threads:
        thread.join()
    assert adapter.most == most


@pytest.mark.parametrize(
    "rows", [np.ones((2, 3)), np.ones(3), np.zeros((1, 3)), np.full((1, 3), np.nan)]
)
def test_rows_that_are_no_answer_are_refused(rows: Any) -> None:
    with pytest.raises(ValueError, match="answer has"):
        checked(rows, 1)


# --- refusals ---


def test_a_reason_holds_no_path_and_no_address() -> None:
    line = "ERROR: /home/me/a b.py: no match for x at https://host.example/simple/x (see ~/c/log)"
    assert cleaned(line) == "ERROR: a b.py: no match for x at <address> (see log)"
    assert len(cleaned("word " * 200)) == MOST_LETTERS
    assert reason_of(KeyError()) == "KeyError"


def test_the_telling_line_of_an_output_is_its_reason() -> None:
    output = "Traceback:\n  File x\nRuntimeError: operator is not there\nplease report\n"
    assert reason_in(output, "nothing") == "RuntimeError: operator is not there"
    assert reason_in("one\ntwo\n\n", "nothing") == "two"
    assert reason_in("", "nothing") == "nothing"


def pinned(folder: Path, monkeypatch: pytest.MonkeyPatch, pins: str, probe: str) -> None:
    folder.mkdir()
    (folder / "other.txt").write_text(pins)
    monkeypatch.setattr(environments, "REQUIREMENTS", folder)
    monkeypatch.setattr(environments, "PROBES", {"other": probe})
    monkeypatch.setenv("PIP_NO_INDEX", "1")


def test_what_cannot_be_installed_is_refused_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pinned(tmp_path / "pins", monkeypatch, "cliprt-no-such-rival==1\n", "pass")
    found = make_environment("other", tmp_path / "home")
    assert isinstance(found, Refusal)
    assert found.step == "install"
    assert "cliprt-no-such-rival==1" in found.reason
    assert not (tmp_path / "home" / "other").exists()


def test_what_cannot_be_imported_is_refused_and_made_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pinned(tmp_path / "pins", monkeypatch, "# nothing\n", "import no_such_rival")
    told: list[str] = []

    def install(name: str, target: Path, python: Path) -> None:
        python.parent.mkdir(parents=True)
        python.symlink_to(sys.executable)

    monkeypatch.setattr(environments, "_install", install)
    for _ in range(2):
        found = make_environment("other", tmp_path / "home", tell=told.append)
        assert found == Refusal("import", "ModuleNotFoundError: No module named 'no_such_rival'")
    assert told == ["installing other"]
    monkeypatch.setattr(environments, "PROBES", {"other": "import json"})
    found = make_environment("other", tmp_path / "home", tell=told.append)
    assert found == Environment("other", tmp_path / "home" / "other" / "bin" / "python")
    (tmp_path / "pins" / "other.txt").write_text("# other pins\n")
    make_environment("other", tmp_path / "home", tell=told.append)
    assert told == ["installing other"] * 2


def test_every_environment_has_exact_pins_without_addresses() -> None:
    names = {entry.environment for entry in RIVALS} | {"clip-retrieval", "perf-analyzer"}
    assert names == set(environments.PROBES)
    assert {path.stem for path in environments.REQUIREMENTS.glob("*.txt")} == names
    for name in names:
        lines = (environments.REQUIREMENTS / f"{name}.txt").read_text().splitlines()
        pins = [line for line in lines if line and not line.startswith("#")]
        assert pins
        for pin in pins:
            assert pin.count("==") == 1, pin
            assert not set(pin) & set("/@+ "), pin


# --- answers before speed ---


def small_inputs() -> Inputs:
    texts = long_captions(64)
    return Inputs({}, {"image": [text.encode() for text in texts], "text": texts})


def looked_at(lengths: str, turn: str, **settings: Any) -> tuple[measuring.Row, list[int]]:
    """A rival beside itself, and how many requests were sent in each measurement."""
    sizes: list[int] = []

    def rate_of(send: Any, callers: int, seconds: float) -> float:
        send(0)
        sizes.append(callers)
        # The rival is last in even rounds and first in odd ones: cliprt is three times as fast.
        number, place = divmod(len(sizes) - 1, 2)
        return 3.0 if place == (number // len(POINTS)) % 2 else 1.0

    inputs = small_inputs()
    row = measuring.Row(Entry("turned", lengths, "cliprt", {"turn": turn, **settings}))
    with worker_of(lengths) as worker:
        reference = measuring.answers_of(worker, inputs)
        measuring.look_at(
            row,
            HERE,
            inputs,
            reference,
            [(Entry("own", lengths, "cliprt"), worker)],
            rounds=2,
            callers=2,
            seconds=0.01,
            rate_of=rate_of,
        )
    return row, sizes


def test_the_same_answers_are_followed_by_speed(lengths: str) -> None:
    row, sizes = looked_at(lengths, turn="0.01")
    assert row.likeness is not None
    assert row.likeness.same
    assert len(sizes) == 2 * 2 * len(POINTS)
    points = [f"{kind} {size}" for kind, size in POINTS]
    assert list(row.ratios["own"]) == points
    assert all(ratio.repeats == (3.0, 3.0) for ratio in row.ratios["own"].values())
    assert row.rates["text 64"].value == 64.0
    assert row.record()["same_answers"]


def test_an_entry_is_measured_at_its_points(lengths: str) -> None:
    inputs, row = small_inputs(), measuring.Row(Entry("other", lengths, "cliprt"))
    single = Entry("single", lengths, "cliprt", points=SINGLE)
    with worker_of(lengths) as worker:
        reference = measuring.answers_of(worker, inputs)
        measuring.look_at(
            row, HERE, inputs, reference, [(single, worker)],
            rounds=2, callers=1, seconds=0.01, rate_of=lambda *_: 1.0,
        )  # fmt: skip
    assert list(row.ratios["single"]) == ["image 1", "text 1"]
    assert len(row.rates) == len(POINTS)


def test_other_answers_have_a_cosine_and_no_speed(lengths: str) -> None:
    row, sizes = looked_at(lengths, turn="0.5")
    assert not sizes
    assert row.likeness is not None
    assert row.likeness.least["image"] == pytest.approx(np.cos(0.5), abs=1e-6)
    record = row.record()
    assert not record["same_answers"]
    assert record["ratios"] == record["items_per_s"] == {}
    json.dumps(record)


def test_a_rival_that_does_not_start_is_a_row_with_a_reason(lengths: str) -> None:
    row, sizes = looked_at(lengths, turn="0", fail="libgone.so")
    assert not sizes
    assert row.record()["absent"] == {
        "step": "start",
        "reason": "OSError: cannot open shared object file: libgone.so",
    }


def test_one_item_below_the_bar_is_another_answer() -> None:
    reference = np.eye(3, dtype=np.float32)
    found = reference.copy()
    found[1] = [0.1, np.sqrt(1 - 0.01), 0]
    seen = likeness({"text": found}, {"text": reference}, EXACT)
    assert not seen.same
    assert likeness({"text": found}, {"text": reference}, BFLOAT16).same
    with pytest.raises(ValueError, match=r"\[3, 2\]"):
        likeness({"text": found[:, :2]}, {"text": reference}, EXACT)


def test_a_failure_ends_the_loop() -> None:
    def send(number: int) -> None:
        if number == 3:
            raise RivalError("out of words")

    with pytest.raises(RivalError, match="out of words"):
        measuring.requests_per_s(send, 2, 0.2)


def fixed(rows: Any) -> Any:
    return lambda pictures, out: np.resize(rows, (len(list(pictures.iterdir())), 2))


@pytest.mark.parametrize(
    ("rows", "same", "ratios"), [([[2.0, 0.0]], True, 2), ([[0.6, 0.8]], False, 0)]
)
def test_batch_work_is_compared_before_its_speed(rows: Any, same: bool, ratios: int) -> None:
    reference = {"image": np.resize(np.float32([1, 0]), (4, 2))}
    named = {batch_work.OWN: fixed([[1.0, 0.0]]), batch_work.RIVAL: fixed(rows)}
    found = batch_work.compare_jobs(named, small_inputs(), reference, pictures=9, rounds=2)
    assert found["same_answers"] is same
    assert len((found["ratio"] or {"repeats": []})["repeats"]) == ratios
    json.dumps(found)


def test_a_failed_job_is_told() -> None:
    def fails(pictures: Path, out: Path) -> Any:
        raise batch_work.JobFailed("RuntimeError: no operator")

    named = {batch_work.OWN: fixed([[1.0, 0.0]]), batch_work.RIVAL: fails}
    reference = {"image": np.resize(np.float32([1, 0]), (4, 2))}
    found = batch_work.compare_jobs(named, small_inputs(), reference, pictures=5, rounds=0)
    assert found["absent"]["who"] == batch_work.RIVAL
    assert found["absent"]["reason"] == "RuntimeError: no operator"


def test_names_and_folders_of_entries() -> None:
    entries = (*OWN_ENTRIES, *RIVALS)
    assert len({entry.name for entry in entries}) == len(entries)
    assert REFERENCE in {entry.name for entry in RIVALS}
    folders = {name: Path("/somewhere") / name for name in ("checkpoint", "bundle", "graphs")}
    for entry in entries:
        assert not [value for value in entry.filled(folders).values() if "{" in value]
        assert (Path(environments.BENCH) / "rivals" / "adapters" / f"{entry.adapter}.py").exists()


def test_rows_in_which_cliprt_is_behind_are_named() -> None:
    def row(rival: str, bar: float, fp32: Figure, int8: Figure) -> dict[str, Any]:
        exact, lossy = (
            next(entry for entry in OWN_ENTRIES if entry.bar == bar and entry.points == SINGLE)
            for bar in (EXACT, INT8)
        )
        own = {exact.name: fp32, lossy.name: int8}
        return {
            "rival": rival,
            "bar": bar,
            "items_per_s": {"image 1": to_builtins(figure([50.0, 51.0, 52.0]))},
            "ratios": {name: {"image 1": to_builtins(ratio)} for name, ratio in own.items()},
        }

    ahead, close = figure([1.9, 2.0, 2.1]), figure([0.9, 0.95, 1.1])
    slower = figure([0.79, 0.8, 0.81])
    rows = [
        row("exact, slower", EXACT, ahead, ahead),
        row("exact, faster", EXACT, slower, ahead),
        row("exact, as fast", EXACT, close, ahead),
        row("lossy, slower", BFLOAT16, slower, ahead),
        row("lossy, faster", BFLOAT16, slower, slower),
    ]
    assert [line.partition(":")[2] for line in behind({"rivals": rows})] == [
        " exact, faster, image 1: 51 items/s, cliprt 0.80 (0.78 to 0.82) times that",
        " exact, as fast, image 1: 51 items/s, cliprt 0.95 (0.72 to 1.24) times that, "
        "within its spread",
        " lossy, faster, image 1: 51 items/s, cliprt 0.80 (0.78 to 0.82) times that",
    ]
