"""What bad inputs are sent to: every way in, one server behind them, and what is right."""

from __future__ import annotations

import json
import re
import tempfile
import urllib.request
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from batch_runs import run
from cases import demo_pictures
from http_front import Front, ask, running_front
from input_files import FILES
from input_tensors import of_pixels, of_tokens, over_grpc, over_http
from input_texts import NO_TEXTS, TEXTS
from numpy.typing import NDArray
from ways import (
    Awaiting,
    Blocking,
    EnsembleOverGrpc,
    EnsembleOverHttp,
    InProcess,
    OpenAi,
    Way,
)
from wire import stub_of

from cliprt import Bundle, InvalidInput, Limits
from cliprt_engines import LocalClip
from cliprt_triton import TritonServer

# Narrow, so that what goes beyond them is small.
LIMITS = Limits(max_image_bytes=3 * 2**20, max_text_characters=10_000)

PYTHON = ("LocalClip", "Client", "AsyncClient")
ENSEMBLES = ("ensemble gRPC", "ensemble HTTP")
TOWERS = ("tower gRPC", "tower HTTP")
WAYS = (*PYTHON, *ENSEMBLES, "OpenAI", "batch", *TOWERS)

SAME = 1e-6
"""Most that a number may differ where an item is computed in another batch: `cliprt health` calls
answers of two batches the same up to this."""

# Addresses of objects, stack traces and places of the program: what no caller may learn. Paths that
# he named himself he knows.
_PRIVATE = re.compile(r"0x[0-9a-f]{6,}|Traceback|site-packages|\.py\b")

GOOD_TEXTS = ("a red circle", "two large blue stars on the left")


@dataclass(frozen=True)
class Job:
    """What a batch job left: of each item its embedding, or why there is none."""

    embeddings: dict[int, NDArray[np.float32]]
    reasons: dict[int, str]


class World:
    """Every way in, and what is right."""

    def __init__(self, bundle: Bundle, server: TritonServer, folder: Path) -> None:
        """Opens everything; ``close`` ends it."""
        self.bundle, self.server, self.folder = bundle, server, folder
        self.host = str(server.http_url).removeprefix("http://")
        self._open = ExitStack()
        self.reference = self._open.enter_context(LocalClip(bundle, limits=LIMITS))
        self.front: Front = self._open.enter_context(running_front(server.address, limits=LIMITS))
        self.stub = self._open.enter_context(stub_of(server.address))
        self._pool = self._open.enter_context(ThreadPoolExecutor(8))
        self.ways: dict[str, Any] = {
            "LocalClip": InProcess(bundle, LIMITS),
            "Client": Blocking(server.address, LIMITS),
            "AsyncClient": Awaiting(server.address, LIMITS),
            "ensemble gRPC": EnsembleOverGrpc(server.address),
            "ensemble HTTP": EnsembleOverHttp(str(server.http_url)),
            "OpenAI": OpenAi(self.front.url),
        }
        # The first is large, so that it is still decoded when the others come.
        self.files = [path.read_bytes() for path in demo_pictures()[:2]]
        self.good_images = self.reference.encode_image(self.files)
        self.good_texts = self.reference.encode_text(GOOD_TEXTS)
        self._alone: dict[tuple[str, str], NDArray[np.float32]] = {}

    def close(self) -> None:
        """Ends everything but the server."""
        for way in self.ways.values():
            way.close()
        self._open.close()

    def new_folder(self) -> Path:
        """A folder of its own, still empty."""
        return Path(tempfile.mkdtemp(dir=self.folder))

    def tower(self, way: str, asked: Any) -> NDArray[np.float32]:
        """Sends tensors to a tower."""
        if way == "tower gRPC":
            return over_grpc(self.stub, asked)
        return over_http(self.host, asked)

    def at_once(self, calls: Sequence[Callable[[], Any]]) -> list[Any]:
        """Results of calls that are made at the same time, or their errors."""

        def outcome(call: Callable[[], Any]) -> Any:
            try:
                return call()
            except Exception as error:  # noqa: BLE001 - told to the caller
                return error

        return list(self._pool.map(outcome, calls))

    def check_neighbours(self, name: str, what: str, bad: Any) -> None:
        """Good items before and behind a bad one are answered as without it.

        Python's callers leave it out of the same call, bit for bit; others send three requests at
        once, which meet in the server's batches.
        """
        way: Way = self.ways[name]
        call = way.images if what == "images" else way.texts
        good = self.files if what == "images" else list(GOOD_TEXTS)
        right = self.good_images if what == "images" else self.good_texts
        if name in PYTHON:
            if (name, what) not in self._alone:
                self._alone[name, what] = call(good)
            found = call([good[0], bad, good[1]], on_error="skip")  # type: ignore[call-arg]
            assert np.array_equal(found, self._alone[name, what])
            return
        items = (good[0], bad, good[1])
        first, refused, last = self.at_once([lambda item=item: call([item]) for item in items])
        assert isinstance(refused, InvalidInput), refused
        np.testing.assert_allclose(np.concatenate([first, last]), right, atol=SAME)

    def still_right(self, name: str) -> None:
        """The product's own health check is green, and good requests are answered as ever."""
        if name == "OpenAI":
            assert ask(self.front, "GET", "/v1/health/ready").status == 200
        if name not in ("LocalClip", "batch"):
            url = f"http://{self.host}/v2/models/clip_health/infer"
            probe = urllib.request.Request(url, data=b"", method="POST")
            with urllib.request.urlopen(probe, timeout=60) as answer:
                assert answer.status == 200
        if name in TOWERS:
            for good in (of_pixels(), of_tokens()):
                found = self.tower(name, good)
                np.testing.assert_allclose(found, self.right_of(good), atol=SAME)
        elif name != "batch":
            way = self.ways[name]
            np.testing.assert_allclose(way.images(self.files), self.good_images, atol=SAME)
            np.testing.assert_allclose(way.texts(GOOD_TEXTS), self.good_texts, atol=SAME)

    def right_of(self, good: Any) -> NDArray[np.float32]:
        """What a tower answers to a good request, asked alone before anything bad was."""
        key = (good.model, good.name)
        if key not in self._alone:
            self._alone[key] = over_grpc(self.stub, good)
        return self._alone[key]

    @cached_property
    def picture_job(self) -> Job:
        """``cliprt embed`` over all encoded pictures, each between two good ones."""
        source = self.folder / "pictures"
        source.mkdir()
        for index, data in enumerate(_between(self.files, [file.data for _, file in FILES])):
            (source / f"{index:05d}.jpg").write_bytes(data)
        return self._job(source, "image")

    @cached_property
    def text_job(self) -> Job:
        """The same over all texts, and over what is none."""
        given = [json.dumps(text.value).encode() for _, text in TEXTS]
        given += [content for _, content in NO_TEXTS.values()]
        good = [json.dumps(text).encode() for text in GOOD_TEXTS]
        lines = [b'{"caption": %s}\n' % text for text in _between(good, given)]
        source = self.folder / "texts.jsonl"
        source.write_bytes(b"".join(lines))
        return self._job(source, "text")

    def _job(self, source: Path, what: str) -> Job:
        out = self.folder / f"{what}-embeddings"
        done = run(
            "embed", source, "--out", out, "--bundle", self.bundle.path, "--what", what,
            "--max-image-bytes", LIMITS.max_image_bytes,
            "--max-text-characters", LIMITS.max_text_characters,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        told = [json.loads(line) for line in (out / "failures.jsonl").read_text().splitlines()]
        reasons = {int(one["row"]): str(one["reason"]) for one in told}
        kind = {"image": "img", "text": "text"}[what]
        found = np.load(out / f"{kind}_emb" / f"{kind}_emb_000000.npy")
        rows = [row for row in range(len(found) + len(reasons)) if row not in reasons]
        return Job(dict(zip(rows, found, strict=True)), reasons)


def _between(good: Sequence[bytes], others: Sequence[bytes]) -> list[bytes]:
    """Every item behind a good one and before another."""
    return [each for item in others for each in (good[0], item, good[1])]


def refused(call: Callable[[], Any], said: str, *, index: int | None = 1) -> None:
    """A call fails, says why and where, and nothing that is private."""
    with pytest.raises(InvalidInput) as caught:
        call()
    assert re.search(said, caught.value.reason), caught.value.reason
    assert caught.value.index == index
    plain_words(str(caught.value))


def plain_words(text: str) -> None:
    """An error tells nothing of the inside."""
    assert not _PRIVATE.search(text), text
    assert 10 < len(text) < 1_000
