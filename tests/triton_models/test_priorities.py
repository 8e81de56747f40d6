"""Bulk requests have a queue of their own, in the real Triton core."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from tritonclient.grpc import InferenceServerClient, InferInput
from tritonclient.utils import InferenceServerException

from cliprt import Bundle
from cliprt_triton import Policy, TritonServer, write_repository
from cliprt_triton._policy import BULK, INTERACTIVE

REQUESTS = 24


def test_a_full_bulk_queue_refuses_nobody_else(small_bundle: Bundle, tmp_path: Path) -> None:
    policy = Policy(max_batch_size=1, max_queue_size=REQUESTS, max_bulk_queue_size=1)
    repository = write_repository(small_bundle, tmp_path / "repository", policy=policy)
    tensor = InferInput("tokens", [1, 77], "INT32")
    tensor.set_data_from_numpy(np.full((1, 77), 49407, np.int32))
    with (
        TritonServer(repository) as server,
        InferenceServerClient(server.address) as triton,
        ThreadPoolExecutor(REQUESTS) as pool,
    ):

        def refusal(priority: int) -> str | None:
            try:
                triton.infer("clip_text", [tensor], priority=priority)
            except InferenceServerException as error:
                return str(error.message())
            return None

        # 0 is a request that names no priority.
        priorities = [BULK, 0, BULK, INTERACTIVE] * (REQUESTS // 2)
        refusals = list(pool.map(refusal, priorities))
    by_bulk = [said for each, said in zip(priorities, refusals, strict=True) if each == BULK]
    others = [said for each, said in zip(priorities, refusals, strict=True) if each != BULK]
    refused = [said for said in by_bulk if said is not None]
    assert refused
    assert all("Exceeds maximum queue size" in said for said in refused)
    assert others == [None] * len(others)
