"""Known answers of the live towers, inside Triton's Python backend.

A request is a probe: it is answered with a report, or with an error where something is wrong. The
towers are asked through the server itself, so what is judged is what callers get. Few probes cost
anything: a report holds for a while, and one check at a time is under way.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from cliprt._bundle import GOLDEN
from cliprt._errors import CliprtError, Overloaded, ServerError
from cliprt._health import LiveTower, Question, Report, check_towers, report_of
from cliprt._known import Known
from cliprt._names import PIXELS, TOKENS, TOO_LATE_TEXT, UNHEALTHY_TEXT
from cliprt._standing_check import StandingCheck
from cliprt_triton._health import HEALTH_PARAMETER, Asked
from cliprt_triton.models._backend import (
    Setup,
    answer,
    ask_tower,
    failure,
    pb_utils,
    without_places,
)

_QUEUED = 0.25
"""Part of the patience that a question may wait for a tower's queue or in it; then it is busy."""

_AGAIN_S = 0.01
"""A full queue is asked again after so long: whenever a batch begins there is room for a moment."""

_AT_ONCE = 4


class TritonPythonModel:
    """Answers probes."""

    def initialize(self, args: Mapping[str, str]) -> None:
        """Reads what is to be asked, and the known answers."""
        setup = Setup(args)
        asked = msgspec.json.decode(setup.parameters[HEALTH_PARAMETER], type=Asked)
        golden = (setup.folder / GOLDEN).read_bytes()
        self._asked = asked
        self._version = setup.version
        self._towers = [
            LiveTower(
                name=name,
                known=Known.read(golden, name, origin=asked.model),
                bar=tower.bar,
                max_batch=tower.max_batch,
                text=tower.text,
                lengths=tower.lengths,
            )
            for name, tower in asked.towers.items()
        ]
        self._under_way: list[str] = []
        self._moved = dict.fromkeys(asked.towers, time.monotonic())
        self._pool = ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="cliprt-ask")
        self._standing = StandingCheck(
            self._check,
            model=asked.model,
            patience_s=asked.patience_s,
            waits_for=self._waits_for,
            seen_at_work=lambda: min(self._moved.values()),
        )

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Answers probes; one report serves all that came together."""
        try:
            report = self._standing.report()
            return [_response(report) for _ in requests]
        except Exception as error:  # noqa: BLE001 - the probe fails; Triton would tell it where
            return [failure(error) for _ in requests]

    def finalize(self) -> None:
        """Lets a check under way end."""
        self._standing.close()
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _check(self) -> Report:
        begun = time.perf_counter()
        checks = check_towers(self._towers, self._ask, thorough=False)
        took_s = time.perf_counter() - begun
        return report_of(checks, model=self._asked.model, space=self._asked.space, took_s=took_s)

    def _waits_for(self) -> str:
        return " and ".join(sorted(set(self._under_way))) or "nothing"

    def _ask(self, questions: Sequence[Question]) -> list[NDArray[Any] | CliprtError]:
        return list(self._pool.map(self._ask_one, questions))

    def _ask_one(self, question: Question) -> NDArray[Any] | CliprtError:
        self._under_way.append(question.tower)
        try:
            return self._answer(question)
        except CliprtError as error:
            return error
        except Exception as error:  # noqa: BLE001 - a tower that cannot be asked is not healthy
            return ServerError(f"the tower cannot be asked: {without_places(str(error))}")
        finally:
            self._under_way.remove(question.tower)

    def _answer(self, question: Question) -> NDArray[Any]:
        """What a tower answers, however often its queue was full before."""
        name = PIXELS if question.tower == "image" else TOKENS
        model = self._asked.towers[question.tower].model
        ends = time.monotonic() + _QUEUED * self._asked.patience_s
        while True:
            timeout_us = max(1, int((ends - time.monotonic()) * 1e6))
            try:
                found = ask_tower(model, self._version, name, question.batch, timeout_us=timeout_us)
            except Overloaded as error:
                # Triton looks for those who waited too long when a batch ends, and only then.
                if TOO_LATE_TEXT in str(error).lower():
                    self._moved[question.tower] = time.monotonic()
                if time.monotonic() + _AGAIN_S > ends:
                    raise
                time.sleep(_AGAIN_S)
            else:
                self._moved[question.tower] = time.monotonic()
                return found


def _response(report: Report) -> Any:
    if not report.healthy:
        error = pb_utils().TritonError(
            f"{report.model} {UNHEALTHY_TEXT}{report.problems()}",
            pb_utils().TritonError.UNAVAILABLE,
        )
        return pb_utils().InferenceResponse(error=error)
    content = np.array([msgspec.json.encode(report)], dtype=np.object_)
    return answer(healthy=np.ones(1, dtype=np.uint8), report=content)
