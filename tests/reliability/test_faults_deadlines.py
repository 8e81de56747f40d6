"""Requests that find no place, come too late, or are given up at every stage of their way."""

from __future__ import annotations

import re
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from faults import LIMIT_S, hasty, known_answer, models_of, supervised
from patience import until
from wire import refusal, request_of, stub_of
from wire_models import HOLD, ONE, keep_busy, say, waiting, write_wire_repository

from cliprt import ClosedError, DeadlineExceeded
from cliprt._grpc import TritonChannel
from cliprt_triton import TritonServer

# The same work twice, one after the other.
STEPS = """
name: "steps"
platform: "ensemble"
max_batch_size: 1
input [{ name: "value" data_type: TYPE_UINT8 dims: [-1] }]
output [{ name: "last" data_type: TYPE_UINT8 dims: [-1] }]
ensemble_scheduling { step [
  {
    model_name: "slow" model_version: -1
    input_map { key: "value" value: "value" }
    output_map { key: "value" value: "between" }
  },
  {
    model_name: "echo" model_version: -1
    input_map { key: "value" value: "between" }
    output_map { key: "value" value: "last" }
  }
] }
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TritonServer]:
    folder = tmp_path_factory.mktemp("deadlines") / "models"
    repository = write_wire_repository(folder, slow_s=0)
    (repository / "steps" / "1").mkdir(parents=True)
    (repository / "steps" / "config.pbtxt").write_text(STEPS)
    with supervised(repository) as server:
        yield server


@pytest.fixture
def channel(server: TritonServer) -> Iterator[TritonChannel]:
    channel = hasty(server.address)
    known_answer(channel)
    models = models_of(server)
    yield channel
    # The queue is empty, and as long as ever.
    until(lambda: waiting(server, "slow") == 0)
    pending = [channel.infer("slow", ONE, "value", LIMIT_S) for _ in range(4)]
    assert all((each.result() == ONE["value"]).all() for each in pending)
    channel.close()
    assert models_of(server) == models


def test_a_deadline_does_not_wait_for_the_batch_before_and_the_work_is_not_begun(
    channel: TritonChannel, tmp_path: Path
) -> None:
    begun = keep_busy(channel, busy := tmp_path / "busy")
    late = [
        channel.infer("slow", say(f"{HOLD}{tmp_path}/late{number}"), "value", 0.05)
        for number in range(4)
    ]
    for each in late:
        with pytest.raises(DeadlineExceeded, match=r"did not answer within 0\.05 s"):
            each.result()
    # Triton itself looks at its queue when the batch has ended; the callers know already.
    assert not begun.done()
    # The client lets the server have them for a tenth of a second more.
    time.sleep(0.5)
    busy.unlink()
    begun.result()
    known_answer(channel, "slow")
    assert not [*tmp_path.iterdir()]


def failures(server: TritonServer, model: str) -> int:
    """Requests of a model that failed for any reason, as Triton counts them."""
    with urllib.request.urlopen(server.metrics_url, timeout=20) as answer:
        text = answer.read().decode()
    name = rf'nv_inference_request_failure\{{model="{model}",.*\}}'
    return sum(map(int, re.findall(rf"^{name} (\d+)$", text, re.MULTILINE)))


def test_a_full_queue_inside_an_ensemble_is_told_and_counted_for_the_ensemble(
    channel: TritonChannel, server: TritonServer, tmp_path: Path
) -> None:
    begun = keep_busy(channel, busy := tmp_path / "busy")
    queued = [channel.infer("slow", ONE, "value", LIMIT_S) for _ in range(4)]
    until(lambda: waiting(server, "slow") == 4)
    ensemble, model = failures(server, "steps"), failures(server, "slow")
    with stub_of(server.address) as stub:
        for _ in range(3):
            call = stub.ModelInfer.future(request_of("steps", ONE), timeout=LIMIT_S)
            code, words = refusal(call.result)
            assert code == grpc.StatusCode.UNAVAILABLE, words
            assert "Exceeds maximum queue size" in words
    # Triton 24.10 counts each of them twice.
    until(lambda: failures(server, "steps") >= ensemble + 3)
    # And not one of them for the model whose queue was full, though it was that one's refusal.
    assert failures(server, "slow") in (model, model + 3)
    assert failures(server, "echo") == 0
    assert not begun.done()
    busy.unlink()
    begun.result()
    assert all((each.result() == ONE["value"]).all() for each in queued)


def test_what_is_cancelled_in_the_queue_is_told_at_once(
    channel: TritonChannel, server: TritonServer, tmp_path: Path
) -> None:
    begun = keep_busy(channel, busy := tmp_path / "busy")
    queued = [channel.infer("slow", ONE, "value", LIMIT_S) for _ in range(4)]
    until(lambda: waiting(server, "slow") == 4)
    for each in queued:
        each.cancel()
        with pytest.raises(ClosedError, match="cancelled before it was answered"):
            each.result()
    assert not begun.done()
    busy.unlink()
    begun.result()


def test_what_is_cancelled_while_it_runs_ends_without_harm(
    channel: TritonChannel, tmp_path: Path
) -> None:
    begun = keep_busy(channel, busy := tmp_path / "busy")
    behind = channel.infer("slow", ONE, "value", LIMIT_S)
    begun.cancel()
    with pytest.raises(ClosedError, match="cancelled before it was answered"):
        begun.result()
    assert not behind.done()
    busy.unlink()
    assert (behind.result() == ONE["value"]).all()


def test_what_was_answered_cannot_be_cancelled(channel: TritonChannel) -> None:
    pending = channel.infer("slow", ONE, "value", LIMIT_S)
    assert (pending.result() == ONE["value"]).all()
    pending.cancel()
    assert (pending.result() == ONE["value"]).all()


def test_what_is_cancelled_between_the_steps_of_an_ensemble_frees_its_place(
    channel: TritonChannel, server: TritonServer, tmp_path: Path
) -> None:
    """Asked without a client, because towards this Triton clients do not cancel."""
    file = tmp_path / "held"
    with stub_of(server.address) as stub:
        call = stub.ModelInfer.future(request_of("steps", say(f"{HOLD}{file}")), timeout=LIMIT_S)
        until(file.exists)
        call.cancel()
        with pytest.raises(grpc.FutureCancelledError):
            call.result()
        file.unlink()
        known_answer(channel, "slow")
        again = stub.ModelInfer.future(request_of("steps", ONE), timeout=LIMIT_S)
        while not again.done():
            # Where the second step is begun all the same, it ends as well.
            file.unlink(missing_ok=True)
            time.sleep(0.01)
        assert refusal(again.result) == (grpc.StatusCode.OK, "")
