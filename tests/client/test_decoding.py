"""Batches of pictures are prepared alike by threads and by processes, whatever is in them."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from bad_pictures import BAD, TOO_LARGE, bomb, jpeg, spec
from patience import until
from PIL import Image

from cliprt import ClosedError, Decoding, DeploymentError, ImageTooLarge, InvalidInput, Limits
from cliprt import _worker_process as processes_of
from cliprt._cores import usable_cores
from cliprt._decoding import Decoder
from cliprt._images import preprocess
from pictures import file_cases, pil_cases, pixels, rgb

LIMITS = Limits()
KINDS = ["threads", "processes"]


@pytest.fixture(scope="module", params=KINDS)
def decoder(request: pytest.FixtureRequest) -> Iterator[Decoder]:
    made = Decoder(spec(), LIMITS, Decoding(workers=2, kind=request.param))
    yield made
    made.close()


@pytest.fixture
def processes() -> Iterator[Decoder]:
    made = Decoder(spec(), LIMITS, Decoding(workers=2, kind="processes"))
    yield made
    made.close()


def process_ids(decoder: Decoder) -> list[int]:
    assert decoder._processes is not None
    return decoder._processes.process_ids()


def alive(process_id: int) -> bool:
    try:
        os.kill(process_id, 0)
    except ProcessLookupError:
        return False
    return True


def until_ended(process_ids: list[int]) -> None:
    """Waits until processes are gone; AssertionError if they stay."""
    until(lambda: not any(map(alive, process_ids)))


def test_every_picture_gives_the_pixels_of_preprocess(decoder: Decoder) -> None:
    images = [image for _, image in [*file_cases(), *pil_cases()]]
    found = decoder.prepare(0, images)
    for image, made in zip(images, found, strict=True):
        assert not isinstance(made, InvalidInput)
        assert np.array_equal(made, preprocess(image, spec(), LIMITS))


def test_every_way_in(decoder: Decoder, tmp_path: Path) -> None:
    data = jpeg(rgb(90, 70))
    path = tmp_path / "picture.jpg"
    path.write_bytes(data)
    lazy = Image.open(path)
    ways = [data, bytearray(data), memoryview(data), path, str(path), lazy, np.asarray(lazy)]
    found = decoder.prepare(0, ways)
    for made in found:
        assert isinstance(made, np.ndarray)
        assert np.array_equal(made, preprocess(data, spec(), LIMITS))


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_what_is_refused_is_refused_with_the_words_of_preprocess(decoder: Decoder) -> None:
    good = jpeg(rgb(30, 20))
    bad = {**BAD, **TOO_LARGE}
    images = [value for bad_value, _ in bad.values() for value in (good, bad_value)]
    found = decoder.prepare(100, images)  # type: ignore[arg-type]
    for index, (image, made) in enumerate(zip(images, found, strict=True)):
        if index % 2 == 0:
            assert isinstance(made, np.ndarray)
            continue
        with pytest.raises(InvalidInput) as expected:
            preprocess(image, spec(), LIMITS)  # type: ignore[arg-type]
        assert type(made) is type(expected.value)
        assert made.index == 100 + index
        assert made.reason == expected.value.reason


def test_a_closed_image_is_refused(decoder: Decoder) -> None:
    image = Image.open(BytesIO(jpeg(rgb(20, 20))))
    image.close()
    good, refused = decoder.prepare(0, [jpeg(rgb(20, 20)), image])
    assert isinstance(good, np.ndarray)
    assert isinstance(refused, InvalidInput)
    assert "closed" in refused.reason


def test_one_lazy_image_many_times(decoder: Decoder) -> None:
    data = jpeg(rgb(400, 300))
    for _ in range(5):
        found = decoder.prepare(0, [Image.open(BytesIO(data))] * 8)
        for made in found:
            assert np.array_equal(made, preprocess(data, spec(), LIMITS))


def test_many_callers_at_once(decoder: Decoder) -> None:
    images = [jpeg(rgb(60 + k, 50, seed=k)) for k in range(12)]
    expected = [preprocess(image, spec(), LIMITS) for image in images]
    wrong: list[int] = []

    def call(turn: int) -> None:
        order = [(turn + k) % len(images) for k in range(len(images))]
        found = decoder.prepare(0, [images[k] for k in order])
        wrong.extend(
            k for k, made in zip(order, found, strict=True) if not np.array_equal(made, expected[k])
        )

    callers = [threading.Thread(target=call, args=(turn,)) for turn in range(6)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert not wrong


def test_an_empty_batch_is_nothing(decoder: Decoder) -> None:
    assert decoder.prepare(0, []) == []


@pytest.mark.parametrize("kind", KINDS)
def test_a_closed_decoder_says_so(kind: str) -> None:
    decoder = Decoder(spec(), LIMITS, Decoding(workers=2, kind=kind))  # type: ignore[arg-type]
    decoder.prepare(0, [jpeg(rgb(20, 20))] * 3)
    decoder.close()
    decoder.close()
    with pytest.raises(ClosedError):
        decoder.prepare(0, [jpeg(rgb(20, 20))])


def test_one_picture_starts_no_thread() -> None:
    before = threading.active_count()
    decoder = Decoder(spec(), LIMITS, Decoding(workers=4))
    decoder.prepare(0, [jpeg(rgb(20, 20))])
    assert threading.active_count() == before
    decoder.close()


def test_closing_ends_the_processes(processes: Decoder) -> None:
    processes.prepare(0, [jpeg(rgb(20, 20))] * 4)
    ids = process_ids(processes)
    assert ids
    assert all(map(alive, ids))
    processes.close()
    until_ended(ids)


def test_a_dropped_decoder_ends_its_processes() -> None:
    decoder = Decoder(spec(), LIMITS, Decoding(workers=2, kind="processes"))
    decoder.prepare(0, [jpeg(rgb(20, 20))] * 4)
    ids = process_ids(decoder)
    del decoder
    until_ended(ids)


def test_closing_wakes_who_waits(processes: Decoder) -> None:
    image = jpeg(rgb(3000, 2500))
    processes.prepare(0, [image])
    raised: list[BaseException] = []

    def call() -> None:
        try:
            processes.prepare(0, [image] * 200)
        except ClosedError as error:
            raised.append(error)

    caller = threading.Thread(target=call)
    caller.start()
    until(lambda: len(process_ids(processes)) >= 2)
    processes.close()
    caller.join(20)
    assert not caller.is_alive()
    assert len(raised) == 1


def test_a_process_killed_while_idle_is_replaced(processes: Decoder) -> None:
    image = jpeg(rgb(50, 40))
    processes.prepare(0, [image] * 4)
    before = process_ids(processes)
    for process_id in before:
        os.kill(process_id, signal.SIGKILL)
    found = processes.prepare(0, [image] * 4)
    assert all(isinstance(made, np.ndarray) for made in found)
    assert not set(before) & set(process_ids(processes))


def test_a_process_killed_at_work_costs_nothing_but_time(processes: Decoder) -> None:
    image = jpeg(rgb(2000, 1500))
    expected = preprocess(image, spec(), LIMITS)
    processes.prepare(0, [image])
    (victim,) = process_ids(processes)
    os.kill(victim, signal.SIGSTOP)  # so that it is surely at work when it is killed
    threading.Timer(0.3, os.kill, (victim, signal.SIGKILL)).start()
    assert np.array_equal(processes.prepare(0, [image])[0], expected)
    assert process_ids(processes) != [victim]


def test_a_picture_that_kills_twice_is_refused(
    processes: Decoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A decoder that crashes: what a damaged file does to a library with a bug.
    program = processes_of._PROGRAM.replace(
        "serve(*{descriptors})",
        "import cliprt._decode_workers as w, os; real = w.preprocess; w.preprocess = lambda data, "
        "*a, **k: os.abort() if data == b'crash' else real(data, *a, **k); serve(*{descriptors})",
    )
    monkeypatch.setattr(processes_of, "_PROGRAM", program)
    good = jpeg(rgb(50, 40))
    found = processes.prepare(7, [good, b"crash", good, good])
    assert isinstance(found[1], InvalidInput)
    assert found[1].index == 8
    assert "two processes ended over it, the second by signal 6" in found[1].reason
    assert [isinstance(made, np.ndarray) for made in found] == [True, False, True, True]


def test_processes_that_cannot_start_name_the_way_out(
    processes: Decoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes_of, "_PROGRAM", "raise SystemExit(3)")
    with pytest.raises(DeploymentError, match=r"with status 3.*kind='threads'"):
        processes.prepare(0, [jpeg(rgb(20, 20))])
    monkeypatch.setattr(processes_of, "get_executable", lambda: "/no/such/python")
    with pytest.raises(DeploymentError, match="can be started: No such file"):
        processes.prepare(0, [jpeg(rgb(20, 20))])


def test_a_failure_that_is_no_pictures_fault_is_not_blamed_on_one(
    processes: Decoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = processes_of._PROGRAM.replace(
        "serve(*{descriptors})",
        "import cliprt._decode_workers as w; w.preprocess = lambda *a, **k: 1 / 0; "
        "serve(*{descriptors})",
    )
    monkeypatch.setattr(processes_of, "_PROGRAM", program)
    with pytest.raises(DeploymentError, match="ZeroDivisionError"):
        processes.prepare(0, [jpeg(rgb(20, 20))] * 3)


def test_bombs_cost_no_memory(processes: Decoder) -> None:
    def resident() -> int:
        status = [Path(f"/proc/{process_id}/status").read_text() for process_id in ids]
        peaks = [line for text in status for line in text.splitlines() if "VmHWM" in line]
        return max(int(line.split()[1]) for line in peaks)

    processes.prepare(0, [jpeg(rgb(20, 20))] * 4)
    ids = process_ids(processes)
    before = resident()
    found = processes.prepare(0, [bomb(30_000, 30_000), bomb(9_000, 9_950)] * 8)
    assert process_ids(processes) == ids
    assert all(isinstance(made, ImageTooLarge) for made in found)
    # 30,000 x 30,000 pixels would take 3.6 GB.
    assert resident() - before < 20_000


SCRIPT = """
import os, signal, sys, time
# Shells start what runs in the background with SIGINT ignored.
signal.signal(signal.SIGINT, signal.default_int_handler)
sys.path[:] = {path!r}
from bad_pictures import jpeg, spec
from pictures import rgb
from cliprt import Decoding, Limits
from cliprt._decoding import Decoder

# No main guard: that is the point.
decoder = Decoder(spec(), Limits(), Decoding(workers=2, kind="processes"))
decoder.prepare(0, [jpeg(rgb(30, 20))] * 4)
print(*decoder._processes.process_ids(), flush=True)
{then}
"""


def run_script(then: str) -> tuple[subprocess.Popen[str], list[int]]:
    program = SCRIPT.format(path=sys.path, then=then)
    running = subprocess.Popen(
        [sys.executable, "-W", "error", "-c", program], stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert running.stdout is not None
    return running, [int(word) for word in running.stdout.readline().split()]


@pytest.mark.parametrize("then", ["", "sys.exit(3)", "os._exit(0)", "raise KeyboardInterrupt"])
def test_no_process_outlives_the_program(then: str) -> None:
    running, ids = run_script(then)
    with running:
        running.communicate(timeout=60)
    assert len(ids) >= 1
    until_ended(ids)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_no_process_outlives_a_signal_at_work(number: signal.Signals) -> None:
    then = "image = jpeg(rgb(2000, 1500))\nwhile True: decoder.prepare(0, [image] * 8)"
    running, ids = run_script(then)
    with running:
        time.sleep(0.5)
        running.send_signal(number)
        try:
            _, errors = running.communicate(timeout=60)
        finally:
            running.kill()
    assert len(ids) >= 1
    until_ended(ids)
    # One traceback, of the program itself.
    assert errors.count("Traceback") == (1 if number == signal.SIGINT else 0), errors


@pytest.mark.parametrize("kind", KINDS)
def test_a_fork_has_its_own(kind: str) -> None:
    decoder = Decoder(spec(), LIMITS, Decoding(workers=2, kind=kind))  # type: ignore[arg-type]
    images = [jpeg(rgb(50 + k, 40)) for k in range(4)]
    expected = decoder.prepare(0, images)
    child = os.fork()
    if child == 0:
        status = 1
        with contextlib.suppress(BaseException):
            signal.alarm(30)
            found = decoder.prepare(0, images)
            status = 0 if all(map(np.array_equal, found, expected)) else 2
            decoder.close()
        os._exit(status)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    assert all(map(np.array_equal, decoder.prepare(0, images), expected))
    decoder.close()


def test_all_cores_are_used_up_to_eight() -> None:
    assert Decoding().worker_count == min(usable_cores(), 8)
    assert Decoding(workers=20).worker_count == 20


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"workers": 0}, "workers"),
        ({"workers": -1}, "workers"),
        ({"workers": 1.5}, "workers"),
        ({"workers": True}, "workers"),
        ({"kind": "fibres"}, "threads, processes"),
        ({"fast_jpeg": 1}, "fast_jpeg"),
    ],
)
def test_options_are_checked(options: dict[str, object], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        Decoding(**options)  # type: ignore[arg-type]


def test_limits_hold_in_processes() -> None:
    limits = Limits(max_image_pixels=1000)
    decoder = Decoder(spec(), limits, Decoding(workers=2, kind="processes"))
    small, large = decoder.prepare(0, [jpeg(rgb(30, 20)), pixels(50, 50)])
    assert isinstance(small, np.ndarray)
    assert isinstance(large, ImageTooLarge)
    assert isinstance(decoder.prepare(0, [jpeg(rgb(50, 50))])[0], ImageTooLarge)
    decoder.close()
