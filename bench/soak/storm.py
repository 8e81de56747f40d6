"""What is done to the server: killed, its models' processes killed, models loaded anew."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass

from cliprt._sparing import needs_sparing
from soak.books import RIGHT, UNFORESEEN, Books
from soak.serving import Served

KILL, KILL_STUB, RELOAD = "kill the server", "kill a model's process", "load a model anew"

MODELS = ("clip_image", "clip_text", "clip_image_file", "clip_decode", "clip_tokenize", "clip")

# These have processes that are left alone later, so that something is old enough to be judged.
_LATER_MODELS = ("clip_text", "clip_image_file")

_LOOK_S = 0.2


@dataclass(frozen=True)
class Act:
    """Something that is done at a time.

    Attributes:
        at_s: when, in seconds since the run began.
        what: one of the three.
        model: whose, if it is not the whole server's.
    """

    at_s: float
    what: str
    model: str = ""

    def __str__(self) -> str:
        return f"{self.what}: {self.model}" if self.model else self.what


def plan(seconds: float, drawn: random.Random, *, rounds: int = 4) -> list[Act]:
    """What is done in a run.

    Until 45 % of it, ``rounds`` times each: a model is loaded anew, the process of one is killed,
    and the server itself. From 50 to 75 % models are loaded anew, always the same two. The last
    quarter, and the other models' processes the last half, are left alone, so that there are
    series which are long enough to be judged.
    """
    acts = []
    step = 0.4 / (3 * rounds)
    for number in range(3 * rounds):
        what = (RELOAD, KILL_STUB, KILL)[number % 3]
        model = "" if what == KILL else drawn.choice(MODELS)
        acts.append(Act(seconds * (0.05 + step * number), what, model))
    for number in range(rounds):
        model = _LATER_MODELS[number % 2]
        acts.append(Act(seconds * (0.5 + 0.25 * number / rounds), RELOAD, model))
    return acts


class Storm:
    """Does it, and waits each time until the server is healthy again.

    Attributes:
        done: acts that the server came through.
        crashes: ends of the tritonserver that nobody ordered.
        failure: why it was given up, or "".
    """

    def __init__(self, served: Served, books: Books, acts: Sequence[Act]) -> None:
        self._served, self._books, self._acts = served, books, list(acts)
        self.done: list[Act] = []
        self.crashes = 0
        self.failure = ""

    @property
    def over(self) -> bool:
        """Whether nothing is left to do."""
        return bool(self.failure) or not self._acts

    def run(self, over: threading.Event) -> None:
        """Does what is planned until it is over, and looks for crashes in between."""
        try:
            while not over.wait(_LOOK_S):
                if self._served.crashed():
                    self.crashes += 1
                    with self._books.disturbed("a crash", since_s=2 * _LOOK_S + 1):
                        self._served.wait_until_healthy()
                elif self._acts and time.monotonic() - self._books.begun >= self._acts[0].at_s:
                    act = self._acts[0]
                    self._do(act)
                    self._acts.pop(0)
                    self.done.append(act)
                    self._books.note(act.what, RIGHT)
        except Exception as error:  # noqa: BLE001 - a thread that ends in silence would be worse
            self.failure = f"{type(error).__name__}: {error}"
            self._books.note("recovery", UNFORESEEN, self.failure)
            over.set()

    def _do(self, act: Act) -> None:
        # Who is served by a model that is loaded anew must not notice.
        with self._books.disturbed(str(act), excuses=act.what != RELOAD):
            if act.what == KILL:
                self._served.kill_server()
            elif act.what == KILL_STUB:
                self._served.kill_stub(act.model)
            else:
                self._served.reload(act.model)
            self._served.wait_until_healthy()


def may_crash(version: str) -> bool:
    """Whether this Triton is known to crash when a client is killed in the middle of a call."""
    return needs_sparing(version)
