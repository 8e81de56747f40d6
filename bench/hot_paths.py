"""Times the hot paths with pytest-benchmark, each as a multiple of a loop of its own kind.

By turns with every path, a loop runs that does the same kind of work with other people's code:
Pillow alone for pictures, Python alone for texts, a graph of one matrix product for towers, a round
trip of gRPC for requests. How many times the loop a path takes hardly depends on what else happens
on the machine, so a regression shows there as well. Of all turns the lower quartile counts: what
disturbs a turn makes it slower, a regression makes all of them slower. The multiples of earlier
days are in ``hot_paths.json``, by the processors they were measured on; on one that is not there
they are told and not held against anything.

``make hot-paths`` compares, ``make hot-paths ARGS=--keep-baseline`` keeps what it measured.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from PIL import Image
from pytest_benchmark.fixture import BenchmarkFixture

from cliprt import Bundle, Client, Limits
from cliprt._images import preprocess
from cliprt._texts import TextTokenizer
from cliprt_bench import photo
from cliprt_bench._echo import METHOD, EchoServer
from cliprt_engines import OnnxTower
from cliprt_export import export_checkpoint
from cliprt_triton import TritonServer, write_repository
from multiples import SEEN, kept

CHECKPOINT = Path(__file__).resolve().parent.parent / "demo" / "checkpoint"
TEXT = "a picture of three red striped circles"
PHOTO = photo(640, 480, seed=0)

# A path that takes this many times what it took is a regression; less is the machine.
REGRESSION = 1.5

# Turns that path and loop take, and how long one is at least.
TURNS, TURN_S = 60, 0.02

# Loops of towers, by batch.
PRODUCT = {1: "small product", 64: "product"}

Beside = Callable[[str, Callable[[], object]], None]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return export_checkpoint(str(CHECKPOINT), tmp_path_factory.mktemp("bench") / "bundle")


@pytest.fixture(scope="module")
def client(bundle: Bundle) -> Iterator[Client]:
    repository = write_repository(bundle, bundle.path.parent / "repository")
    with TritonServer(repository) as server, Client(server.address) as client:
        yield client


@pytest.fixture(scope="module")
def tokenizer(bundle: Bundle) -> TextTokenizer:
    content = bundle.file("tokenizer.json").read_text(encoding="utf-8")
    return TextTokenizer(content, bundle.card.text, Limits())


@pytest.fixture(scope="module")
def loops() -> Iterator[dict[str, Callable[[], object]]]:
    """The loops, by the kind of their work."""
    message = bytes(20_000)
    with (
        closing(EchoServer(answer_bytes=1000, callers=1)) as server,
        server.channel() as channel,
    ):
        echo = channel.unary_unary(METHOD)
        yield {
            "python": lambda: [number * 31 & 0xFFFF for number in range(20_000)],
            "pillow": plain_pillow,
            "small product": plain_product(rows=16),
            "product": plain_product(rows=1024),
            "round trip": lambda: echo(message, timeout=10),
        }


def plain_pillow() -> object:
    with Image.open(BytesIO(PHOTO)) as image:
        return image.convert("RGB").resize((64, 64), Image.Resampling.BICUBIC)


def plain_product(rows: int) -> Callable[[], object]:
    """A matrix product as ONNX Runtime does it when nobody tells it anything."""
    weights = np.random.default_rng(0).standard_normal((256, 256), np.float32)
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("MatMul", ["left", "right"], ["out"])],
        "product",
        [onnx.helper.make_tensor_value_info("left", onnx.TensorProto.FLOAT, [rows, 256])],
        [onnx.helper.make_tensor_value_info("out", onnx.TensorProto.FLOAT, [rows, 256])],
        [onnx.numpy_helper.from_array(weights, "right")],
    )
    opsets = [onnx.helper.make_opsetid("", 17)]
    model = onnx.helper.make_model(graph, opset_imports=opsets, ir_version=10)
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    left = np.ones((rows, 256), np.float32)
    return lambda: session.run(None, {"left": left})


@pytest.fixture
def beside(
    request: pytest.FixtureRequest,
    benchmark: BenchmarkFixture,
    loops: dict[str, Callable[[], object]],
    baselines: dict[str, float],
) -> Beside:
    """Times a path beside a loop, and holds the multiple against that of an earlier day."""

    def measure(kind: str, path: Callable[[], object]) -> None:
        loop = repeated(loops[kind])
        turn = repeated(path)
        loop_s: list[float] = []

        def before_each() -> None:
            begun = time.perf_counter()
            loop.turn()
            loop_s.append((time.perf_counter() - begun) / loop.times)

        benchmark.pedantic(turn.turn, setup=before_each, rounds=TURNS)
        path_s = np.array(benchmark.stats.stats.data) / turn.times
        multiple = float(np.quantile(path_s / np.array(loop_s), 0.25))
        name = request.node.name
        was = baselines.get(name)
        benchmark.extra_info.update(loop=kind, multiple=multiple, baseline=was)
        request.config.stash[SEEN][name] = (kind, multiple, was)
        if was is not None and not request.config.getoption("--keep-baseline"):
            assert multiple < REGRESSION * was, (
                f"{name} takes {multiple:.3g} times the loop '{kind}', it took {was:.3g}"
            )

    return measure


@pytest.fixture(scope="session")
def baselines() -> dict[str, float]:
    """By path, the multiple of an earlier day; none on a machine unlike that one."""
    found = kept()
    return {} if found is None else found.multiples


@dataclass(frozen=True)
class Repeated:
    """Something that is done so often that a clock tells how long it takes."""

    path: Callable[[], object]
    times: int

    def turn(self) -> None:
        for _ in range(self.times):
            self.path()


def repeated(path: Callable[[], object]) -> Repeated:
    """As often as fits into a turn, once at least."""
    path()
    begun, times = time.perf_counter(), 0
    while time.perf_counter() - begun < TURN_S:
        path()
        times += 1
    return Repeated(path, times)


def test_preprocess_jpeg(beside: Beside, bundle: Bundle) -> None:
    beside("pillow", lambda: preprocess(PHOTO, bundle.card.image, Limits()))


def test_tokenise(beside: Beside, tokenizer: TextTokenizer) -> None:
    beside("python", lambda: tokenizer([TEXT] * 64))


def test_pack(beside: Beside, tokenizer: TextTokenizer) -> None:
    ids = tokenizer([TEXT] * 64)
    beside("python", lambda: tokenizer.pad(ids))


@pytest.mark.parametrize("batch", [1, 64])
def test_image_tower(beside: Beside, bundle: Bundle, batch: int) -> None:
    tower = OnnxTower(bundle.file("image.fp32.onnx"))
    pixels = np.zeros((batch, 64, 64, 3), np.uint8)
    beside(PRODUCT[batch], lambda: tower.run(pixels))


@pytest.mark.parametrize("batch", [1, 64])
def test_text_tower(beside: Beside, bundle: Bundle, tokenizer: TextTokenizer, batch: int) -> None:
    tower = OnnxTower(bundle.file("text.fp32.onnx"))
    tokens = tokenizer.pad(tokenizer([TEXT] * batch))
    beside(PRODUCT[batch], lambda: tower.run(tokens))


@pytest.mark.parametrize("batch", [1, 64])
def test_image_request(beside: Beside, client: Client, batch: int) -> None:
    pixels = np.zeros((batch, 64, 64, 3), np.uint8)
    beside("round trip", lambda: client.encode_image(pixels))


@pytest.mark.parametrize("batch", [1, 64])
def test_text_request(beside: Beside, client: Client, batch: int) -> None:
    beside("round trip", lambda: client.encode_text([TEXT] * batch))
