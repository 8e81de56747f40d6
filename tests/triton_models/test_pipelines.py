"""Files, strings and pairs of them to embeddings on a real Triton, for callers of any language."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import numpy as np
import pytest
from cases import demo_pictures, texts
from hostile import strings
from numpy.typing import NDArray
from tritonclient.grpc import service_pb2
from wire import refusal, request_of, stub_of, tensors_of

from cliprt import Bundle, Client, InvalidInput, Limits
from cliprt_triton import TritonServer, write_repository
from pictures import file_cases

Golden = dict[str, NDArray[np.float32]]
Ask = Callable[..., dict[str, NDArray[Any]]]

INVALID = grpc.StatusCode.INVALID_ARGUMENT
PICTURES = [path.read_bytes() for path in demo_pictures()]
STRINGS = texts(32)


@pytest.fixture(scope="module")
def stub(demo_server: TritonServer) -> Iterator[Any]:
    with stub_of(demo_server.address) as stub:
        yield stub


@pytest.fixture(scope="module")
def ask(stub: Any) -> Ask:
    def ask(model: str, **inputs: Any) -> dict[str, NDArray[Any]]:
        return tensors_of(stub.ModelInfer(request_of(model, inputs), timeout=30))

    return ask


def encoded(items: list[str]) -> list[bytes]:
    return [item.encode() for item in items]


def test_files(ask: Ask, demo_golden: Golden) -> None:
    found = ask("clip_image_file", image=PICTURES)["embedding"]
    np.testing.assert_allclose(found, demo_golden["images"], atol=1e-5)


def test_strings(ask: Ask, demo_golden: Golden) -> None:
    found = ask("clip_text_string", text=encoded(STRINGS))["embedding"]
    np.testing.assert_allclose(found, demo_golden["texts"], atol=1e-5)


def test_pairs(ask: Ask, demo_golden: Golden) -> None:
    images, strings = demo_golden["images"], demo_golden["texts"][: len(PICTURES)]
    found = ask("clip", image=PICTURES, text=encoded(STRINGS[: len(PICTURES)]))
    np.testing.assert_allclose(found["image_embedding"], images, atol=1e-5)
    np.testing.assert_allclose(found["text_embedding"], strings, atol=1e-5)
    similarity = (images * strings).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(found["similarity"], similarity, atol=1e-5)


def outcome(call: Callable[[], Any]) -> Any:
    """What a call of the client returns, or the text of its refusal."""
    try:
        return call()
    except InvalidInput as error:
        return str(error)


def test_files_of_all_kinds_end_as_the_client_ends(ask: Ask, stub: Any, client: Client) -> None:
    for name, data in file_cases():
        expected = outcome(lambda data=data: client.encode_image(data))
        if isinstance(expected, str):
            request = request_of("clip_image_file", {"image": [data]})
            found = refusal(lambda request=request: stub.ModelInfer(request, timeout=30))
            assert found == (INVALID, expected), name
        else:
            found = ask("clip_image_file", image=[data])["embedding"]
            np.testing.assert_allclose(found, expected, atol=1e-5, err_msg=name)


def test_hostile_strings_are_embedded_as_by_the_client(ask: Ask, client: Client) -> None:
    items = strings()[:60]
    found = ask("clip_text_string", text=encoded(items))["embedding"]
    np.testing.assert_allclose(found, client.encode_text(items), atol=1e-5)


BAD_PICTURES = {
    "empty": b"",
    "no picture": b"GIF89a?",
    "cut": PICTURES[0][:200],
    "zeros": b"\0" * 9,
}


@pytest.mark.parametrize("bad", BAD_PICTURES.values(), ids=BAD_PICTURES)
@pytest.mark.parametrize("model", ["clip_decode", "clip_image_file", "clip"])
def test_a_bad_picture_is_refused_in_the_clients_words(
    model: str, bad: bytes, stub: Any, client: Client
) -> None:
    with pytest.raises(InvalidInput) as caught:
        client.encode_image([PICTURES[0], bad, b""])
    inputs: dict[str, list[bytes]] = {"image": [PICTURES[0], bad, b""]}
    if model == "clip":
        inputs["text"] = [b"a", b"b", b"c"]
    code, text = refusal(lambda: stub.ModelInfer(request_of(model, inputs), timeout=30))
    assert (code, text) == (INVALID, str(caught.value))
    assert str(caught.value).startswith("item 1: ")


@pytest.mark.parametrize("model", ["clip_tokenize", "clip_text_string", "clip"])
@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (b"\xc3(", "item 1: the text is not valid UTF-8 at byte 0 (invalid continuation byte)"),
        (b"\xed\xa0\x80", "item 1: the text is not valid UTF-8 at byte 0"),
        (b"a" * 100_001, "item 1: the text has 100,001 characters, the limit max_text_characters"),
    ],
)
def test_a_bad_text_is_refused(model: str, bad: bytes, reason: str, stub: Any) -> None:
    inputs = {"text": [b"a", bad]}
    if model == "clip":
        inputs["image"] = PICTURES[:2]
    code, text = refusal(lambda: stub.ModelInfer(request_of(model, inputs), timeout=30))
    assert code == INVALID
    assert reason in text


def test_what_no_request_should_be_costs_nobody_else(
    stub: Any, ask: Ask, demo_golden: Golden
) -> None:
    requests = [
        request_of("clip_decode", {"image": [PICTURES[0]] * 65}),
        request_of("clip_image_file", {"image": [PICTURES[0]] * 65}),
        request_of("clip_text_string", {"text": [b"a"] * 65}),
        request_of("clip", {"image": [PICTURES[0]] * 65, "text": [b"a"] * 65}),
        request_of("clip", {"image": PICTURES[:2], "text": [b"a"]}),
        request_of("clip", {"image": PICTURES[:1]}),
        request_of("clip_tokenize", {"text": np.zeros((1, 1), np.int32)}),
    ]
    # The length that a string claims, and what follows.
    for raw in (b"", b"\1", b"\5\0\0\0ab", b"\xff\xff\xff\xff", b"\1\0\0\0ab"):
        broken = request_of("clip_tokenize", {"text": [b"a"]})
        broken.raw_input_contents[0] = raw
        requests.append(broken)
    for request in requests:
        code, text = refusal(lambda request=request: stub.ModelInfer(request, timeout=30))
        assert code == INVALID, (request.model_name, text)
    found = ask("clip", image=PICTURES[:1], text=encoded(STRINGS[:1]))
    np.testing.assert_allclose(found["image_embedding"], demo_golden["images"][:1], atol=1e-5)


def test_no_items_are_refused_or_answered_with_none(stub: Any, ask: Ask) -> None:
    for model, name in [("clip_decode", "image"), ("clip_tokenize", "text")]:
        request = service_pb2.ModelInferRequest(model_name=model, raw_input_contents=[b""])
        request.inputs.add(name=name, datatype="BYTES", shape=[0, 1])
        code, _ = refusal(lambda request=request: stub.ModelInfer(request, timeout=30))
        assert code in (INVALID, grpc.StatusCode.INTERNAL)
    assert ask("clip_tokenize", text=[b"a"])["tokens"].shape == (1, 3)


def test_good_neighbours_of_bad_requests_are_answered(ask: Ask, demo_golden: Golden) -> None:
    stop = threading.Event()
    refused = []

    def attack() -> None:
        while not stop.is_set():
            for model, inputs in [
                ("clip_image_file", {"image": [b"no picture"]}),
                ("clip_text_string", {"text": [b"\xff"]}),
                ("clip", {"image": [b""], "text": [b"a"]}),
            ]:
                with pytest.raises(grpc.RpcError, match="item 0"):
                    ask(model, **inputs)
                refused.append(1)

    def check(number: int) -> None:
        k = number % len(PICTURES)
        found = ask("clip", image=[PICTURES[k]], text=encoded([STRINGS[k]]))
        np.testing.assert_allclose(
            found["image_embedding"], demo_golden["images"][k : k + 1], atol=1e-5
        )
        np.testing.assert_allclose(
            found["text_embedding"], demo_golden["texts"][k : k + 1], atol=1e-5
        )

    with ThreadPoolExecutor(9) as pool:
        attacker = pool.submit(attack)
        list(pool.map(check, range(120)))
        stop.set()
        attacker.result()
    assert refused


def test_limits_are_those_of_the_repository(demo_bundle: Bundle) -> None:
    limits = Limits(max_image_pixels=100, max_text_characters=5)
    repository = write_repository(
        demo_bundle, demo_bundle.path.parent / "limited", limits=limits, link=True
    )
    with TritonServer(repository) as server, stub_of(server.address) as stub:
        for model, inputs, limit in [
            ("clip_image_file", {"image": PICTURES[:1]}, "max_image_pixels is 100"),
            ("clip_text_string", {"text": [b"abcdef"]}, "max_text_characters is 5"),
            ("clip", {"image": PICTURES[:1], "text": [b"a"]}, "max_image_pixels is 100"),
        ]:
            request = request_of(model, inputs)
            code, text = refusal(lambda request=request: stub.ModelInfer(request, timeout=30))
            assert code == INVALID
            assert limit in text
