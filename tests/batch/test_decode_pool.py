"""Processes decode as ``preprocess`` does, and none of them takes a run with it."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from cases import demo_pictures
from patience import until
from PIL import Image

from cliprt import Bundle, DeploymentError, Limits, _worker_process
from cliprt._card import ImageSpec
from cliprt._images import preprocess
from cliprt_batch._decode_pool import DecodePool
from cliprt_batch._decode_process import Order
from cliprt_batch._items import Ref

LIMITS = Limits(max_image_pixels=1_000_000)


@pytest.fixture
def spec(demo_bundle: Bundle) -> ImageSpec:
    assert demo_bundle.card.image is not None
    return demo_bundle.card.image


@pytest.fixture
def pool(spec: ImageSpec) -> Iterator[DecodePool]:
    pool = DecodePool(Order(spec, LIMITS, False, 3, 16), workers=2, worked=lambda seconds: None)
    yield pool
    pool.close()


def test_pixels_and_what_is_known_of_the_files(pool: DecodePool, spec: ImageSpec) -> None:
    files = demo_pictures()[:16]
    window = pool.submit([Ref(str(path)) for path in files]).result()
    for path, pixels, seen in zip(files, window.pixels, window.seen, strict=True):
        assert np.array_equal(pixels, preprocess(path, spec, LIMITS))
        with Image.open(path) as picture:
            assert (seen.width, seen.height) == picture.size
        assert seen.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
        assert seen.stage is None
    window.free()


def test_bytes_and_pieces_of_files(pool: DecodePool, spec: ImageSpec, tmp_path: Path) -> None:
    path = demo_pictures()[0]
    data = path.read_bytes()
    archive = tmp_path / "archive"
    archive.write_bytes(b"before" + data + b"behind")
    window = pool.submit([data, Ref(str(archive), 6, len(data))]).result()
    assert np.array_equal(window.pixels[0], preprocess(path, spec, LIMITS))
    assert np.array_equal(window.pixels[1], window.pixels[0])
    window.free()


def test_what_is_no_picture_has_a_stage_and_a_reason(pool: DecodePool, tmp_path: Path) -> None:
    large = BytesIO()
    Image.new("RGB", (1001, 1000)).save(large, "PNG")
    images = [Ref(str(tmp_path / "none")), b"", b"text", large.getvalue(), Ref(str(tmp_path))]
    window = pool.submit(images).result()
    assert [seen.stage for seen in window.seen] == ["read", "decode", "decode", "decode", "read"]
    reasons = [seen.reason for seen in window.seen]
    for reason, words in zip(
        reasons,
        ("No such file", "empty", "supported format", "max_image_pixels", "regular file"),
        strict=True,
    ):
        assert words in (reason or "")
    assert window.seen[0].sha256 is None
    assert window.seen[2].sha256 == hashlib.sha256(b"text").hexdigest()
    window.free()


def test_a_picture_that_kills_costs_itself_alone(
    pool: DecodePool, spec: ImageSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A decoder that crashes: what a damaged file does to a library with a bug.
    program = _worker_process._PROGRAM.replace(
        "serve(*{descriptors})",
        "import cliprt_batch._decode_process as p, os; real = p._decode; p._decode = lambda data, "
        "*a: os.abort() if data == b'deadly' else real(data, *a); serve(*{descriptors})",
    )
    monkeypatch.setattr(_worker_process, "_PROGRAM", program)
    good = demo_pictures()[:5]
    deadly = b"deadly"
    window = pool.submit(
        [Ref(str(good[0])), Ref(str(good[1])), deadly, *(Ref(str(path)) for path in good[2:])]
    ).result()
    assert [seen.stage for seen in window.seen] == [None, None, "decode", None, None, None]
    assert "two processes ended over it, the second by signal 6" in (window.seen[2].reason or "")
    for row, path in ((0, good[0]), (3, good[2]), (5, good[4])):
        assert np.array_equal(window.pixels[row], preprocess(path, spec, LIMITS))
    window.free()


def test_one_that_is_killed_between_is_replaced(pool: DecodePool) -> None:
    path = Ref(str(demo_pictures()[0]))
    for _ in range(5):
        window = pool.submit([path] * 4).result()
        window.free()
        for number in pool.process_ids():
            os.kill(number, signal.SIGKILL)
    window = pool.submit([path] * 4).result()
    assert [seen.stage for seen in window.seen] == [None] * 4
    window.free()


def test_all_slots_are_used_and_come_back(pool: DecodePool) -> None:
    path = Ref(str(demo_pictures()[0]))
    windows = [pool.submit([path]).result() for _ in range(3)]
    done = threading.Event()

    def fourth() -> None:
        pool.submit([path]).result().free()
        done.set()

    waiting = threading.Thread(target=fourth)
    waiting.start()
    assert not done.wait(0.2), "three windows lie in three slots"
    for window in windows:
        window.free()
    assert done.wait(60)
    waiting.join()


def test_nothing_is_left_after_the_end(spec: ImageSpec) -> None:
    pool = DecodePool(Order(spec, LIMITS, False, 2, 4), workers=2, worked=lambda seconds: None)
    pool.submit([Ref(str(demo_pictures()[0]))]).result()
    running = pool.process_ids()
    descriptors = set(Path("/proc/self/fd").iterdir())
    pool.close()
    assert running
    assert not any(Path(f"/proc/{number}").exists() for number in running)
    assert len(set(Path("/proc/self/fd").iterdir())) < len(descriptors)


def test_a_parent_that_is_killed_leaves_no_process(demo_bundle: Bundle) -> None:
    program = (
        "import sys, time\n"
        "from cliprt import Limits, open_bundle\n"
        "from cliprt_batch._decode_pool import DecodePool\n"
        "from cliprt_batch._decode_process import Order\n"
        f"order = Order(open_bundle({str(demo_bundle.path)!r}).card.image, Limits(), False, 2, 4)\n"
        "pool = DecodePool(order, workers=1, worked=lambda seconds: None)\n"
        f"pool.submit([{demo_pictures()[0].read_bytes()!r}]).result()\n"
        "print(pool.process_ids()[0], flush=True)\n"
        "time.sleep(600)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    child = Path("/proc", parent.stdout.readline().strip())
    assert child.name.isdigit()
    parent.kill()
    parent.wait()
    parent.stdout.close()
    until(lambda: not child.exists())


def test_what_is_no_pictures_fault_stops(pool: DecodePool) -> None:
    with pytest.raises(DeploymentError, match="s3fs"):
        pool.submit([Ref("s3://bucket/picture.jpg")]).result()
