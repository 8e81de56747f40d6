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
from input_strings import PICTURE, of_files, of_strings, paired
from input_strings import WORDS as STRING
from input_tensors import ONE, WORDS, Ask, of_pixels, of_tokens, over_grpc, over_http
from input_texts import NO_TEXTS, TEXTS
from numpy.typing import NDArray
from ways import (
    Awaiting,
    Blocking,
    EnsembleOverGrpc,
    EnsembleOverHttp,
    InProcess,
    OpenAi,
    PairsOverGrpc,
    Way,
)
from wire import stub_of

from cliprt import Bundle, InvalidInput, Limits
from cliprt_batch._manifest import read_manifest
from cliprt_engines import LocalClip, OnnxTower
from cliprt_triton import TritonServer

# Narrow, so that what goes beyond them is small.
LIMITS = Limits(max_image_bytes=3 * 2**20, max_text_characters=10_000)

PYTHON = ("LocalClip", "Client", "AsyncClient")
ENSEMBLES = ("ensemble gRPC", "ensemble HTTP")
PAIRS = "pairs gRPC"
TOWERS = ("tower gRPC", "tower HTTP")
ONLINE = (*PYTHON, *ENSEMBLES, PAIRS, "OpenAI")
"""Those that take files and strings and answer at once."""

WAYS = (*ONLINE, "batch", *TOWERS)

SAME = 1e-6
"""Most that a number may differ where an item is computed in another batch: `cliprt health` calls
answers of two batches the same up to this."""

# Addresses of objects, stack traces and places of the program: what no caller may learn.
_PRIVATE = re.compile(r"0x[0-9a-f]{6,}|Traceback|site-packages|\.py\b")

# Nor may he learn from a server what lies on its disk, and who talks to whom. In his own process he
# named the paths himself.
_OF_THE_SERVER = re.compile(r"/(tmp|home|root|usr|opt|proc|dev|var)/|\d+(\.\d+){3}(:\d+)?")

GOOD_TEXTS = ("a red circle", "two large blue stars on the left")


@dataclass(frozen=True)
class Job:
    """What a batch job left: of each item its embedding, or why there is none."""

    embeddings: dict[int, NDArray[np.float32]]
    reasons: dict[int, str]

    def check_good(self, right: NDArray[np.float32]) -> None:
        """The rows before and behind each bad one have the embeddings of the two good items."""
        rows = range(len(self.embeddings) + len(self.reasons))
        for place, expected in zip((0, 2), right, strict=True):
            found = np.stack([self.embeddings[row] for row in rows[place::3]])
            np.testing.assert_allclose(found, np.tile(expected, (len(found), 1)), atol=SAME)


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
        # The first is large, so that it is still decoded when the others come.
        self.files = [path.read_bytes() for path in demo_pictures()[:2]]
        self.ways: dict[str, Any] = {
            "LocalClip": InProcess(bundle, LIMITS),
            "Client": Blocking(server.address, LIMITS),
            "AsyncClient": Awaiting(server.address, LIMITS),
            "ensemble gRPC": EnsembleOverGrpc(server.address),
            "ensemble HTTP": EnsembleOverHttp(str(server.http_url)),
            PAIRS: PairsOverGrpc(server.address, image=self.files[1], text=GOOD_TEXTS[0]),
            "OpenAI": OpenAi(self.front.url),
        }
        self.good_images = self.reference.encode_image(self.files)
        self.good_texts = self.reference.encode_text(GOOD_TEXTS)
        self._alone: dict[tuple[str, str], NDArray[np.float32]] = {}
        picture = self.reference.encode_image([PICTURE])
        text = self.reference.encode_text([STRING.decode()])
        # Computed in this process, so that no bad request can have come before.
        answers = [
            (of_pixels(), _in_process(bundle, "image", ONE)),
            (of_tokens(), _in_process(bundle, "text", WORDS)),
            (of_files(), picture),
            (paired(of_files()), picture),
            (of_strings(), text),
            (paired(of_strings()), text),
        ]
        self._answers = {(good.model, good.answer): right for good, right in answers}

    def close(self) -> None:
        """Ends everything but the server."""
        for way in self.ways.values():
            way.close()
        self._open.close()

    def new_folder(self) -> Path:
        """A folder of its own, still empty."""
        return Path(tempfile.mkdtemp(dir=self.folder))

    def send(self, way: str, asked: Ask) -> NDArray[np.float32]:
        """Sends tensors, by the protocol of a way in."""
        if way.endswith("gRPC"):
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
        once, which may meet in the server's batches (in test_inputs.py a test makes them meet).
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
        plain_words(str(refused), name)
        np.testing.assert_allclose(np.concatenate([first, last]), right, atol=SAME)

    def still_right(self, name: str) -> None:
        """The product's own health check is green, and good requests are answered as ever."""
        if name == "batch":
            # Of the jobs that were run until now; each has ended.
            if "picture_job" in vars(self):
                self.picture_job.check_good(self.good_images)
            if "text_job" in vars(self):
                self.text_job.check_good(self.good_texts)
            return
        if name == "OpenAI":
            assert ask(self.front, "GET", "/v1/health/ready").status == 200
        if name != "LocalClip":
            url = f"http://{self.host}/v2/models/clip_health/infer"
            probe = urllib.request.Request(url, data=b"", method="POST")
            with urllib.request.urlopen(probe, timeout=60) as answer:
                assert answer.status == 200
        if name in TOWERS:
            for good in (of_pixels(), of_tokens()):
                found = self.send(name, good)
                np.testing.assert_allclose(found, self.right_of(good), atol=SAME)
        else:
            way = self.ways[name]
            np.testing.assert_allclose(way.images(self.files), self.good_images, atol=SAME)
            np.testing.assert_allclose(way.texts(GOOD_TEXTS), self.good_texts, atol=SAME)

    def right_of(self, good: Ask) -> NDArray[np.float32]:
        """What a model answers to its good request."""
        return self._answers[good.model, good.answer]

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
        read_manifest(out).check(out)
        told = [json.loads(line) for line in (out / "failures.jsonl").read_text().splitlines()]
        reasons = {int(one["row"]): str(one["reason"]) for one in told}
        kind = {"image": "img", "text": "text"}[what]
        found = np.load(out / f"{kind}_emb" / f"{kind}_emb_000000.npy")
        rows = [row for row in range(len(found) + len(reasons)) if row not in reasons]
        return Job(dict(zip(rows, found, strict=True)), reasons)


def _between(good: Sequence[bytes], others: Sequence[bytes]) -> list[bytes]:
    """Every item behind a good one and before another."""
    return [each for item in others for each in (good[0], item, good[1])]


def _in_process(bundle: Bundle, tower: str, array: NDArray[Any]) -> NDArray[np.float32]:
    opened = OnnxTower(bundle.file(f"{tower}.fp32.onnx"), threads=1)
    try:
        return opened.run(array)
    finally:
        opened.close()


def refused(call: Callable[[], Any], said: str, way: str, *, index: int | None = 1) -> None:
    """A call by a way in fails, says why and where, and nothing that is private."""
    with pytest.raises(InvalidInput) as caught:
        call()
    assert re.search(said, caught.value.reason), caught.value.reason
    assert caught.value.index == index
    plain_words(str(caught.value), way)


def plain_words(text: str, way: str) -> None:
    """An error by a way in tells nothing of the inside."""
    assert not _PRIVATE.search(text), text
    if way not in (*PYTHON, "batch"):
        assert not _OF_THE_SERVER.search(text), text
    assert 10 < len(text) < 1_000
