"""`cliprt bench` as people give it: what is printed, what is kept, what is refused."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
from itertools import product
from pathlib import Path

import pytest
from bench_cards import card
from click.testing import CliRunner, Result
from http_front import running_front
from patience import until

from cliprt import Bundle
from cliprt._cli import main
from cliprt_bench import _run
from cliprt_bench._bench_card import read_bench_card
from cliprt_triton import TritonServer

SHORT = ("--seconds", "0.2", "--repeats", "2", "--warmup", "0", "--no-ceilings")


def bench(*words: object) -> Result:
    return CliRunner().invoke(main, ["bench", *map(str, words)])


def test_latency_in_process(demo_bundle: Bundle, tmp_path: Path) -> None:
    path = tmp_path / "card.json"
    done = bench("latency", "--bundle", demo_bundle.path, "--batch", "1,2", "--out", path, *SHORT)
    assert done.exit_code == 0, done.output
    found = read_bench_card(path)
    assert found.kind == "latency"
    assert found.complete
    assert found.model.space == demo_bundle.card.space
    assert found.target.process == "own"
    assert set(found.fidelity) == {"image", "text"}
    assert [point.workload.in_words() for point in found.points] == [
        "image, batch 1, 1 caller",
        "image, batch 2, 1 caller",
        "text, batch 1, 1 caller",
        "text, batch 2, 1 caller",
    ]
    assert all(point.figures["items_s"].value > 0 for point in found.points)
    assert "image, batch 1, 1 caller" in done.output
    assert "cliprt LocalClip" in done.output


def test_throughput_of_a_server(
    demo_server: TritonServer, demo_bundle: Bundle, tmp_path: Path
) -> None:
    path = tmp_path / "card.json"
    done = bench(
        "throughput", "--url", demo_server.address, "--bundle", demo_bundle.path, "--tower", "text",
        "--batch", 1, "--concurrency", "1,4", "--text-length", 7, "--at-p99", 10_000,
        "--server-pid", demo_server.pid, "--price", 3.6, "--out", path, *SHORT,
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    found = read_bench_card(path)
    (one, other) = found.points
    assert (one.workload.concurrency, other.workload.concurrency) == (1, 4)
    assert one.workload.text_length == 7
    # 7 tokens of 4 bytes, and what the protocol takes.
    assert 28 < one.figures["sent_bytes"].value < 2_000
    assert one.figures["received_bytes"].value > 4 * found.model.dim
    assert one.figures["rss_mb"].value > 10
    assert one.figures["target_cores"].value > 0
    assert "cost of a million" in done.output
    assert found.target.runtime is not None
    assert found.target.runtime.startswith("Triton")


def test_a_load_of_ensembles(demo_server: TritonServer) -> None:
    done = bench(
        "load", "--url", demo_server.address, "--ensemble", "--tower", "image", "--rate", "20",
        "--json", *SHORT,
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert found["kind"] == "load"
    (point,) = found["points"]
    assert point["workload"]["rate"] == 20
    assert point["figures"]["offered_s"]["value"] > 0


def test_a_front_that_wants_a_key(demo_server: TritonServer, tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_text("sk-nobodys-business\n")
    words = ("--tower", "text", "--batch", 1, "--json", *SHORT)
    with running_front(demo_server.address, api_keys=("sk-nobodys-business",)) as front:
        refused = bench("latency", "--openai", front.url, *words)
        assert refused.exit_code == 1
        assert "status 401" in refused.output
        done = bench("latency", "--openai", front.url, "--token-file", key, *words)
    assert done.exit_code == 0, done.output
    (point,) = json.loads(done.stdout)["points"]
    assert point["samples"] > 0
    assert point["errors"] == {}
    assert "nobodys" not in done.output


def test_a_load_as_a_share_of_what_is_reached(
    demo_server: TritonServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_run, "_CAPACITY_S", 0.2)
    done = bench(
        "load", "--url", demo_server.address, "--tower", "text", "--share", "0.5", "--json", *SHORT
    )
    assert done.exit_code == 0, done.output
    (point,) = json.loads(done.stdout)["points"]
    assert point["workload"]["share"] == 0.5
    assert point["figures"]["capacity_s"]["value"] > 0


@pytest.mark.parametrize("served", [False, True])
def test_stages(demo_server: TritonServer, demo_bundle: Bundle, served: bool) -> None:
    target = ("--url", demo_server.address) if served else ("--bundle", demo_bundle.path)
    done = bench("stages", *target, "--json", *SHORT)
    assert done.exit_code == 0, done.output
    stages = json.loads(done.stdout)["stages"]
    own = {"image": ["decode", "resize", "tower"], "text": ["tokenise", "fill up", "tower"]}
    for tower, found in stages.items():
        assert list(found) == (["prepare", "wire", "queue", "tower"] if served else own[tower])
    assert set(stages) == {"image", "text"}
    assert all(stages[tower]["tower"]["value"] > 0 for tower in stages)


def test_startup(demo_bundle: Bundle, tmp_path: Path) -> None:
    path = tmp_path / "card.json"
    done = bench("startup", "--bundle", demo_bundle.path, "--repeats", 1, "--out", path)
    assert done.exit_code == 0, done.output
    steps = read_bench_card(path).stages["startup"]
    assert list(steps) == ["import", "open", "first text", "first picture"]
    assert all(found.value > 0 for found in steps.values())


def test_what_is_kept_can_be_compared_with_a_recorded_card(
    fresh_card: Path, tmp_path: Path
) -> None:
    """Two machines: recorded on one with two cores, measured just now on one of them."""
    path = Path(__file__).parent / "golden" / "recorded_card.json"
    recorded, fresh = read_bench_card(path), read_bench_card(fresh_card)
    assert (recorded.machine.cores, fresh.machine.cores) == (2, 1)
    files = ("--html", tmp_path / "report.html", "--csv", tmp_path / "points.csv")
    done = bench("compare", path, fresh_card, *files)
    assert done.exit_code == 0, done.output
    assert (
        f"B was measured on another machine ({fresh.machine.cpu}, 1 cores) than A "
        f"({recorded.machine.cpu}, 2 cores)." in done.output
    )
    with (tmp_path / "points.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    # Every point of both, and the ratio of the second to the first.
    assert sorted((row["card"], row["tower"], row["batch"]) for row in rows) == [
        *product("AB", ("image", "text"), "18")
    ]
    for row in rows:
        assert float(row["items_s"]) > 0
        assert float(row["items_s_ratio"] or 1) > 0
        assert bool(row["items_s_ratio"]) == (row["card"] == "B")
    assert (tmp_path / "report.html").read_bytes().startswith(b"<!doctype html>")
    other = tmp_path / "other.json"
    card(kind="latency").write(other)
    refused = bench("compare", fresh_card, other)
    assert refused.exit_code == 1
    assert "space" in refused.output


def test_ctrl_c_keeps_what_was_measured(tmp_path: Path) -> None:
    path, mark = tmp_path / "card.json", tmp_path / "asked"
    command = [
        *(sys.executable, "-m", "cliprt", "bench", "latency", "--python", "bench_subjects:Marking"),
        *("--tower", "image", "--batch", "1,2", "--seconds", "60", "--warmup", "0"),
        *("--no-ceilings", "--out", str(path)),
    ]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(sys.path),
        "CLIPRT_TEST_MARK": str(mark),
    }
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    with process:
        try:
            until(lambda: mark.exists() or process.poll() is not None, 120)
            process.send_signal(signal.SIGINT)
            printed, told = process.communicate(timeout=120)
        finally:
            process.kill()
    assert process.returncode == 0, told
    assert "interrupted: this is what was measured until then" in printed
    found = read_bench_card(path)
    assert not found.complete
    (point,) = found.points
    assert point.samples > 0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["latency"], "name what to measure: --bundle, --url, --openai or --python"),
        (["latency", "--url", "a:1", "--openai", "b"], "name one thing to measure"),
        (["latency", "--ensemble"], "name one thing to measure"),
        (["latency", "--bundle", "nowhere"], "nowhere"),
        (["latency", "--batch", "1,x", "--url", "a:1"], "is not a list of numbers such as 1,8,64"),
        (["latency", "--batch", "0", "--url", "a:1"], "has a number that is not positive"),
        (["latency", "--python", "no.such:thing"], "--python no.such:thing: No module named"),
        (["throughput", "--url", "127.0.0.1:1"], "127.0.0.1:1"),
        (["startup"], "Missing option '--bundle'"),
    ],
)
def test_what_cannot_be_measured_is_refused(words: list[str], said: str) -> None:
    done = bench(*words)
    assert done.exit_code in (1, 2)
    assert said in done.output
    assert "Traceback" not in done.output
