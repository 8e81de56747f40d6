"""The HTTP front through the openai package, against a real Triton."""

from __future__ import annotations

import asyncio
import concurrent.futures
import json
import re
import socket
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import openai
import pytest
from cases import demo_pictures
from http_front import Front, ask, data_uri, post, running_front
from patience import until
from siglip_checkpoints import write_siglip

from cliprt import Bundle, Client, InvalidInput, Limits
from cliprt_export import export_checkpoint
from cliprt_triton import TritonServer, write_repository
from cliprt_triton._ports import free_ports

KEY = "a-key-of-these-tests"


@pytest.fixture(scope="module")
def front(demo_server: TritonServer) -> Iterator[Front]:
    with running_front(demo_server.address) as front:
        yield front


@pytest.fixture
def api(front: Front) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=front.url, api_key="any", max_retries=0) as api:
        yield api


def vectors(answer: openai.types.CreateEmbeddingResponse) -> np.ndarray:
    assert [entry.index for entry in answer.data] == list(range(len(answer.data)))
    return np.array([entry.embedding for entry in answer.data], dtype=np.float32)


def metric(front: Front, name: str, **labels: str) -> float:
    text = ask(front, "GET", "/metrics").body.decode()
    inner = ",".join(f'{key}="{value}"' for key, value in labels.items())
    pattern = re.escape(f"{name}{{{inner}}} " if labels else f"{name} ") + r"(\S+)"
    found = re.search(f"^{pattern}$", text, re.MULTILINE)
    return float(found[1]) if found else 0.0


def test_texts_and_pictures_in_any_order_answer_as_the_client(
    api: openai.OpenAI, client: Client
) -> None:
    first, second = demo_pictures()[:2]
    mixed = ["a red square", data_uri(first), "data: a word", data_uri(second, "image/png"), "a"]
    found = vectors(api.embeddings.create(model="clip", input=mixed))
    texts = client.encode_text(["a red square", "data: a word", "a"])
    images = client.encode_image([first, second])
    np.testing.assert_allclose(found[[0, 2, 4]], texts, atol=1e-5)
    np.testing.assert_allclose(found[[1, 3]], images, atol=1e-5)


@pytest.mark.parametrize("item", ["a text", data_uri(demo_pictures()[0])])
def test_one_string_is_one_item(item: str, api: openai.OpenAI) -> None:
    alone = vectors(api.embeddings.create(model="clip", input=item))
    listed = vectors(api.embeddings.create(model="clip", input=[item]))
    np.testing.assert_allclose(alone, listed, atol=1e-6)
    assert alone.shape == (1, 64)


def test_numbers_and_base64_hold_the_same_bits(api: openai.OpenAI, front: Front) -> None:
    fields = {"model": "clip", "input": ["a", "b"]}
    as_floats = api.embeddings.create(**fields, encoding_format="float")  # type: ignore[arg-type]
    raw = post(front, {**fields, "encoding_format": "base64"}).json()
    assert all(isinstance(entry["embedding"], str) for entry in raw["data"])
    default = post(front, fields).json()
    assert all(isinstance(entry["embedding"], list) for entry in default["data"])
    np.testing.assert_array_equal(
        vectors(as_floats),
        np.array([entry["embedding"] for entry in default["data"]], dtype=np.float32),
    )
    np.testing.assert_allclose(
        vectors(api.embeddings.create(**fields)),
        vectors(as_floats),
        atol=1e-6,  # type: ignore[arg-type]
    )


def test_an_answer_has_openais_form(front: Front, demo_bundle: Bundle) -> None:
    answer = post(front, {"model": "clip", "input": ["a"]}, **{"X-Request-Id": "mine-1"})
    assert answer.headers["x-request-id"] == "mine-1"
    assert answer.headers["x-cliprt-space"] == demo_bundle.card.space
    found = answer.json()
    assert set(found) == {"object", "data", "model", "usage"}
    assert (found["object"], found["model"]) == ("list", "clip")
    assert set(found["data"][0]) == {"object", "index", "embedding"}
    assert found["data"][0]["object"] == "embedding"


def test_tokens_are_counted_as_the_tower_sees_them(api: openai.OpenAI) -> None:
    picture = data_uri(demo_pictures()[0])
    assert api.embeddings.create(model="clip", input=[picture]).usage.prompt_tokens == 0
    one = api.embeddings.create(model="clip", input="a").usage
    two = api.embeddings.create(model="clip", input=["a", picture, "a"]).usage
    assert one.prompt_tokens == one.total_tokens == 3  # start, a, end
    assert two.prompt_tokens == 6
    long = api.embeddings.create(model="clip", input="a " * 1000).usage
    assert long.prompt_tokens == 32  # the context of the demo model


def test_what_the_openai_package_sends_beside_is_taken(api: openai.OpenAI) -> None:
    answer = api.embeddings.create(model="clip", input="a", dimensions=64, user="someone")
    assert vectors(answer).shape == (1, 64)


def test_other_dimensions_are_refused(api: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="have 64 dimensions") as caught:
        api.embeddings.create(model="clip", input="a", dimensions=32)
    assert caught.value.param == "dimensions"


def test_another_model_is_not_found(api: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="this server has: 'clip'") as caught:
        api.embeddings.create(model="text-embedding-3-small", input="a")
    assert caught.value.code == "model_not_found"
    with pytest.raises(openai.NotFoundError):
        api.models.retrieve("other")


def test_models_are_listed_with_their_space(api: openai.OpenAI, demo_bundle: Bundle) -> None:
    (listed,) = api.models.list().data
    assert (listed.id, listed.object, listed.owned_by) == ("clip", "model", "cliprt")
    described = api.models.retrieve("clip").to_dict()
    assert described == listed.to_dict()
    assert described["space"] == demo_bundle.card.space
    assert described["dimensions"] == 64
    assert described["inputs"] == ["text", "image"]


@pytest.mark.parametrize("tokens", [[1, 2, 3], [[1, 2], [3]]])
def test_token_arrays_are_refused_with_the_reason(tokens: list[int], api: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="arrays of token ids are not taken") as caught:
        api.embeddings.create(model="clip", input=tokens)
    assert caught.value.param == "input[0]"


def test_an_unknown_field_is_refused_as_openai_does(api: openai.OpenAI) -> None:
    with pytest.raises(
        openai.BadRequestError, match="Unrecognized request argument supplied: colour"
    ):
        api.embeddings.create(model="clip", input="a", extra_body={"colour": "red"})


def test_errors_name_the_item_and_say_what_the_client_says(
    api: openai.OpenAI, client: Client
) -> None:
    whole = demo_pictures()[0].read_bytes()
    cut = whole[: len(whole) // 2]
    with pytest.raises(InvalidInput) as told:
        client.encode_image([cut])
    with pytest.raises(openai.BadRequestError) as caught:
        api.embeddings.create(model="clip", input=["a", data_uri(whole), data_uri(cut)])
    assert told.value.reason in str(caught.value)
    assert (caught.value.param, caught.value.code) == ("input[2]", "invalid_input")


def test_of_several_faults_the_first_is_told(api: openai.OpenAI) -> None:
    too_long = "a" * 100_001
    for items, place in [([data_uri(b"x"), too_long], 0), ([too_long, data_uri(b"x")], 0)]:
        with pytest.raises(openai.BadRequestError) as caught:
            api.embeddings.create(model="clip", input=items)
        assert caught.value.param == f"input[{place}]"


def test_the_limits_are_the_clients(demo_server: TritonServer) -> None:
    limits = Limits(max_image_bytes=100, max_text_characters=5)
    with running_front(demo_server.address, limits=limits, max_items=2) as front:
        picture = post(front, {"model": "clip", "input": data_uri(demo_pictures()[0])})
        assert picture.status == 400
        assert picture.error()["code"] == "image_too_large"
        assert "the limit max_image_bytes is 100" in picture.error()["message"]
        text = post(front, {"model": "clip", "input": ["a", "abcdef"]})
        assert text.status == 400
        assert "the limit max_text_characters is 5" in text.error()["message"]
        assert text.error()["param"] == "input[1]"
        assert (
            "at most 2 are taken"
            in post(front, {"model": "clip", "input": list("abc")}).error()["message"]
        )


def test_keys_open_the_front_but_not_its_health(demo_server: TritonServer) -> None:
    with running_front(demo_server.address, api_keys=["another-key-of-them", KEY]) as front:
        with openai.OpenAI(base_url=front.url, api_key=KEY) as api:
            assert vectors(api.embeddings.create(model="clip", input="a")).shape == (1, 64)
        for key in ("wrong", KEY[:-1], f"{KEY}x", "ü"):
            with pytest.raises((openai.AuthenticationError, UnicodeEncodeError)):
                openai.OpenAI(base_url=front.url, api_key=key).models.list()
        assert post(front, {"model": "clip", "input": "a"}).status == 401
        assert post(front, b"{", Authorization=f"Basic {KEY}").error()["code"] == "invalid_api_key"
        assert ask(front, "GET", "/v1/models").status == 401
        assert ask(front, "GET", "/v1/models/clip").status == 401
        for path in ("/v1/health/live", "/v1/health/ready", "/metrics"):
            assert ask(front, "GET", path).status == 200


def test_requests_at_once_share_batches(demo_server: TritonServer, front: Front) -> None:
    """Each of them is a gRPC request of its own, which Triton batches."""

    async def many() -> list[np.ndarray]:
        async with openai.AsyncOpenAI(base_url=front.url, api_key="any") as api:
            calls = [api.embeddings.create(model="clip", input=f"a {n}") for n in range(64)]
            return [vectors(answer) for answer in await asyncio.gather(*calls)]

    with Client(demo_server.address) as client:
        before = statistic(demo_server, "nv_inference_exec_count")
        found = np.concatenate(asyncio.run(many()))
        # 64 requests of one item in fewer executions: several were there at the same time.
        assert statistic(demo_server, "nv_inference_exec_count") - before < 64
        expected = client.encode_text([f"a {n}" for n in range(64)])
    np.testing.assert_allclose(found, expected, atol=1e-5)


def statistic(server: TritonServer, name: str) -> int:
    """A counter of the text tower."""
    with urllib.request.urlopen(server.metrics_url, timeout=30) as answer:
        text = answer.read().decode()
    (count,) = re.findall(rf'^{name}\{{model="clip_text",.*\}} (\S+)$', text, re.MULTILINE)
    return int(float(count))


def test_health_and_metrics(front: Front) -> None:
    assert ask(front, "GET", "/v1/health/live").json() == {"status": "live"}
    ready = ask(front, "GET", "/v1/health/ready").json()
    assert ready == {"status": "ready", "known_answers": True}
    route = {"route": "/v1/embeddings", "status": "200"}
    before = [
        metric(front, "cliprt_http_requests_total", **route),
        metric(front, "cliprt_http_items_total", kind="text"),
        metric(front, "cliprt_http_items_total", kind="image"),
        metric(front, "cliprt_http_tokens_total"),
    ]
    post(front, {"model": "clip", "input": ["a", "a", data_uri(demo_pictures()[0])]})
    after = [
        metric(front, "cliprt_http_requests_total", **route),
        metric(front, "cliprt_http_items_total", kind="text"),
        metric(front, "cliprt_http_items_total", kind="image"),
        metric(front, "cliprt_http_tokens_total"),
    ]
    assert np.subtract(after, before).tolist() == [1, 2, 1, 6]
    # The one that asks is itself under way.
    assert metric(front, "cliprt_http_in_flight") == 1


def test_what_a_caller_left_is_cancelled(front: Front, demo_server: TritonServer) -> None:
    labels = {"route": "/v1/embeddings", "status": "499"}
    before = metric(front, "cliprt_http_requests_total", **labels)
    computed = statistic(demo_server, "nv_inference_count")
    body = json.dumps({"model": "clip", "input": ["a word or two"] * 2048}).encode()
    head = (
        "POST /v1/embeddings HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    with socket.create_connection((front.host, front.port)) as leaving:
        leaving.sendall(head.encode() + body)
    until(lambda: metric(front, "cliprt_http_requests_total", **labels) != before)
    assert post(front, {"model": "clip", "input": "a"}).status == 200
    assert statistic(demo_server, "nv_inference_count") - computed < 2048


def test_a_caller_may_demand_a_space(front: Front, demo_bundle: Bundle) -> None:
    request = {"model": "clip", "input": "a"}
    assert post(front, request, **{"X-Cliprt-Space": demo_bundle.card.space}).status == 200
    other = post(front, request, **{"X-Cliprt-Space": "0" * 64})
    assert (other.status, other.error()["code"]) == (412, "space_mismatch")


def test_another_bundle_behind_it_is_never_taken_for_the_first(
    small_bundle: Bundle, demo_bundle: Bundle, tmp_path: Path
) -> None:
    request = {"model": "clip", "input": "a"}
    with ExitStack() as fronts:
        with TritonServer(write_repository(small_bundle, tmp_path / "small")) as server:
            front = fronts.enter_context(running_front(server.address))
            first = post(front, request)
        port = int(server.address.rsplit(":", 1)[1])
        with TritonServer(write_repository(demo_bundle, tmp_path / "demo"), grpc_port=port):
            until_it_answers(front, request)
            second = post(front, request)
    spaces = [answer.headers["x-cliprt-space"] for answer in (first, second)]
    assert spaces == [small_bundle.card.space, demo_bundle.card.space]
    sizes = [len(answer.json()["data"][0]["embedding"]) for answer in (first, second)]
    assert sizes == [24, 64]


def test_it_waits_for_a_server_and_survives_its_restart(
    small_bundle: Bundle, tmp_path: Path
) -> None:
    repository = write_repository(small_bundle, tmp_path / "repository")
    (port,) = free_ports("127.0.0.1", 0)
    request = {"model": "clip", "input": "a"}
    with running_front(f"127.0.0.1:{port}", timeout_s=20) as front:
        gone = post(front, request)
        assert (gone.status, gone.error()["code"]) == (503, "server_unavailable")
        assert gone.headers["retry-after"] == "1"
        assert str(port) not in gone.error()["message"]
        probe = ask(front, "GET", "/v1/health/ready")
        assert (probe.status, probe.error()["code"]) == (503, "not_ready")
        assert ask(front, "GET", "/v1/health/live").status == 200
        with TritonServer(repository, grpc_port=port):
            first = until_it_answers(front, request)
        assert post(front, request).status == 503
        with TritonServer(repository, grpc_port=port):
            assert until_it_answers(front, request) == first


def until_it_answers(front: Front, request: dict[str, str]) -> object:
    deadline = time.monotonic() + 60
    while (answer := post(front, request)).status != 200:
        assert answer.status == 503
        assert time.monotonic() < deadline
        time.sleep(0.1)
    return answer.json()


def test_a_server_that_is_late_is_a_timeout(front: Front, demo_server: TritonServer) -> None:
    with running_front(demo_server.address, timeout_s=1e-6) as late:
        answer = post(late, {"model": "clip", "input": "a"})
    assert (answer.status, answer.error()["code"]) == (504, "deadline_exceeded")


def test_a_host_that_swallows_everything_holds_up_callers_once() -> None:
    """They wait for one attempt to connect together: in turn, they would give up at 30 s."""
    with (
        socket.create_server(("127.0.0.1", 0)) as silent,
        running_front(f"127.0.0.1:{silent.getsockname()[1]}", timeout_s=2) as front,
        concurrent.futures.ThreadPoolExecutor(24) as pool,
    ):
        request = {"model": "clip", "input": "a"}
        answers = list(pool.map(lambda _: post(front, request), range(24)))
    assert {answer.error()["code"] for answer in answers} == {"deadline_exceeded"}


def test_too_many_at_once_are_told_to_come_back(demo_server: TritonServer) -> None:
    with (
        running_front(demo_server.address, max_requests=1) as front,
        socket.create_connection((front.host, front.port)) as holding,
        openai.OpenAI(base_url=front.url, api_key="any", max_retries=5) as api,
        concurrent.futures.ThreadPoolExecutor() as pool,
    ):
        holding.sendall(
            b"POST /v1/embeddings HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
            b"Content-Length: 100\r\n\r\n{"
        )
        deadline = time.monotonic() + 60
        while (answer := post(front, {"model": "clip", "input": "a"})).status == 200:
            assert time.monotonic() < deadline
        assert (answer.status, answer.headers["retry-after"]) == (429, "1")
        assert answer.error()["code"] == "overloaded"
        # Clients of OpenAI's know what to do.
        waiting = pool.submit(api.embeddings.create, model="clip", input="a")
        holding.close()
        assert len(waiting.result(30).data) == 1


def test_a_bundle_of_one_tower_embeds_its_kind_alone(tmp_path: Path) -> None:
    checkpoint = write_siglip(tmp_path / "checkpoint", kind="siglip_vision_model", seed=8)
    bundle = export_checkpoint(str(checkpoint), tmp_path / "bundle")
    picture = data_uri(demo_pictures()[0])
    with (
        TritonServer(write_repository(bundle, tmp_path / "repository")) as server,
        running_front(server.address) as front,
    ):
        assert ask(front, "GET", "/v1/models/clip").json()["inputs"] == ["image"]
        answer = post(front, {"model": "clip", "input": [picture, picture]}).json()
        assert (len(answer["data"]), answer["usage"]["prompt_tokens"]) == (2, 0)
        refused = post(front, {"model": "clip", "input": [picture, "a text"]})
    assert (refused.status, refused.error()["param"]) == (400, "input[1]")
    assert "it has no text tower" in refused.error()["message"]
