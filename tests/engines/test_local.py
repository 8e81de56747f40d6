"""LocalClip: the client's answers and the client's errors, without a server."""

from __future__ import annotations

import gc
import os
import signal
import threading
import time
import weakref
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from cases import arrays, demo_pictures, texts
from numpy.typing import NDArray
from PIL import Image
from siglip_checkpoints import write_siglip

from cliprt import (
    Bundle,
    BundleError,
    ClosedError,
    FidelityError,
    ImageTooLarge,
    InvalidInput,
    Limits,
    ModelUnavailable,
)
from cliprt_engines import CpuSettings, LocalClip, _local
from cliprt_export import export_checkpoint

Golden = dict[str, NDArray[np.float32]]

TWO = CpuSettings(workers=2, threads=1, batch=4)


@pytest.fixture
def clip(demo_bundle: Bundle) -> Iterator[LocalClip]:
    with LocalClip(demo_bundle, settings=TWO) as clip:
        yield clip


def test_settings_may_differ_by_tower(demo_bundle: Bundle) -> None:
    other = CpuSettings(workers=1, threads=1, batch=3)
    with LocalClip(demo_bundle, settings={"image": TWO, "text": other}) as clip:
        assert clip.settings("image") == TWO
        assert clip.settings("text") == other


@pytest.mark.parametrize(
    "settings",
    [
        CpuSettings(),
        TWO,
        CpuSettings(workers=1, threads=2, spinning=True, batch=16),
        CpuSettings(workers=3, threads=2, batch=1),
    ],
    ids=repr,
)
def test_answers_equal_transformers(
    demo_bundle: Bundle, demo_golden: Golden, settings: CpuSettings
) -> None:
    with LocalClip(demo_bundle, settings=settings) as clip:
        strings = texts(clip.card.text.context_length)
        np.testing.assert_allclose(
            clip.encode_image(demo_pictures()), demo_golden["images"], atol=1e-5
        )
        np.testing.assert_allclose(clip.encode_text(strings), demo_golden["texts"], atol=1e-5)


def test_a_bundle_may_be_named_by_its_folder(demo_bundle: Bundle) -> None:
    with LocalClip(str(demo_bundle.path), settings=TWO) as clip:
        assert clip.card == demo_bundle.card


def test_long_inputs_are_split_and_keep_their_order(clip: LocalClip) -> None:
    embeddings = clip.encode_image(iter(arrays(7, 64) * 9))
    np.testing.assert_allclose(embeddings, np.tile(embeddings[:7], (9, 1)), atol=1e-6)
    embeddings = clip.encode_text(iter(texts(32)[:9] * 9))
    np.testing.assert_allclose(embeddings, np.tile(embeddings[:9], (9, 1)), atol=1e-6)


def test_many_threads_get_their_own_answers(clip: LocalClip) -> None:
    strings, pictures = texts(32)[:12], arrays(6, 64)
    expected = clip.encode_text(strings), clip.encode_image(pictures)
    wrong: list[BaseException] = []

    def call() -> None:
        try:
            for _ in range(5):
                np.testing.assert_allclose(clip.encode_text(strings), expected[0], atol=1e-6)
                np.testing.assert_allclose(clip.encode_image(pictures), expected[1], atol=1e-6)
        except BaseException as error:  # noqa: BLE001 - whatever it is, it is looked at below
            wrong.append(error)

    threads = [threading.Thread(target=call) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert wrong == []


def test_probabilities_are_those_of_transformers(clip: LocalClip, demo_golden: Golden) -> None:
    strings = texts(clip.card.text.context_length)
    logits = clip.card.logit_scale * demo_golden["images"] @ demo_golden["texts"].T
    expected = np.exp(logits - logits.max(axis=1, keepdims=True))
    expected /= expected.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(clip.classify(demo_pictures(), strings), expected, atol=1e-3)


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        (b"hello, I am text", "not an image in a supported format"),
        (b"", "the image is empty"),
        ("no/such/file.png", "cannot be read"),
        (None, "an image must be a path"),
    ],
)
def test_a_bad_picture_is_named_by_its_index(clip: LocalClip, bad: object, says: str) -> None:
    good = demo_pictures()[1]
    with pytest.raises(InvalidInput, match=f"item 20: .*{says}") as caught:
        clip.encode_image([good] * 20 + [bad] + [good] * 3)  # type: ignore[list-item]
    assert caught.value.index == 20
    assert clip.encode_image(good).shape == (1, clip.card.dim)


def test_bad_texts_labels_and_lists_are_refused_as_by_the_client(clip: LocalClip) -> None:
    with pytest.raises(InvalidInput, match="item 1: a text must be a str"):
        clip.encode_text(["fine", 7])  # type: ignore[list-item]
    with pytest.raises(InvalidInput, match="label 1: a text must be a str"):
        clip.classify(demo_pictures()[0], ["fine", 7])  # type: ignore[list-item]
    with pytest.raises(InvalidInput, match="labels must be a list of strings"):
        clip.classify(demo_pictures()[0], "a circle")
    with pytest.raises(InvalidInput, match="the batch is empty; pass at least one of the images"):
        clip.encode_image([])
    with pytest.raises(InvalidInput, match="texts must be a list, got NoneType"):
        clip.encode_text(None)  # type: ignore[arg-type]
    with pytest.raises(InvalidInput, match="more than 32 tokens"):
        clip.encode_text("word " * 50, truncate=False)


def test_limits_hold(demo_bundle: Bundle) -> None:
    pictures = [Image.new("RGB", (5, 5)), Image.new("RGB", (50, 50))]
    limits = Limits(max_image_pixels=100)
    with (
        LocalClip(demo_bundle, settings=TWO, limits=limits) as clip,
        pytest.raises(ImageTooLarge, match="item 1: .*max_image_pixels is 100"),
    ):
        clip.encode_image(pictures)


def test_a_missing_tower_is_named(tmp_path: Path) -> None:
    checkpoint = write_siglip(tmp_path / "checkpoint", kind="siglip_text_model")
    bundle = export_checkpoint(checkpoint, tmp_path / "bundle", samples=8)
    with LocalClip(bundle, settings=TWO) as clip:
        assert clip.encode_text(["a", "b c"]).shape == (2, clip.card.dim)
        for call in (
            lambda: clip.encode_image(arrays(1, 32)),
            lambda: clip.classify(arrays(1, 32), ["a"]),
            lambda: clip.settings("image"),
        ):
            with pytest.raises(ModelUnavailable, match="has no image tower"):
                call()


def test_a_precision_that_is_not_there(small_bundle: Bundle) -> None:
    with pytest.raises(BundleError, match="no (image|text) tower in int8-cpu, only in fp32; "):
        LocalClip(small_bundle, precision="int8-cpu")
    with pytest.raises(ValueError, match="precision must be one of fp32, int8-cpu, fastest"):
        LocalClip(small_bundle, precision="fp16")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="goal must be"):
        LocalClip(small_bundle, goal="speed")  # type: ignore[arg-type]


def test_the_fastest_of_a_bundle_with_one_precision_is_that(small_bundle: Bundle) -> None:
    with (
        LocalClip(small_bundle, precision="fastest", settings=TWO) as fastest,
        LocalClip(small_bundle, settings=TWO) as plain,
    ):
        np.testing.assert_array_equal(fastest.encode_text("a b"), plain.encode_text("a b"))


def test_a_tower_that_is_ready_waits_for_no_other(
    demo_bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    loading, go_on = threading.Event(), threading.Event()
    load = _local.load_chosen

    def slow(bundle: Bundle, tower: str, *others: object) -> object:
        if tower == "image":
            loading.set()
            go_on.wait(60)
        return load(bundle, tower, *others)  # type: ignore[arg-type]

    monkeypatch.setattr(_local, "load_chosen", slow)
    with LocalClip(demo_bundle, settings=TWO) as clip:
        thread = threading.Thread(target=clip.encode_image, args=(arrays(1, 64),))
        thread.start()
        assert loading.wait(60)
        texts_while_loading: list[object] = []
        other = threading.Thread(target=lambda: texts_while_loading.append(clip.encode_text("a")))
        other.start()
        other.join(30)
        assert len(texts_while_loading) == 1
        go_on.set()
        thread.join(60)
        other.join(60)


@pytest.mark.parametrize("settings", [None, TWO], ids=["measured", "given"])
def test_fastest_falls_back_to_fp32_and_says_so(
    small_bundle: Bundle, monkeypatch: pytest.MonkeyPatch, settings: CpuSettings | None
) -> None:
    """Where products of 8 bits saturate."""
    load, loaded = _local.load_chosen, []

    def loading(bundle: Bundle, tower: str, precision: str, *others: object) -> object:
        loaded.append(precision)
        if precision == "int8-cpu":
            raise FidelityError("saturated")
        return load(bundle, tower, precision, *others)  # type: ignore[arg-type]

    monkeypatch.setattr(_local, "load_chosen", loading)
    with LocalClip(small_bundle, precision="fastest", settings=settings) as clip:
        clip._precisions["text"] = "int8-cpu"  # as if the bundle had it
        assert clip.precision("text") == "fp32"
        assert clip.encode_text("a").shape == (1, clip.card.dim)
    assert loaded == ["int8-cpu", "fp32"]


def test_a_refused_picture_is_let_go(clip: LocalClip) -> None:
    """Without the collector of cycles: it may come late, and pictures are large."""
    picture = arrays(1, 64)[0].copy()
    held = weakref.ref(picture)
    clip.encode_image(picture)
    gc.collect()
    gc.disable()
    try:
        with pytest.raises(InvalidInput):
            clip.encode_image([picture, b"no picture"])
        del picture
        for _ in range(100):
            if held() is None:
                break
            time.sleep(0.01)  # the other thread lets go of its batch
        assert held() is None
    finally:
        gc.enable()


def test_after_close_everything_says_so(demo_bundle: Bundle) -> None:
    clip = LocalClip(demo_bundle, settings=TWO)
    clip.encode_text("a")
    clip.close()
    clip.close()
    for call in (
        lambda: clip.encode_text("a"),
        lambda: clip.encode_image(demo_pictures()[0]),
        lambda: clip.classify(demo_pictures()[:3], ["a"]),
        lambda: clip.settings("text"),
    ):
        with pytest.raises(ClosedError, match="make a new one"):
            call()


def test_close_during_a_call_ends_it(demo_bundle: Bundle) -> None:
    clip = LocalClip(demo_bundle, settings=TWO)
    caught: list[BaseException] = []
    begun = threading.Event()

    def many() -> Iterator[NDArray[np.uint8]]:
        for picture in arrays(8, 64) * 400:
            begun.set()
            yield picture

    def call() -> None:
        try:
            clip.encode_image(many())
        except BaseException as error:  # noqa: BLE001 - whatever it is, it is looked at below
            caught.append(error)

    thread = threading.Thread(target=call)
    thread.start()
    begun.wait(20)
    clip.close()
    thread.join(20)
    assert not thread.is_alive()
    assert [type(error) for error in caught] == [ClosedError]


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork.*:DeprecationWarning")
def test_a_forked_child_is_told_to_make_its_own(clip: LocalClip) -> None:
    clip.encode_text("a")
    child = os.fork()
    if child == 0:
        try:
            clip.encode_text("a")
        except ClosedError as error:
            os._exit(0 if "before the process forked" in str(error) else 2)
        except BaseException:  # noqa: BLE001 - a child must not run the tests any further
            os._exit(3)
        os._exit(1)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    assert clip.encode_text("a").shape == (1, clip.card.dim)


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork.*:DeprecationWarning")
def test_a_child_that_was_forked_during_the_first_use_can_close(
    demo_bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thread that the child does not have holds what is locked while a tower is loaded."""
    loading, go_on = threading.Event(), threading.Event()
    load = _local.load_chosen

    def slow(*args: object) -> object:
        loading.set()
        go_on.wait(60)
        return load(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(_local, "load_chosen", slow)
    with LocalClip(demo_bundle, settings=TWO) as clip:
        thread = threading.Thread(target=clip.encode_text, args=("a",))
        thread.start()
        assert loading.wait(60)
        child = os.fork()
        if child == 0:
            # A child that hangs is ended by the system.
            signal.alarm(10)
            clip.close()
            os._exit(0)
        _, status = os.waitpid(child, 0)
        go_on.set()
        thread.join(60)
    assert os.waitstatus_to_exitcode(status) == 0
