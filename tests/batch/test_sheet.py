"""The contact sheet: all in one file, nothing loaded, every text escaped."""

from __future__ import annotations

import base64
import io
import os
import threading
import tracemalloc
import urllib.request
from collections.abc import Iterator
from html.parser import HTMLParser
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import fsspec
import pytest
from bad_pictures import bomb
from PIL import Image

from cliprt import InvalidInput, Limits
from cliprt_batch._pictures import place_of
from cliprt_batch._sheet import Card, Section, write_sheet
from cliprt_batch._thumbnails import SIDE
from cliprt_batch._thumbnails import thumbnail as encoded_thumbnail

PICTURES = Path(__file__).resolve().parent.parent.parent / "demo" / "pictures"
PICTURE = PICTURES / "02-pink-striped-circle.png"

HOSTILE = (
    "<script>alert(1)</script>",
    '"><img src=http://example.com/x onerror=alert(1)>',
    "</figcaption></style><style>*{display:none}</style>",
    "{title} {0} %s {{",
    "&lt;b&gt; &amp; ' \"",
    "\x00\x1b[2J\u202egnp.\ud800",
    "",
    "x" * 5000,
)


def thumbnail(place: str | Path | None, limits: Limits | None = None) -> str | None:
    return encoded_thumbnail(None if place is None else place_of(place), limits)


def card(key: str, place: str | None, *rest: str, marked: bool = False) -> Card:
    picture = None if place is None else place_of(place)
    return Card(key, picture, *rest, marked=marked)


class Page(HTMLParser):
    """The elements of a page, and its texts outside of styles."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.source = path.read_text(encoding="utf-8")
        self.feed(self.source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


def page_of(path: Path, *cards: Card, title: str = "cats", heading: str = "") -> Page:
    write_sheet(path, title=title, subtitle="all of them", sections=[Section(heading, cards)])
    return Page(path)


def decoded(address: str | None) -> Image.Image:
    assert address is not None
    assert address.startswith("data:image/jpeg;base64,")
    return Image.open(io.BytesIO(base64.b64decode(address.partition(",")[2])))


def test_a_picture_is_in_the_page(tmp_path: Path) -> None:
    page = page_of(tmp_path / "a.html", card("k", str(PICTURE), "0.3", "a pink circle"))
    (image,) = page.all("img")
    assert image["alt"] == "a pink circle"
    assert max(decoded(image["src"]).size) <= SIDE
    for text in ("cats", "all of them", "0.3", "a pink circle", "k"):
        assert text in page.texts


def test_nothing_is_loaded_and_nothing_runs(tmp_path: Path) -> None:
    page = page_of(tmp_path / "a.html", card("k", str(PICTURE), "0.3"), heading="group 1")
    tags = {tag for tag, _ in page.elements}
    assert not tags & {"script", "link", "iframe", "object", "embed", "base", "form", "a"}
    addresses = [
        value
        for _, attributes in page.elements
        for name, value in attributes.items()
        if name in ("src", "href", "srcset", "action", "data", "background")
    ]
    assert addresses
    assert all(value is not None and value.startswith("data:") for value in addresses)
    assert "url(" not in page.source
    assert "@import" not in page.source
    assert "://" not in page.source
    (policy,) = [meta for meta in page.all("meta") if "http-equiv" in meta]
    assert policy["content"] == "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


@pytest.mark.parametrize("text", HOSTILE)
def test_texts_cannot_become_elements(tmp_path: Path, text: str) -> None:
    tame = page_of(tmp_path / "tame.html", *_cards("tame"), title="tame", heading="tame")
    wild = page_of(tmp_path / "wild.html", *_cards(text), title=text, heading=text or "none")
    kinds = [(tag, sorted(attributes)) for tag, attributes in wild.elements]
    expected = [(tag, sorted(attributes)) for tag, attributes in tame.elements]
    if text:
        assert kinds == expected
        shown = text.replace("\ud800", "?")
        assert shown in wild.texts or f"{shown[:399]}…" in wild.texts
    assert {tag for tag, _ in wild.elements} <= {tag for tag, _ in tame.elements}


def _cards(text: str) -> list[Card]:
    return [
        card(text, str(PICTURE), text, text, text, marked=True),
        card(text, text, text, text, text),
    ]


@pytest.mark.parametrize("place", [None, "/no/such/picture.jpg", "nosuchscheme://x", "memory://no"])
def test_in_place_of_a_picture_that_cannot_be_had_stands_its_key(
    tmp_path: Path, place: str | None
) -> None:
    page = page_of(tmp_path / "a.html", card("the key", place, "0.3"))
    assert page.all("img") == []
    assert page.texts.count("the key") == 1


@pytest.mark.parametrize("place", [None, "/no/such.jpg"])
def test_a_card_without_a_picture_says_why(tmp_path: Path, place: str | None) -> None:
    page = page_of(tmp_path / "a.html", card("k", place, "0.3"))
    (title,) = [each["title"] for each in page.all("div") if each.get("class") == "none"]
    assert title is not None
    assert "not there any more" in title


def test_the_query_stands_beside_the_title(tmp_path: Path) -> None:
    write_sheet(
        tmp_path / "a.html", title="q", subtitle="s", sections=[], picture=place_of(PICTURE)
    )
    assert len(Page(tmp_path / "a.html").all("img")) == 1


def test_others_may_read_a_sheet(tmp_path: Path) -> None:
    page_of(tmp_path / "new" / "a.html")
    assert (tmp_path / "new" / "a.html").stat().st_mode & 0o777 == 0o644


def test_a_sheet_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(InvalidInput, match="cannot be written"):
        page_of(tmp_path / "file" / "a.html")


def test_pictures_come_from_other_file_systems() -> None:
    with fsspec.open("memory://pictures/a b.png", "wb") as file:
        file.write(PICTURE.read_bytes())
    assert thumbnail("memory://pictures/a b.png") == thumbnail(PICTURE)


@pytest.mark.parametrize("name", ["a b.png", "ä#?%41.png", "-rf.png", "'\".png"])
def test_odd_names_of_files(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(PICTURE.read_bytes())
    assert thumbnail(str(tmp_path / name)) == thumbnail(PICTURE)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "I;16", "RGB"])
def test_pictures_of_every_mode(tmp_path: Path, mode: str) -> None:
    kind = "jpg" if mode == "CMYK" else "png"
    Image.new(mode, (700, 350)).save(tmp_path / f"a.{kind}")
    small = decoded(thumbnail(tmp_path / f"a.{kind}"))
    assert (small.mode, small.size) == ("RGB", (SIDE, SIDE // 2))


def test_transparency_is_white(tmp_path: Path) -> None:
    Image.new("RGBA", (8, 8), (0, 0, 0, 0)).save(tmp_path / "a.png")
    assert decoded(thumbnail(tmp_path / "a.png")).getpixel((4, 4)) == (255, 255, 255)


def test_pictures_stand_upright(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (40, 20)).save(tmp_path / "a.jpg", exif=exif)
    assert decoded(thumbnail(tmp_path / "a.jpg")).size == (20, 40)


@pytest.mark.parametrize("limits", [Limits(max_image_bytes=100), Limits(max_image_pixels=100)])
def test_pictures_beyond_the_limits_are_not_decoded(limits: Limits) -> None:
    assert thumbnail(PICTURE) is not None
    assert thumbnail(PICTURE, limits) is None


class Asked(BaseHTTPRequestHandler):
    """Gives the picture, and keeps in mind that somebody asked for it."""

    asked: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        self.asked.append(self.path)
        self.send_response(200)
        self.send_header("Content-Length", str(PICTURE.stat().st_size))
        self.end_headers()
        self.wfile.write(PICTURE.read_bytes())

    do_HEAD = do_GET

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def web() -> Iterator[str]:
    """A server of this machine that would give the picture."""
    Asked.asked.clear()
    with ThreadingHTTPServer(("127.0.0.1", 0), Asked) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/a.png"
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("chain", ["{}", "simplecache::{}", "filecache::{}", "s3://a/b::{}"])
def test_metadata_cannot_make_it_ask_the_web(web: str, chain: str) -> None:
    with urllib.request.urlopen(web) as answer:
        assert answer.read() == PICTURE.read_bytes()
    Asked.asked.clear()
    assert thumbnail(chain.format(web)) is None
    assert Asked.asked == []


def test_a_chain_to_a_picture_is_not_followed() -> None:
    assert thumbnail(f"file://{PICTURE}") == thumbnail(PICTURE)
    assert thumbnail(f"simplecache::file://{PICTURE}") is None
    assert thumbnail(f"filecache::file://{PICTURE}") is None


def test_places_of_metadata_do_not_start_from_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.png").write_bytes(PICTURE.read_bytes())
    monkeypatch.chdir(tmp_path)
    assert [thumbnail(place) for place in ("a.png", "./a.png", "file://a.png", "")] == [None] * 4
    # A query is what the user typed.
    assert thumbnail(Path("a.png")) == thumbnail(PICTURE)


def test_a_pipe_is_not_waited_for_under_its_address(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    assert thumbnail(f"file://{tmp_path}/pipe.jpg") is None


def test_a_text_named_as_a_picture_is_not_shown(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_text("root:x:0:0:root:/root:/bin/sh\n" * 50, encoding="utf-8")
    page = page_of(tmp_path / "a.html", card("k", str(tmp_path / "a.jpg"), "0.3"))
    assert "root:" not in page.source
    assert page.all("img") == []


def test_a_file_of_nine_gigabytes_is_not_read(tmp_path: Path) -> None:
    place = tmp_path / "a.png"
    place.write_bytes(PICTURE.read_bytes())
    os.truncate(place, 9 * 10**9)  # without blocks on the disk
    tracemalloc.start()
    try:
        assert thumbnail(place) is None
        assert tracemalloc.get_traced_memory()[1] < 10**6
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(("width", "height"), [(50_000, 60_000), (65_000, 1)])
def test_pictures_that_claim_too_much_are_not_decoded(
    tmp_path: Path, width: int, height: int
) -> None:
    (tmp_path / "a.png").write_bytes(bomb(width, height))
    assert thumbnail(tmp_path / "a.png") is None


def test_what_is_no_picture(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"no picture")
    (tmp_path / "b.png").write_bytes(PICTURE.read_bytes()[:200])
    os.mkfifo(tmp_path / "pipe")
    assert [thumbnail(tmp_path / name) for name in ("a.jpg", "b.png", "pipe", ".")] == [None] * 4
