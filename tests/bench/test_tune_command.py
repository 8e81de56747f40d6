"""`cliprt tune` writes what `cliprt serve` takes, and loses nothing that it measured."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from tune_windows import batch, by_formula

from cliprt import Bundle
from cliprt._cli import main
from cliprt_bench import _inputs, _tune_search, _tuning
from cliprt_bench._inputs import drawn_inputs
from cliprt_bench._tune import Candidate, Window
from cliprt_triton import Tuned, read_tuned


def tune(bundle: Bundle, *words: str) -> Result:
    return CliRunner().invoke(main, ["tune", str(bundle.path), *words])


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[Candidate]:
    """Batches of 4 are twice as fast; int8-cpu is a little faster. The candidates, as they come."""
    found: list[Candidate] = []
    speed = {"fp32": 100.0, "int8-cpu": 105.0}
    formula = by_formula(lambda c: speed[c.precision] * (1 + (batch(c) == 4)), lambda c: 10.0)

    def measure(self: object, candidate: Candidate, numbers: range) -> Sequence[Window]:
        found.append(candidate)
        return formula(candidate, numbers)

    inputs = drawn_inputs(1, 1)
    monkeypatch.setattr(_inputs, "given_inputs", lambda pictures, captions: inputs)
    monkeypatch.setattr(_tuning.Tuner, "measure", measure)
    monkeypatch.setattr(_tuning.Tuner, "settings", lambda self, candidate: {})
    return found


@pytest.mark.parametrize("rate", [None, "200"])
def test_with_a_real_triton(
    demo_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rate: str | None
) -> None:
    """The defaults alone; what is written makes a repository."""
    monkeypatch.setattr(_tune_search, "BATCHES", ())
    monkeypatch.setattr(_tune_search, "DELAYS_US", (500,))
    monkeypatch.setattr(_tune_search, "INSTANCES", (1,))
    monkeypatch.setattr(_tune_search, "GOALS", ("throughput",))
    path = tmp_path / "policy.json"
    words = ["--p95", "60000", "--tower", "text", "--out", str(path), "--seconds", "0.5"]
    words += ["--repeats", "3", "--precision", "fp32"]
    words += ["--concurrency", "16"] if rate is None else ["--rate", rate]
    done = tune(demo_bundle, *words)
    assert done.exit_code == 0, done.output
    found = read_tuned(path)
    assert (found.space, found.precision) == (demo_bundle.card.space, "fp32")
    assert found.machine == Tuned.this_machine()
    assert "p95 within 60000 ms" in found.goal
    assert found.why in done.output
    assert len(found.evidence) == 1
    assert set(found.settings) == {"image", "text"}
    done = CliRunner().invoke(
        main,
        ["repository", str(demo_bundle.path), "--out", str(tmp_path / "r"), "--policy", str(path)],
    )
    assert done.exit_code == 0, done.output
    assert "Warning" not in done.output
    config = (tmp_path / "r" / "clip_text" / "config.pbtxt").read_text()
    assert f"max_batch_size: {found.policy.batch_size()}" in config


def test_the_evidence_is_printed_and_kept(
    measured: list[Candidate], demo_bundle: Bundle, tmp_path: Path
) -> None:
    path = tmp_path / "policy.json"
    done = tune(demo_bundle, "--p99", "50", "--out", str(path), "--precision", "fp32")
    assert done.exit_code == 0, done.output
    found = read_tuned(path)
    assert found.policy.max_batch_size == 4
    assert any(line.startswith("in turns: fp32") for line in found.evidence)
    assert any("± " in line for line in found.evidence)
    assert "in turns" in done.stdout
    assert "Only the image tower was measured. Precision, threads, batches" in found.why
    assert found.why in done.stdout
    assert f"--policy {path}" in done.stdout


def test_it_is_foretold_how_long_it_takes(measured: list[Candidate], demo_bundle: Bundle) -> None:
    done = tune(demo_bundle, "--p99", "50", "--precision", "fp32", "--json")
    assert "At most 9 candidates, with 5 windows of 3 s each, and 10 turns: about 6 minutes" in (
        done.stderr
    )
    assert json.loads(done.stdout)["policy"]["max_batch_size"] == 4


def test_int8_is_told_with_what_it_loses(measured: list[Candidate], int8_bundle: Bundle) -> None:
    done = tune(int8_bundle, "--p99", "50")
    assert done.exit_code == 0, done.output
    assert "int8-cpu is not worth it here: 1.05 times" in done.stdout
    assert "What it loses, by the certificate: image, cosine to the original" in done.stdout


def test_ctrl_c_writes_the_best_so_far(
    measured: list[Candidate],
    demo_bundle: Bundle,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    formula = _tuning.Tuner.measure

    def measure(self: _tuning.Tuner, candidate: Candidate, numbers: range) -> list[Window]:
        if len(measured) == 5:
            raise KeyboardInterrupt
        return formula(self, candidate, numbers)

    monkeypatch.setattr(_tuning.Tuner, "measure", measure)
    path = tmp_path / "policy.json"
    done = tune(demo_bundle, "--p99", "50", "--out", str(path), "--precision", "fp32")
    assert done.exit_code == 0, done.output
    found = read_tuned(path)
    assert found.why.startswith("Interrupted: the best so far, of 5 candidates.")
    assert found.policy.max_batch_size == 4
    assert len(found.evidence) == 5


def test_what_cannot_be_written_is_told_before(
    measured: list[Candidate], demo_bundle: Bundle, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path, tmp_path / "file" / "policy.json"):
        done = tune(demo_bundle, "--p99", "50", "--out", str(path))
        assert done.exit_code == 2
        assert "cannot be written" in done.stderr
    assert measured == []


def test_what_could_not_be_written_was_printed(
    measured: list[Candidate],
    demo_bundle: Bundle,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def full(self: Tuned, path: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Tuned, "write", full)
    done = tune(demo_bundle, "--p99", "50", "--out", str(tmp_path / "p.json"))
    assert done.exit_code == 1
    assert "Best: fp32" in done.stdout
    assert "p.json cannot be written: No space left on device" in done.stderr
    assert "cliprt serve" not in done.stdout


@pytest.mark.parametrize("words", [(), ("--p99", "5", "--p95", "4")])
def test_one_limit(demo_bundle: Bundle, words: tuple[str, ...]) -> None:
    done = tune(demo_bundle, *words)
    assert done.exit_code == 2
    assert "give one limit: --p99, --p95 or --p90" in done.stderr


def test_a_rate_that_brings_too_few(measured: list[Candidate], demo_bundle: Bundle) -> None:
    done = tune(demo_bundle, "--p99", "50", "--rate", "2")
    assert done.exit_code == 1
    assert "limit a lower percentile (--p95)" in done.stderr
    assert tune(demo_bundle, "--p95", "50", "--rate", "2").exit_code == 0


def test_a_tower_that_is_not_there(demo_bundle: Bundle) -> None:
    done = tune(demo_bundle, "--p99", "5", "--precision", "int8-cpu")
    assert done.exit_code == 2
    assert "has no image tower in int8-cpu" in done.stderr
