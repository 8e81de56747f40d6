"""Sixty-four kinds of bad and odd input over every way in.

Behind each of them the product's own health check is green, good requests are answered as ever, and
good neighbours in the same batch are answered as without it. ``CLIPRT_TALLY=FILE`` writes how many
were tried and how many answered as promised.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from input_trials import TRIALS, Trial, not_tried
from input_world import LIMITS, WAYS, World
from tritonclient.grpc import service_pb2
from wire import stub_of

from cliprt import Bundle
from cliprt._server_health import check_server
from cliprt_triton import Policy, TritonServer, write_repository


@pytest.fixture(scope="module")
def world(demo_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("inputs")
    # Requests that come together wait for each other, so that good and bad ones share a batch.
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


@pytest.mark.parametrize("model", ["clip_image_file", "clip_tokenize", "clip_image", "clip_text"])
def test_good_and_bad_requests_shared_batches(model: str, world: World) -> None:
    """What says that neighbours were not harmed would say little if they never met."""
    with stub_of(world.server.address) as stub:
        answer = stub.ModelStatistics(service_pb2.ModelStatisticsRequest(name=model), timeout=60)
    (counts,) = answer.model_stats
    assert counts.execution_count < counts.inference_count


def test_every_kind_is_tried_on_every_way_in_or_says_why_not() -> None:
    tried = {(trial.number, trial.way) for trial in TRIALS}
    for number in range(1, 65):
        for way in WAYS:
            if (number, way) not in tried:
                assert not_tried(number, way), f"{number} on {way}"
