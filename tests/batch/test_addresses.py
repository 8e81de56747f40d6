"""Bytes of pictures, wherever they lie."""

from __future__ import annotations

import errno
import os
import socket
import sys
from pathlib import Path

import fsspec
import pytest
from batch_sources import put
from hypothesis import given
from hypothesis import strategies as st

from cliprt import DeploymentError, ImageTooLarge, InvalidInput, MissingExtra
from cliprt_batch import _addresses
from cliprt_batch._addresses import (
    absolute,
    address_of,
    joined,
    local_path,
    open_stream,
    outside,
    parent,
    read_bytes,
    read_text,
    shown_name,
    stamp,
)
from cliprt_batch._items import Ref

LIMIT = 1000


def test_a_file_is_read_whole(root: str) -> None:
    assert read_bytes(Ref(put(root, "a.jpg", b"0123456789")), LIMIT) == b"0123456789"


def test_a_range_is_read(root: str) -> None:
    address = put(root, "a.tar", b"0123456789")
    assert read_bytes(Ref(address, 3, 4), LIMIT) == b"3456"
    assert read_bytes(Ref(address, 8), LIMIT) == b"89"


def test_an_empty_file_has_no_bytes(root: str) -> None:
    assert read_bytes(Ref(put(root, "a.jpg", b"")), LIMIT) == b""


def test_a_file_at_the_limit_is_read_and_one_beyond_is_not(root: str) -> None:
    address = put(root, "a.jpg", bytes(LIMIT + 1))
    assert len(read_bytes(Ref(address, 1), LIMIT)) == LIMIT
    with pytest.raises(ImageTooLarge, match=r"1,001 bytes, the limit max_image_bytes is 1,000"):
        read_bytes(Ref(address), LIMIT)


def test_a_range_behind_the_end_is_refused(root: str) -> None:
    address = put(root, "a.tar", b"0123456789")
    with pytest.raises(InvalidInput, match="ends after 10 bytes"):
        read_bytes(Ref(address, 8, 4), LIMIT)


def test_a_missing_file_is_named(root: str) -> None:
    with pytest.raises(InvalidInput, match=r"no\.jpg' cannot be read: No such file"):
        read_bytes(Ref(f"{root}/no.jpg"), LIMIT)


def test_a_folder_is_no_picture(root: str) -> None:
    put(root, "in/a.jpg", b"x")
    with pytest.raises(InvalidInput, match="not a regular file"):
        read_bytes(Ref(f"{root}/in"), LIMIT)


def test_a_fifo_is_refused_without_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.jpg")
    with pytest.raises(InvalidInput, match="not a regular file"):
        read_bytes(Ref(str(tmp_path / "a.jpg")), LIMIT)


@pytest.mark.parametrize("device", ["/dev/zero", "/dev/null"])
def test_a_device_is_refused(device: str) -> None:
    with pytest.raises(InvalidInput, match="not a regular file"):
        read_bytes(Ref(device), LIMIT)


def test_a_socket_is_refused(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "s"))
        with pytest.raises(InvalidInput, match="not a regular file"):
            read_bytes(Ref(str(tmp_path / "s")), LIMIT)


def test_a_path_with_a_nul_is_refused() -> None:
    with pytest.raises(InvalidInput, match="null"):
        read_bytes(Ref("/a\0.jpg"), LIMIT)


@pytest.mark.skipif(os.getuid() == 0, reason="nothing is forbidden to root")
def test_a_file_that_may_not_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").touch(mode=0)
    with pytest.raises(InvalidInput, match="Permission denied"):
        read_bytes(Ref(str(tmp_path / "a.jpg")), LIMIT)


@pytest.mark.parametrize(
    "address",
    [
        "http://example.com/a.jpg",
        "HTTPS://example.com/a.jpg",
        "ftp://example.com/a.jpg",
        "ssh://example.com/a.jpg",
        "github://a:b@/c",
        "zip://a.jpg::http://example.com/a.zip",
        "simplecache::http://example.com/a.jpg",
        "filecache::s3://bucket/a.jpg",
        "memory://a::http://example.com/a.jpg",
        "unheard-of://a",
        "hf://datasets/a/b.jpg",
    ],
)
def test_nothing_is_fetched_from_the_web(address: str) -> None:
    for call in (lambda: read_bytes(Ref(address), LIMIT), lambda: stamp(address)):
        with pytest.raises(InvalidInput, match="URLs are not fetched"):
            call()


def test_a_missing_package_is_named_with_its_installation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "s3fs", None)
    with pytest.raises(MissingExtra, match="pip install s3fs"):
        read_bytes(Ref("s3://bucket/a.jpg"), LIMIT)


def test_a_machine_without_handles_is_not_the_fault_of_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> int:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    address = put(str(tmp_path), "a.jpg", b"x")
    monkeypatch.setattr(os, "open", fail)
    with pytest.raises(DeploymentError, match="Too many open files"):
        read_bytes(Ref(address), LIMIT)


class Flaky:
    """A store's method that fails some times before it answers."""

    def __init__(self, method: object, failures: int, error: Exception) -> None:
        self.method, self.failures, self.error, self.calls = method, failures, error, 0

    def __call__(self, *args: object, **named: object) -> object:
        self.calls += 1
        if self.calls <= self.failures:
            raise self.error
        return self.method(*args, **named)  # type: ignore[operator]


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_addresses, "RETRY_WAITS", (0.0, 0.0))


@pytest.mark.usefixtures("impatient")
def test_a_store_that_stumbles_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    address = put("memory://flaky", "a.jpg", b"abc")
    store = fsspec.filesystem("memory")
    monkeypatch.setattr(store, "cat_file", Flaky(store.cat_file, 2, TimeoutError("slow down")))
    assert read_bytes(Ref(address), LIMIT) == b"abc"


@pytest.mark.usefixtures("impatient")
def test_a_store_that_keeps_failing_gives_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    address = put("memory://flaky", "a.jpg", b"abc")
    store = fsspec.filesystem("memory")
    monkeypatch.setattr(store, "cat_file", Flaky(store.cat_file, 3, TimeoutError("slow down")))
    with pytest.raises(InvalidInput, match=r"a\.jpg' cannot be read: slow down"):
        read_bytes(Ref(address), LIMIT)


@pytest.mark.usefixtures("impatient")
def test_a_store_that_says_no_is_not_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    store = fsspec.filesystem("memory")
    asked = Flaky(store.info, 9, FileNotFoundError("a.jpg"))
    monkeypatch.setattr(store, "info", asked)
    with pytest.raises(InvalidInput, match="No such file"):
        read_bytes(Ref("memory://flaky/no.jpg"), LIMIT)
    assert asked.calls == 1


@pytest.mark.usefixtures("impatient")
def test_a_stream_that_breaks_off_is_no_damage_of_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    address = put("memory://flaky", "a.tar", b"abc")
    stream, _ = open_stream(address)
    broken = Flaky(None, 9, ConnectionError("reset"))
    monkeypatch.setattr(stream.raw, "_read", broken)
    with stream, pytest.raises(DeploymentError, match="from byte 0: reset"):
        stream.read(1)


def test_two_streams_of_a_file_have_a_place_each(root: str) -> None:
    address = put(root, "a.tar", bytes(range(256)) * 20_000)
    one, other = open_stream(address)[0], open_stream(address)[0]
    with one, other:
        one.seek(5_000_001)
        assert other.read(2) == b"\0\1"
        assert one.read(1) == bytes([5_000_001 % 256])
        assert one.seek(-1, os.SEEK_END) == 5_119_999
        assert one.read() == b"\xff"


def test_a_stamp_changes_with_the_file(root: str) -> None:
    before = stamp(put(root, "a.jpg", b"abc"))
    assert before == stamp(f"{root}/a.jpg")
    assert before != stamp(put(root, "a.jpg", b"abcd"))


def test_a_text_loses_mark_and_line_end(root: str) -> None:
    assert read_text(put(root, "a.txt", b"\xef\xbb\xbfa\nb \r\n"), LIMIT) == "a\nb "


def test_a_text_that_is_not_utf_8_is_refused(root: str) -> None:
    with pytest.raises(InvalidInput, match="not UTF-8 at byte 1"):
        read_text(put(root, "a.txt", b"a\xff"), LIMIT)


@given(st.binary(min_size=1).filter(lambda name: b"\0" not in name))
def test_any_path_survives_being_an_address(name: bytes) -> None:
    path = b"/" + name
    address = address_of(path)
    assert address.encode("utf-8")
    assert local_path(address) == path


@given(st.text(min_size=1).filter(lambda name: not name.startswith("/") and "::" not in name))
def test_a_name_in_a_folder_stays_in_it(name: str) -> None:
    if ":" in name.partition("/")[0]:
        return
    assert local_path(joined("/base", name)) == b"/base/" + name.encode("utf-8")
    assert joined("s3://bucket/base", name) == f"s3://bucket/base/{name}"


@pytest.mark.parametrize("base", ["/base", "file:///b%FF", "s3://bucket/base"])
def test_an_absolute_name_does_not_depend_on_the_folder(base: str) -> None:
    for name in ("/x/a.jpg", "gs://other/a.jpg", "http://example.com/a.jpg"):
        assert joined(base, name) == name


@pytest.mark.parametrize(
    ("address", "base", "refused"),
    [
        ("/a.jpg", "s3://bucket", False),
        ("s3://other/a.jpg", "hdfs://name/folder", False),
        ("hdfs://name/a.jpg", "hdfs://name/folder", False),
        ("hdfs://other/a.jpg", "hdfs://name/folder", True),
        ("hdfs://name/a.jpg", "/hdfs", True),
        ("oss://other/a.jpg", "oss://bucket/folder", False),
        ("abfss://x@host/a.jpg", "abfs://y@host/folder", False),
        ("abfs://x@other/a.jpg", "abfs://y@host/folder", True),
    ],
)
def test_rows_stay_where_the_source_is(address: str, base: str, refused: bool) -> None:
    assert (outside(address, base) is not None) == refused


def test_a_file_uri_is_decoded() -> None:
    assert joined("/base", "file:///x/a%20b.jpg") == "/x/a b.jpg"
    assert absolute("file:///x/a%20b.jpg") == "/x/a b.jpg"


def test_a_folder_that_is_not_utf_8_holds_files(tmp_path: Path) -> None:
    folder = os.fsencode(tmp_path) + b"/\xff"
    os.mkdir(folder)  # noqa: PTH102 - of bytes
    with open(folder + b"/a.jpg", "wb") as file:  # noqa: PTH123 - of bytes
        file.write(b"abc")
    base = absolute(address_of(folder))
    assert base.endswith("/%FF")
    assert read_bytes(Ref(joined(base, "a.jpg")), LIMIT) == b"abc"
    assert parent(joined(base, "a.jpg")) == base


def test_names_are_shown_without_bytes_that_no_table_holds() -> None:
    assert shown_name("ä\udcff.jpg") == "ä%FF.jpg"
    assert shown_name("plain%.jpg") == "plain%.jpg"
