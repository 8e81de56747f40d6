"""A stand-in for a model that is measured: answers zeros, and keeps what it was asked."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from bench_cards import target
from numpy.typing import NDArray

from cliprt import Bundle
from cliprt._texts import TextTokenizer
from cliprt_bench._bench_card import Model, Target, Tower

DIM = 4


class Counted:
    """Answers zeros after a moment."""

    model = Model(name="zeros", space="0" * 16, dim=DIM)
    towers: tuple[Tower, ...] = ("image", "text")
    process_ids: tuple[int, ...] = ()
    bundle: Bundle | None = None

    def __init__(self, pause_s: float = 0.002) -> None:
        self.target: Target = target()
        self.asked: list[Sequence[object]] = []
        self.at_once = self.most = 0
        self.error: Exception | None = None
        self._pause_s, self._lock = pause_s, threading.Lock()

    def images(self, files: Sequence[bytes]) -> NDArray[np.float32]:
        return self._answer(files)

    def texts(self, strings: Sequence[str]) -> NDArray[np.float32]:
        return self._answer(strings)

    def tokenizer(self) -> TextTokenizer | None:
        return None

    def close(self) -> None:
        pass

    def _answer(self, items: Sequence[object]) -> NDArray[np.float32]:
        with self._lock:
            self.asked.append(items)
            self.at_once += 1
            self.most = max(self.most, self.at_once)
        time.sleep(self._pause_s)
        with self._lock:
            self.at_once -= 1
        if self.error is not None and len(self.asked) > 3:
            raise self.error
        return np.zeros((len(items), DIM), np.float32)


class Elsewhere(Counted):
    """Says that it is on another machine."""

    def __init__(self) -> None:
        super().__init__()
        self.target = target(process="remote")


class Marking(Counted):
    """Makes a file, which the environment names, long after the few requests of warm-ups."""

    def _answer(self, items: Sequence[object]) -> NDArray[np.float32]:
        if len(self.asked) >= 100:
            Path(os.environ["CLIPRT_TEST_MARK"]).touch()
        return super()._answer(items)
