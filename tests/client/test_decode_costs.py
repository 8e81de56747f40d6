"""What a picture costs to decode is bounded before it is decoded, whatever its size says."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from bad_pictures import jpeg, spec
from input_files import chunk, encoded, many_scans, with_segments
from PIL import Image

from cliprt import ImageTooLarge, Limits, _images
from cliprt._images import preprocess
from cliprt._jpeg_scans import count_scans
from pictures import in_mode, pixels, rgb

LIMITS = Limits()

PROGRESSIVE = jpeg(rgb(90, 70), progressive=True)

PEAK = """
import pathlib, re, sys
sys.path[:] = {path!r}
from bad_pictures import spec
from cliprt import Limits
from cliprt._images import preprocess

def peak():
    return int(re.search(r"VmHWM:\\s*(\\d+) kB", pathlib.Path("/proc/self/status").read_text())[1])

data = pathlib.Path({file!r}).read_bytes()
preprocess(pathlib.Path({warm!r}).read_bytes(), spec(64), Limits())
before = peak()
preprocess(data, spec(64), Limits())
print((peak() - before) * 1024)
"""


def test_a_file_of_one_scan_has_one() -> None:
    assert count_scans(jpeg(rgb(90, 70)), 100) == 1
    assert count_scans(jpeg(in_mode("L")), 100) == 1
    assert count_scans(jpeg(in_mode("CMYK")), 100) == 1


def test_every_scan_of_a_progressive_file_counts() -> None:
    # Those that libjpeg writes for three components.
    assert count_scans(PROGRESSIVE, 100) == PROGRESSIVE.count(b"\xff\xda") == 10
    assert count_scans(jpeg(in_mode("CMYK"), progressive=True), 100) > 10
    assert count_scans(many_scans(rgb(9, 9), 30), 100) == 40


def test_scans_of_a_sequential_file_count() -> None:
    """One component after the other: such files are rare, and no decoder refuses them."""
    data = jpeg(rgb(90, 70))
    start = data.index(b"\xff\xda")
    one = b"\xff\xda\0\x08\1\1\0\0\x3f\0"
    assert count_scans(data[:start] + one * 3 + b"\xff\xd9", 100) == 3


def test_the_count_stops_where_it_may() -> None:
    assert count_scans(many_scans(rgb(9, 9), 500), 100) == 101


def test_what_only_looks_like_a_scan_does_not_count() -> None:
    inside = with_segments(PROGRESSIVE, 0xE1, b"\xff\xda\0\x08" * 500)
    assert count_scans(inside, 100) == 10
    assert count_scans(PROGRESSIVE + b"\xff\xda" * 500, 100) == 10
    # Data are stuffed with zeros, and restarts and padding belong to them.
    assert count_scans(PROGRESSIVE[:-2] + b"\xff\0\xda\xff\xd0\xda" + b"\xff\xd9", 100) == 10


@pytest.mark.parametrize("added", [b"\xff" * 9, b"\xff\x01", b"\xff\xbf", b"\xff\xd7", b"\0junk"])
def test_no_scan_hides(added: bytes) -> None:
    """Behind padding, markers without a length, unknown ones, and what is none."""
    last = PROGRESSIVE.rindex(b"\xff\xda")
    assert count_scans(PROGRESSIVE[:last] + added + PROGRESSIVE[last:], 100) == 10


def test_a_file_may_end_anywhere() -> None:
    counts = [count_scans(PROGRESSIVE[:end], 100) for end in range(2, len(PROGRESSIVE))]
    assert counts == sorted(counts)
    assert counts[-1] == 10


def test_too_many_scans_are_refused_with_the_limit() -> None:
    data = many_scans(rgb(90, 70), 91)
    with pytest.raises(ImageTooLarge, match="limit max_jpeg_scans of 100"):
        preprocess(data, spec(), LIMITS)
    assert preprocess(data, spec(), Limits(max_jpeg_scans=101)).shape == (64, 64, 3)


def test_a_scaled_decode_counts_scans_too() -> None:
    with pytest.raises(ImageTooLarge, match="max_jpeg_scans"):
        preprocess(many_scans(rgb(900, 700), 91), spec(), LIMITS, fast_jpeg=True)


def test_markers_between_scans_are_bounded() -> None:
    data = PROGRESSIVE[:-2] + b"\xff\xfe\0\2" * 100_000 + PROGRESSIVE[-2:]
    with pytest.raises(ImageTooLarge, match="max_jpeg_scans"):
        preprocess(data, spec(), LIMITS)


PNG = encoded(rgb(9, 9))
GIF = encoded(in_mode("P"), "GIF")
PIECES = {
    "segments": with_segments(PROGRESSIVE, 0xE5, *[b""] * 150_000),
    "padding": PROGRESSIVE[:2] + b"\xff" * 400_000 + PROGRESSIVE[2:],
    "chunks": PNG[:33] + chunk(b"abCd", b"") * 150_000 + PNG[33:],
    "pieces of pixels": PNG[:33] + chunk(b"IDAT", b"") * 150_000 + PNG[33:],
    "comments": GIF.replace(b"\x2c\0\0\0\0", b"\x21\xfe\1a\0" * 150_000 + b"\x2c\0\0\0\0", 1),
}


@pytest.mark.parametrize("data", PIECES.values(), ids=PIECES)
def test_metadata_of_a_million_pieces_is_not_read(data: bytes) -> None:
    with pytest.raises(ImageTooLarge, match="300,000 steps; save it anew"):
        preprocess(data, spec(), LIMITS)


@pytest.mark.parametrize("band", [1, 90, 100, 2000])
def test_bands_over_white_give_the_bytes_of_the_whole(
    band: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = {mode: in_mode(mode) for mode in ("RGBA", "LA", "PA")}
    for mode, transparency in (("P", 3), ("P", bytes(range(64))), ("L", 100), ("RGB", (5, 5, 5))):
        images[f"{mode} {transparency!r}"] = image = in_mode(mode)
        image.info["transparency"] = transparency
    white = Image.new("RGBA", in_mode("RGBA").size, (255,) * 4)
    for name, image in images.items():
        before = image.tobytes()
        whole = Image.alpha_composite(white, image.convert("RGBA")).convert("RGB")
        monkeypatch.setattr(_images, "_BAND_PIXELS", band)
        found = _images._to_rgb(image, "white")
        monkeypatch.undo()
        assert found.tobytes() == whole.tobytes(), name
        assert image.tobytes() == before, name


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparency_takes_no_further_pictures(mode: str, tmp_path: Path) -> None:
    """The picture, its RGB copy and a band; before bands it was 17 to 20 bytes a pixel."""
    side = 3000
    drawn = Image.fromarray(pixels(25, 25, 4)).convert("RGBA").resize((side, side))
    image = drawn.quantize(64) if mode == "P" else drawn.convert(mode)
    file, warm = tmp_path / "large.png", tmp_path / "small.png"
    options = {"transparency": bytes(range(64))} if mode == "P" else {}
    image.save(file, compress_level=1, **options)
    image.resize((64, 64)).save(warm)
    program = PEAK.format(path=sys.path, file=str(file), warm=str(warm))
    environment = {**os.environ, "MALLOC_ARENA_MAX": "1"}
    run = subprocess.run(
        [sys.executable, "-c", program],
        check=True,
        capture_output=True,
        text=True,
        env=environment,
    )
    assert int(run.stdout) < 12 * side**2
