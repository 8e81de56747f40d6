"""The client against a real Triton that serves the demo model."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from cases import arrays, demo_pictures, texts
from numpy.typing import NDArray
from PIL import Image

from cliprt import (
    Bundle,
    Client,
    ClosedError,
    DeadlineExceeded,
    ImageTooLarge,
    InvalidInput,
    Limits,
    ModelUnavailable,
    ServerError,
    ServerUnavailable,
)
from cliprt_triton import TritonServer

Golden = dict[str, NDArray[np.float32]]


def test_pictures_equal_transformers_as_a_batch(client: Client, demo_golden: Golden) -> None:
    embeddings = client.encode_image(demo_pictures())
    assert embeddings.dtype == np.float32
    np.testing.assert_allclose(embeddings, demo_golden["images"], atol=1e-5)


def test_pictures_equal_transformers_one_by_one(client: Client, demo_golden: Golden) -> None:
    for path, expected in zip(demo_pictures(), demo_golden["images"], strict=True):
        np.testing.assert_allclose(client.encode_image(path), expected[None], atol=1e-5)


def test_texts_of_every_length_equal_transformers(client: Client, demo_golden: Golden) -> None:
    strings = texts(client.card.text.context_length)
    np.testing.assert_allclose(client.encode_text(strings), demo_golden["texts"], atol=1e-5)
    for text, expected in zip(strings, demo_golden["texts"], strict=True):
        np.testing.assert_allclose(client.encode_text(text), expected[None], atol=1e-5)


def test_an_item_alone_equals_itself_in_a_full_batch(client: Client) -> None:
    strings = (texts(32) * 2)[:64]
    batch = client.encode_text(strings)
    alone = np.concatenate([client.encode_text(text) for text in strings])
    np.testing.assert_allclose(batch, alone, atol=1e-6)
    pictures = arrays(64, 64)
    batch = client.encode_image(pictures)
    alone = np.concatenate([client.encode_image(picture) for picture in pictures])
    np.testing.assert_allclose(batch, alone, atol=1e-6)


def test_long_inputs_are_split_and_keep_their_order(client: Client) -> None:
    pictures = arrays(7, 64) * 30
    embeddings = client.encode_image(iter(pictures))
    np.testing.assert_allclose(embeddings, np.tile(embeddings[:7], (30, 1)), atol=1e-6)
    strings = texts(32)[:9] * 30
    embeddings = client.encode_text(iter(strings))
    np.testing.assert_allclose(embeddings, np.tile(embeddings[:9], (30, 1)), atol=1e-6)


def test_a_batch_array_is_its_pictures(client: Client) -> None:
    batch = np.stack([array[:64, :64] for array in arrays(3, 64)])
    np.testing.assert_array_equal(client.encode_image(batch), client.encode_image(list(batch)))


def test_probabilities_are_those_of_transformers(client: Client, demo_golden: Golden) -> None:
    strings = texts(client.card.text.context_length)
    found = client.classify(demo_pictures(), strings)
    logits = client.card.logit_scale * demo_golden["images"] @ demo_golden["texts"].T
    expected = np.exp(logits - logits.max(axis=1, keepdims=True))
    expected /= expected.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(found, expected, atol=1e-3)
    np.testing.assert_allclose(found.sum(axis=1), 1, atol=1e-6)


def test_one_picture_may_be_classified_without_a_list(client: Client) -> None:
    assert client.classify(demo_pictures()[0], ["a circle", "a star"]).shape == (1, 2)


def test_the_client_knows_what_is_served(client: Client, demo_bundle: Bundle) -> None:
    assert client.card == demo_bundle.card
    assert client.server_version() == "2.51.0"


def test_the_tokenizer_is_fetched_once_and_kept(client: Client, demo_server: TritonServer) -> None:
    client.encode_text("a")
    name = f"{client.card.files['tokenizer.json'].sha256}.json"
    cached = Path(os.environ["CLIPRT_HOME"]) / "tokenizers" / name
    assert cached.is_file()
    cached.write_text("damaged")
    with Client(demo_server.address) as another:
        another.encode_text("a")
    assert cached.read_text() != "damaged"


def test_a_cache_that_cannot_be_written_costs_nothing(
    client: Client, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("CLIPRT_HOME", str(tmp_path / "file" / "below"))
    assert client.encode_text("a").shape == (1, client.card.dim)


BAD_IMAGES = {
    "not an image": b"hello, I am text",
    "truncated": (demo_pictures()[0].read_bytes())[:500],
    "zero bytes": b"",
    "missing": "no/such/file.png",
    "nothing": None,
}


@pytest.mark.parametrize("bad", BAD_IMAGES.values(), ids=BAD_IMAGES)
def test_a_bad_picture_is_named_by_its_index(client: Client, bad: object) -> None:
    good = demo_pictures()[1]
    with pytest.raises(InvalidInput, match="item 70: ") as caught:
        client.encode_image([good] * 70 + [bad] + [good] * 3)  # type: ignore[list-item]
    assert caught.value.index == 70
    assert client.encode_image([good]).shape == (1, client.card.dim)


def test_a_label_is_named_as_a_label(client: Client) -> None:
    with pytest.raises(InvalidInput, match="label 1: a text must be a str") as caught:
        client.classify(demo_pictures()[0], ["fine", 7])  # type: ignore[list-item]
    assert (caught.value.index, caught.value.what) == (1, "label")


def test_one_lazy_image_many_times(client: Client, tmp_path: Path) -> None:
    """Several threads must not read the file of one Pillow image at once."""
    Image.fromarray(arrays(1, 900)[0]).save(tmp_path / "large.jpg")
    for _ in range(5):
        with Image.open(tmp_path / "large.jpg") as lazy:
            embeddings = client.encode_image([lazy] * 16)
        np.testing.assert_allclose(embeddings, embeddings[:1].repeat(16, axis=0), atol=1e-6)


def test_a_bomb_is_named_by_its_index(demo_server: TritonServer) -> None:
    with Client(demo_server.address, limits=Limits(max_image_pixels=100)) as client:
        with pytest.raises(ImageTooLarge, match="item 1: .*max_image_pixels is 100") as caught:
            client.encode_image([Image.new("RGB", (5, 5)), Image.new("RGB", (50, 50))])
        assert caught.value.index == 1


@pytest.mark.parametrize("bad", [None, 3, b"bytes", ["nested"]])
def test_a_text_that_is_none_is_named_by_its_index(client: Client, bad: object) -> None:
    with pytest.raises(InvalidInput, match="item 1: a text must be a str") as caught:
        client.encode_text(["fine", bad])  # type: ignore[list-item]
    assert caught.value.index == 1


def test_empty_batches_are_refused(client: Client) -> None:
    with pytest.raises(InvalidInput, match="the batch is empty; pass at least one of the images"):
        client.encode_image([])
    with pytest.raises(InvalidInput, match="the batch is empty; pass at least one of the texts"):
        client.encode_text([])
    with pytest.raises(InvalidInput, match="the batch is empty"):
        client.classify(demo_pictures()[0], [])


def test_what_is_no_collection_is_refused(client: Client) -> None:
    with pytest.raises(InvalidInput, match="images must be a list, got int"):
        client.encode_image(7)  # type: ignore[arg-type]
    with pytest.raises(InvalidInput, match="texts must be a list, got NoneType"):
        client.encode_text(None)  # type: ignore[arg-type]
    for value in (b"bytes", {"a": 1}, {"a", "b"}):
        with pytest.raises(InvalidInput, match="texts must be a list, got"):
            client.encode_text(value)  # type: ignore[arg-type]
    with pytest.raises(InvalidInput, match="images must be a list, got BytesIO"):
        client.encode_image(BytesIO(b"x"))  # type: ignore[arg-type]
    with pytest.raises(InvalidInput, match=r"uint8 \[height, width, 3\].*got uint8 \[40, 50\]"):
        client.encode_image(np.zeros((40, 50), np.uint8))
    with pytest.raises(InvalidInput, match="labels must be a list of strings"):
        client.classify(demo_pictures()[0], "a circle")


def test_a_deadline_that_passed(client: Client) -> None:
    with pytest.raises(DeadlineExceeded, match="did not answer within 1e-06 s") as caught:
        client.encode_text("a", timeout_s=1e-6)
    assert isinstance(caught.value, TimeoutError)
    assert client.encode_text("a").shape == (1, client.card.dim)


@pytest.mark.parametrize("timeout_s", [0, -1, float("nan"), float("inf"), 1e300])
def test_a_deadline_that_is_none(client: Client, timeout_s: float) -> None:
    with pytest.raises(ValueError, match="timeout_s must be a positive number"):
        client.encode_text("a", timeout_s=timeout_s)


@pytest.mark.parametrize(
    "address", ["localhost", "localhost:", ":8001", "http://a:8001", "::1:8001", "a:99999"]
)
def test_an_address_that_is_none(address: str) -> None:
    with pytest.raises(ValueError, match="must look like host:8001"):
        Client(address)


def test_an_address_may_have_a_scheme(demo_server: TritonServer) -> None:
    Client(f"grpc://{demo_server.address}").close()


@pytest.fixture
def silent_port() -> Iterator[int]:
    """A port that accepts connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def test_a_dead_server() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with pytest.raises(ServerUnavailable, match=f"no Triton gRPC server answers at .*:{port}"):
        Client(f"127.0.0.1:{port}")


def test_a_server_that_never_answers(silent_port: int) -> None:
    with pytest.raises((DeadlineExceeded, ServerUnavailable)):
        Client(f"127.0.0.1:{silent_port}", timeout_s=0.5)


def test_the_wrong_port(demo_server: TritonServer) -> None:
    port = demo_server.metrics_url.rsplit(":", 1)[1].split("/")[0]
    with pytest.raises(ServerUnavailable, match="hung up.*check that this is its gRPC port"):
        Client(f"127.0.0.1:{port}", timeout_s=5)


def test_a_model_that_is_not_served(demo_server: TritonServer) -> None:
    with pytest.raises(ModelUnavailable, match="other_image"):
        Client(demo_server.address, model="other")


@pytest.mark.parametrize("name", ["", " ", "../x", "a/b", "-x"])
def test_a_model_name_that_is_none(name: str) -> None:
    with pytest.raises(ValueError, match="a model name may hold letters"):
        Client("localhost:8001", model=name)


def test_after_close_everything_says_so(demo_server: TritonServer) -> None:
    client = Client(demo_server.address)
    client.close()
    client.close()
    for call in (
        lambda: client.encode_text("a"),
        lambda: client.encode_image(demo_pictures()[0]),
        lambda: client.classify(demo_pictures()[:3], ["a"]),
        client.server_version,
    ):
        with pytest.raises(ClosedError, match="make a new one"):
            call()


def test_close_during_a_call_ends_it(demo_server: TritonServer) -> None:
    client = Client(demo_server.address)
    caught: list[BaseException] = []

    def call() -> None:
        try:
            client.encode_image(arrays(64, 64) * 200)
        except BaseException as error:  # noqa: BLE001 - whatever it is, it is looked at below
            caught.append(error)

    thread = threading.Thread(target=call)
    thread.start()
    time.sleep(0.3)
    client.close()
    thread.join(20)
    assert not thread.is_alive()
    assert [type(error) for error in caught] == [ClosedError]


def test_close_at_any_moment_is_told_as_such(demo_server: TritonServer) -> None:
    caught: list[Exception] = []

    def call(client: Client) -> None:
        try:
            while True:
                client.encode_text("a b c")
        except Exception as error:  # noqa: BLE001 - whatever it is, it is looked at below
            caught.append(error)

    for _ in range(15):
        client = Client(demo_server.address)
        threads = [threading.Thread(target=call, args=(client,)) for _ in range(8)]
        for thread in threads:
            thread.start()
        time.sleep(0.02)
        client.close()
        for thread in threads:
            thread.join(20)
    assert {type(error) for error in caught} == {ClosedError}
    assert len(caught) == 15 * 8


def test_requests_of_one_call_do_not_eat_each_others_time(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second of three requests that are under way has the time of the first one too."""
    from cliprt import _grpc

    given: list[float] = []
    original = _grpc.TritonChannel.infer

    def infer(self: object, *sent: object, **options: object) -> object:
        given.append(sent[-1])  # type: ignore[arg-type]
        return original(self, *sent, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(_grpc.TritonChannel, "infer", infer)
    client.encode_image(arrays(4, 64) * 40, timeout_s=7)
    assert given == [7, 14, 21, 21, 21]


def test_an_answer_that_cannot_be_right_is_refused(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cliprt import _grpc

    original = _grpc.PendingTensor.result
    for factor in (2.0, 0.0, float("nan")):
        monkeypatch.setattr(
            _grpc.PendingTensor, "result", lambda self, factor=factor: original(self) * factor
        )
        with pytest.raises(ServerError, match="not of length 1"):
            client.encode_text("a")
    monkeypatch.setattr(_grpc.PendingTensor, "result", lambda self: original(self)[:, :-1])
    with pytest.raises(ServerError, match=r"expected float32 \[1, "):
        client.encode_text("a")
