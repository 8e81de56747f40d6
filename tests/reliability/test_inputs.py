"""Sixty-four kinds of bad and odd input over every way in.

Behind each of them the product's own health check is green, good requests are answered as ever, and
good neighbours in the same batch are answered as without it. ``CLIPRT_TALLY=FILE`` writes how many
were tried and how many answered as promised.
"""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from cases import ROOT
from input_files import encoded
from input_strings import LYING, of_files, of_strings
from input_tensors import END, START, Ask, grpc_request, of_tokens
from input_texts import CONTEXT
from input_trials import TRIALS, Trial, not_tried
from input_world import LIMITS, SAME, WAYS, World
from patience import settled, until
from tritonclient.grpc import service_pb2
from wire import refusal, tensors_of

from cliprt import Bundle
from cliprt._server_health import check_server
from cliprt_triton import Policy, TritonServer, write_repository
from pictures import rgb


@pytest.fixture(scope="module")
def world(demo_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("inputs")
    # Requests to towers that come together wait for each other, so that good and bad ones share a
    # batch. Before the other models nothing waits; how they meet there: _Meeting.
    policy = Policy(max_queue_delay_us=5_000)
    write_repository(demo_bundle, folder / "repository", limits=LIMITS, policy=policy)
    with TritonServer(folder / "repository", http_port=0) as server:
        made = World(demo_bundle, server, folder)
        yield made
        made.close()


@pytest.fixture(scope="module")
def tally() -> Iterator[Counter[str]]:
    """Trials that ended as promised, by way."""
    counts: Counter[str] = Counter()
    yield counts
    if where := os.environ.get("CLIPRT_TALLY"):
        tried = Counter(trial.way for trial in TRIALS)
        rows = {way: {"tried": tried[way], "as promised": counts[way]} for way in WAYS}
        rows["all"] = {"tried": len(TRIALS), "as promised": sum(counts.values())}
        rows["kinds"] = {"tried": len({trial.number for trial in TRIALS})}
        Path(where).write_text(json.dumps(rows, indent=2) + "\n")


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("trial", TRIALS, ids=[trial.id for trial in TRIALS])
def test_input(trial: Trial, world: World, tally: Counter[str]) -> None:
    trial.run(world)
    world.still_right(trial.way)
    tally[trial.way] += 1


def test_the_server_is_healthy_behind_all_of_them(world: World) -> None:
    report = check_server(world.server.address, bundle=world.bundle, thorough=True)
    assert (report.status, report.problems()) == ("good", "")


@dataclass(frozen=True)
class _Meeting:
    """Requests of one item, of which one is bad, to a model that is busy when they come.

    Attributes:
        model: the one in which they meet.
        good: a good request; it is sent before the bad one, and again behind it.
        bad: the bad one, which that model refuses.
        said: what it says, as a pattern.
        full: a request that is a batch by itself, so that nobody joins it.
    """

    model: str
    good: Ask
    bad: Ask
    said: str
    full: Ask


def _long(length: int) -> bytes:
    return b"two red circles " * (length // 16)


MEETINGS = {
    "files": _Meeting(
        "clip_image_file",
        of_files(),
        of_files([b"no picture"]),
        "not an image in a supported format",
        of_files([encoded(rgb(600, 400))] * 64),
    ),
    "strings": _Meeting(
        "clip_tokenize",
        of_strings(),
        of_strings([b"a \xff b"]),
        "not valid UTF-8 at byte 2",
        of_strings([_long(5_000)] * 64),
    ),
    "the tower of texts": _Meeting(
        "clip_text",
        of_tokens(),
        of_tokens([[START, -1, END]]),
        "token ids must lie in 0 to",
        of_tokens(np.full((64, CONTEXT), 5)),
    ),
}


@pytest.mark.parametrize("name", MEETINGS)
def test_a_bad_request_costs_its_neighbours_in_the_same_batch_nothing(
    name: str, world: World
) -> None:
    """They come while the model works at full batches, and so go into one, as statistics tell."""
    meeting = MEETINGS[name]

    def met() -> bool:
        # Triton counts behind its answers.
        before = settled(lambda: _counts(world, meeting.model))
        busy, (first, bad, last) = _queued(world, meeting, meeting.bad)
        for good in (first, last):
            found = tensors_of(good.result())["embedding"]
            np.testing.assert_allclose(found, world.right_of(meeting.good), atol=SAME)
        code, text = refusal(bad.result)
        assert code is grpc.StatusCode.INVALID_ARGUMENT
        assert re.search(meeting.said, text), text
        for one in busy:
            one.result()
        sent = len(busy) + 3
        until(lambda: (_counts(world, meeting.model) - before)["requests"] == sent)
        # None of the others is of three items.
        return (_counts(world, meeting.model) - before)["executions of 3"] == 1

    # A machine may work them off as fast as they come; then they are sent again.
    until(met)


@pytest.mark.parametrize("name", ["files", "strings"])
def test_a_string_that_lies_of_its_length_is_refused_with_its_whole_batch(
    name: str, world: World
) -> None:
    """Triton 24.10 reads the strings of a batch together, before any model gets them.

    What is promised of neighbours is not true of these; where that changes, the documentation may.
    """
    meeting = MEETINGS[name]
    (tensor,) = meeting.bad.inputs
    lying = replace(meeting.bad, inputs=(replace(tensor, data=LYING),))

    def met() -> bool:
        busy, three = _queued(world, meeting, lying)
        told = [refusal(one.result) for one in three]
        for one in busy:
            one.result()
        code, text = told[1]
        assert code is grpc.StatusCode.INVALID_ARGUMENT
        assert "expecting string of length 5 but only 2 bytes available" in text
        return told == [told[1]] * 3

    until(met)
    found = tensors_of(_sent(world, meeting.good).result())["embedding"]
    np.testing.assert_allclose(found, world.right_of(meeting.good), atol=SAME)


def _queued(world: World, meeting: _Meeting, bad: Ask) -> tuple[list[Any], list[Any]]:
    """Requests that keep the model busy, and good, bad and good ones behind them."""
    busy = [_sent(world, meeting.full) for _ in range(8)]
    return busy, [_sent(world, each) for each in (meeting.good, bad, meeting.good)]


def _sent(world: World, asked: Ask) -> Any:
    return world.stub.ModelInfer.future(grpc_request(asked), timeout=60)


def _counts(world: World, model: str) -> Counter[str]:
    """What a model did: requests that ended, and executions of three items together."""
    asked = service_pb2.ModelStatisticsRequest(name=model)
    (found,) = world.stub.ModelStatistics(asked, timeout=60).model_stats
    # Those that a model of Python refuses count as answered in Triton 24.10.
    requests = found.inference_stats.success.count + found.inference_stats.fail.count
    sizes = {each.batch_size: each.compute_infer.count for each in found.batch_stats}
    return Counter({"requests": requests, "executions of 3": sizes.get(3, 0)})


def test_every_kind_is_tried_on_every_way_in_or_says_why_not() -> None:
    tried = {(trial.number, trial.way) for trial in TRIALS}
    assert {number for number, _ in tried} == set(range(1, 65))
    for number in range(1, 65):
        for way in WAYS:
            excuse = not_tried(number, way)
            assert bool(excuse) != ((number, way) in tried), f"{number} on {way}: {excuse}"


def test_what_is_said_to_hold_the_others_is_there() -> None:
    said = " ".join(not_tried(number, way) for number in range(1, 65) for way in WAYS)
    named = set(re.findall(r"(tests/[\w/]+\.py)(?:::(\w+))?", said))
    assert named
    for path, test in named:
        content = (ROOT / path).read_text(encoding="utf-8")
        assert test
        assert re.search(rf"^def {test}\(", content, re.MULTILINE), f"{path}::{test}"
