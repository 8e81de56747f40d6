"""What Triton counts for each model, as a value."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any


@dataclass(frozen=True)
class ModelStatistics:
    """Counts and times of a model since it was loaded, or between two moments.

    Subtract an earlier value from a later one to see what lies between.

    Attributes:
        requests: requests that were answered.
        failures: requests that failed, were refused or cancelled.
        inferences: items of the requests that were computed.
        executions: how often the model ran; inferences / executions is the mean batch.
        queue_ns: time that requests waited for their turn, in nanoseconds, summed over requests,
            like all times here.
        compute_input_ns: time to put inputs in place.
        compute_infer_ns: time that the model ran; a batch counts for each of its requests.
        compute_output_ns: time to hand outputs over.
        cache_hits: requests answered by the response cache.
        cache_misses: requests that the response cache did not know.
    """

    requests: int = 0
    failures: int = 0
    inferences: int = 0
    executions: int = 0
    queue_ns: int = 0
    compute_input_ns: int = 0
    compute_infer_ns: int = 0
    compute_output_ns: int = 0
    cache_hits: int = 0
    cache_misses: int = 0

    def __add__(self, other: ModelStatistics) -> ModelStatistics:
        return ModelStatistics(
            **{each.name: getattr(self, each.name) + getattr(other, each.name) for each in _FIELDS}
        )

    def __sub__(self, earlier: ModelStatistics) -> ModelStatistics:
        """What happened since an earlier moment.

        Raises:
            ValueError: a count fell, so the server was started anew or another one answered.
        """
        counts = {
            each.name: getattr(self, each.name) - getattr(earlier, each.name) for each in _FIELDS
        }
        if min(counts.values()) < 0:
            raise ValueError(
                "the server's counts fell: it was started anew in between, or another one answered"
            )
        return ModelStatistics(**counts)


_FIELDS = fields(ModelStatistics)


def read_statistics(response: Any) -> ModelStatistics:
    """The sum over all versions of a model in a ``ModelStatisticsResponse``."""
    return sum(map(_read_one, response.model_stats), ModelStatistics())


def _read_one(found: Any) -> ModelStatistics:
    counted = found.inference_stats
    return ModelStatistics(
        requests=counted.success.count,
        failures=counted.fail.count,
        inferences=found.inference_count,
        executions=found.execution_count,
        queue_ns=counted.queue.ns,
        compute_input_ns=counted.compute_input.ns,
        compute_infer_ns=counted.compute_infer.ns,
        compute_output_ns=counted.compute_output.ns,
        cache_hits=counted.cache_hit.count,
        cache_misses=counted.cache_miss.count,
    )
