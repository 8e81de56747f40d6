"""What callers read where the server fails: no paths, no addresses in memory, no stack traces."""

from __future__ import annotations

import json
import re
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from bad_pictures import BAD, TOO_LARGE
from cases import demo_pictures
from http_front import data_uri, post, running_front
from patience import until
from wire import request_of, stub_of

from cliprt import Bundle
from cliprt_triton import TritonServer, write_repository
from cliprt_triton.models._backend import without_places

PICTURE = demo_pictures()[0].read_bytes()

# Models that fail where nobody foresaw it, once a file is there: Triton warms them up before.
FAILING = """
from pathlib import Path

from cliprt_triton.models.{module} import TritonPythonModel as Sound


def fails(self):
    if Path({switch!r}).exists():
        raise RuntimeError(f"cannot open {{__file__}} <{{type(self)}} object at {{hex(id(self))}}>")


class TritonPythonModel(Sound):
{body}
"""

BODIES = {
    "tower": """
    def _embed(self, batches):
        fails(self)
        return super()._embed(batches)
""",
    "decode": """
    def initialize(self, args):
        super().initialize(args)
        start = self._decoder.start
        self._decoder.start = lambda request: fails(self) or start(request)
""",
    "tokenize": """
    def initialize(self, args):
        super().initialize(args)
        tokens = self._texts.tokens
        self._texts.tokens = lambda request: fails(self) or tokens(request)
""",
    "card": """
    def _answer(self, request):
        fails(self)
        return super()._answer(request)
""",
    "health": """
    def initialize(self, args):
        super().initialize(args)
        report = self._standing.report
        self._standing.report = lambda: fails(self) or report()
""",
    "image_file": """
    def _begin(self, request):
        fails(self)
        return super()._begin(request)
""",
    "both": """
    def _begin(self, request):
        fails(self)
        return super()._begin(request)
""",
}

MODELS = {
    "clip_image": "tower", "clip_text": "tower", "clip_decode": "decode",
    "clip_tokenize": "tokenize", "clip_image_file": "image_file", "clip_card": "card",
    "clip_health": "health", "clip": "both",
}  # fmt: skip

PIXELS = np.zeros((1, 64, 64, 3), np.uint8)
CALLS: dict[str, dict[str, Any]] = {
    "clip_image": {"pixels": PIXELS},
    "clip_text": {"tokens": np.array([[1, 2]], np.int32)},
    "clip_decode": {"image": [PICTURE]},
    "clip_tokenize": {"text": [b"a ring"]},
    "clip_image_file": {"image": [PICTURE]},
    "clip_text_string": {"text": [b"a ring"]},
    "clip_card": {"name": np.frombuffer(b"tokenizer.json", np.uint8)},
    "clip_health": {"probe": np.zeros(1, np.uint8)},
    "clip": {"image": [PICTURE], "text": [b"a ring"]},
}

LEAK = re.compile(
    r"0x[0-9a-f]{3,}|Traceback|\bAt:|\.py\b|site-packages|cannot open|object at|"
    r"/(?:tmp|home|root|usr|var|opt|dev|proc|work)\b"
)


def clean(words: str) -> str:
    assert not LEAK.search(words), words
    return words


@pytest.fixture(scope="module")
def switch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("switch") / "fail"


@pytest.fixture(scope="module")
def server(
    demo_bundle: Bundle, switch: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[TritonServer]:
    repository = write_repository(demo_bundle, tmp_path_factory.mktemp("told") / "models")
    for model, module in MODELS.items():
        (code,) = (repository / model).glob("*/model.py")
        content = FAILING.format(module=module, switch=str(switch), body=BODIES[module])
        code.write_text(content, encoding="utf-8")
    with TritonServer(repository, http_port=0) as server:
        yield server


@pytest.fixture
def failing(server: TritonServer, switch: Path) -> Iterator[TritonServer]:
    switch.touch()
    yield server
    switch.unlink()


def over_grpc(server: TritonServer, model: str, inputs: dict[str, Any]) -> str:
    with stub_of(server.address) as stub, pytest.raises(grpc.RpcError) as caught:
        stub.ModelInfer(request_of(model, inputs), timeout=60)
    return str(caught.value.details())  # type: ignore[attr-defined]


def over_http(server: TritonServer, model: str) -> str:
    """The model is asked in JSON, or without inputs where bytes would be too many for it."""
    inputs = []
    for name, given in CALLS[model].items():
        if isinstance(given, np.ndarray):
            kind = {"uint8": "UINT8", "int32": "INT32"}[given.dtype.name]
            shape, data = list(given.shape), given.reshape(-1).tolist()
        else:
            kind, shape, data = "BYTES", [1, 1], ["a ring"]
        inputs.append({"name": name, "datatype": kind, "shape": shape, "data": data})
    url = f"{server.http_url}/v2/models/{model}/infer"
    body = json.dumps({"inputs": inputs}).encode()
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(url, body, timeout=60)
    with caught.value as error:
        return error.read().decode()


@pytest.mark.parametrize("model", CALLS)
def test_a_failure_within_is_told_without_what_is_within(
    model: str, failing: TritonServer, switch: Path
) -> None:
    for words in (over_grpc(failing, model, CALLS[model]), over_http(failing, model)):
        assert "the server's log says why" in clean(words)
    # Where whoever runs the server finds it.
    until(lambda: "cannot open /" in failing.log.read_text(errors="replace"))


def test_after_it_all_is_well(server: TritonServer, switch: Path) -> None:
    assert not switch.exists()
    with stub_of(server.address) as stub:
        for model, inputs in CALLS.items():
            if model != "clip_health":  # a report of before may hold for a moment
                assert stub.ModelInfer(request_of(model, inputs), timeout=60).outputs


def test_the_front_tells_no_more(failing: TritonServer) -> None:
    with running_front(failing.address) as front:
        for item in ("a ring", data_uri(PICTURE)):
            answer = post(front, {"model": "clip", "input": item})
            assert answer.status >= 500
            clean(answer.error()["message"])


RAISING = """
import time

from cliprt_triton.models.tower import TritonPythonModel as Sound


class TritonPythonModel(Sound):
    def execute(self, requests):
        if {switch}:
            raise RuntimeError(f"cannot open {{__file__}} at {{hex(id(self))}}")
        return super().execute(requests)
"""


def test_models_that_ask_a_tower_pass_on_no_traceback_of_it(
    demo_bundle: Bundle, tmp_path: Path
) -> None:
    """Of a tower that is not ours: Triton tells its callers file and line of what it raises."""
    repository = write_repository(demo_bundle, tmp_path / "models")
    flag = f"__import__('pathlib').Path({str(tmp_path / 'fail')!r}).exists()"
    (code,) = (repository / "clip_image").glob("*/model.py")
    code.write_text(RAISING.format(switch=flag), encoding="utf-8")
    with TritonServer(repository) as server:
        (tmp_path / "fail").touch()
        assert "model.py" in over_grpc(server, "clip_image", CALLS["clip_image"])
        words = over_grpc(server, "clip", CALLS["clip"])
        assert "cannot open ... at ..." in words
        clean(words.replace("cannot open", ""))
        found: Callable[[], str] = lambda: over_grpc(server, "clip_health", CALLS["clip_health"])  # noqa: E731
        assert "is not healthy" in clean(found().replace("cannot open", ""))


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("failed at 0x7f21ab: see /srv/models/a/model.onnx", "failed at ...: see ..."),
        ("one line\nAt:\n  /srv/a.py(3): execute", "one line"),
        ("12 images/s and/or 3 of 4", "12 images/s and/or 3 of 4"),
        ("", ""),
    ],
)
def test_words_without_places(words: str, told: str) -> None:
    assert without_places(words) == told


ENCODED = {
    name: data for name, (data, _) in {**BAD, **TOO_LARGE}.items() if isinstance(data, bytes)
}


@pytest.mark.parametrize("name", ENCODED)
def test_bad_pictures_are_refused_without_what_the_decoder_knows(
    name: str, demo_server: TritonServer
) -> None:
    for model in ("clip_decode", "clip_image_file"):
        clean(over_grpc(demo_server, model, {"image": [ENCODED[name]]}))


@pytest.mark.parametrize(
    ("model", "inputs"),
    [
        ("../../etc/passwd", {"x": PIXELS}),
        ("clip_image", {"wrong": PIXELS}),
        ("clip_image", {"pixels": PIXELS.astype(np.int32)}),
        ("clip_image", {"pixels": PIXELS[:, :3]}),
        ("clip_text", {"tokens": np.array([[-1, 2]], np.int32)}),
        ("clip_text_string", {"text": [b"\xff\xfe"]}),
        ("clip_card", {"name": np.frombuffer(b"../model.py", np.uint8)}),
    ],
)
def test_nor_do_requests_that_are_none(
    model: str, inputs: dict[str, Any], demo_server: TritonServer
) -> None:
    words = over_grpc(demo_server, model, inputs)
    clean(words.replace(model, "").replace("../model.py", ""))


def test_configurations_name_no_place_of_the_server(demo_server: TritonServer) -> None:
    """Which every caller may read."""
    with stub_of(demo_server.address) as stub:
        from tritonclient.grpc import service_pb2

        for model in CALLS:
            request = service_pb2.ModelConfigRequest(name=model)
            config = str(stub.ModelConfig(request, timeout=60)).replace('"model.py"', "")
            clean(config)
