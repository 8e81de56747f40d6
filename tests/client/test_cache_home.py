"""Caches are this user's alone: what another user could have put there is not used."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from cliprt import Bundle, Client
from cliprt._cache_home import _drawn, cache_folder
from cliprt_triton import TritonServer
from cliprt_triton._server_log import default_log, opened_log


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CLIPRT_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def give_away(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes a folder another user's, or this process that of another user where it may not."""
    if os.geteuid() == 0:
        os.chown(path, 4242, 4242)
    else:
        monkeypatch.setattr(os, "geteuid", lambda: 4242)


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


def test_a_folder_is_made_private(home: Path) -> None:
    before = os.umask(0)
    try:
        folder = cache_folder("cpu")
    finally:
        os.umask(before)
    assert folder == home / "cpu"
    assert mode(folder) == mode(home) == 0o700


def test_one_of_this_user_that_stands_open_is_closed(home: Path) -> None:
    (home / "cpu").mkdir(parents=True)
    (home / "cpu").chmod(0o777)
    assert mode(cache_folder("cpu")) == 0o700


def test_one_of_another_user_is_not_used(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (home / "cpu").mkdir(parents=True)
    give_away(home / "cpu", monkeypatch)
    with pytest.raises(PermissionError):
        cache_folder("cpu")


def test_nor_one_in_a_home_of_another_user(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who could put another in its place at any moment."""
    home.mkdir()
    give_away(home, monkeypatch)
    with pytest.raises(PermissionError, match="belongs to another user"):
        cache_folder("cpu")


def test_nor_what_is_no_folder(home: Path, tmp_path: Path) -> None:
    home.mkdir()
    (tmp_path / "elsewhere").mkdir()
    (home / "cpu").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(PermissionError, match="not a folder of this user"):
        cache_folder("cpu")


def test_the_home_itself_may_be_a_link_of_this_user(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "home").symlink_to(tmp_path / "disk")
    monkeypatch.setenv("CLIPRT_HOME", str(tmp_path / "home"))
    assert cache_folder("cpu").resolve() == tmp_path / "disk" / "cpu"


NAMELESS = """
import os, pathlib
def home(): raise RuntimeError("no home")
pathlib.Path.home = home
from cliprt._cache_home import cache_folder
print(cache_folder("cpu"))
"""


def nameless(folder: Path) -> Path:
    """Where a user without a home has a cache."""
    environment = {key: value for key, value in os.environ.items() if key != "CLIPRT_HOME"}
    run = subprocess.run(
        [sys.executable, "-c", NAMELESS],
        env={**environment, "TMPDIR": str(folder)},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return Path(run.stdout.strip())


def test_a_user_without_a_home_has_a_private_folder(tmp_path: Path) -> None:
    found = nameless(tmp_path)
    assert found == tmp_path / f"cliprt-{os.geteuid()}" / "cpu"
    assert mode(found.parent) == mode(found) == 0o700


def test_who_takes_its_name_first_gains_nothing(tmp_path: Path) -> None:
    taken = tmp_path / f"cliprt-{os.geteuid()}"
    (tmp_path / "theirs").mkdir()
    taken.symlink_to(tmp_path / "theirs")
    found = nameless(tmp_path)
    assert found.parent.parent == tmp_path
    assert found.parent.name.startswith("cliprt-")
    assert not list((tmp_path / "theirs").iterdir())
    # It went with the process that had drawn it.
    assert not found.exists()


def test_it_is_drawn_once() -> None:
    drawn = _drawn()
    try:
        assert _drawn() is drawn
    finally:
        drawn.cleanup()
        _drawn.cache_clear()


def test_a_cache_that_may_not_be_used_costs_no_answer(
    home: Path, demo_server: TritonServer, demo_bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor is what lies in it believed: whoever owns it may have changed the tokenizer."""
    name = f"{demo_bundle.card.files['tokenizer.json'].sha256}.json"
    (home / "tokenizers").mkdir(parents=True)
    (home / "tokenizers" / name).write_text("poison", encoding="utf-8")
    with Client(demo_server.address) as client:
        expected = client.encode_text("a ring")
    assert (home / "tokenizers" / name).read_text(encoding="utf-8") != "poison"
    (home / "tokenizers" / name).write_text("poison", encoding="utf-8")
    give_away(home, monkeypatch)
    with Client(demo_server.address) as client:
        assert (client.encode_text("a ring") == expected).all()
    assert (home / "tokenizers" / name).read_text(encoding="utf-8") == "poison"


def test_a_log_is_private_and_made_anew(home: Path, tmp_path: Path) -> None:
    (home / "logs").mkdir(parents=True)
    target = tmp_path / "target"
    target.write_text("precious", encoding="utf-8")
    (home / "logs" / "tritonserver-8001.log").symlink_to(target)
    log = default_log(8001)
    assert log == home / "logs" / "tritonserver-8001.log"
    assert not log.is_symlink()
    assert (mode(log), mode(log.parent)) == (0o600, 0o700)
    assert target.read_text(encoding="utf-8") == "precious"


def test_a_log_beside_other_temporary_files_has_a_name_that_nobody_foresees(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home.write_text("no folder", encoding="utf-8")
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    first, second = default_log(8001), default_log(8001)
    assert first != second
    assert first.parent == tmp_path / "tmp"
    assert mode(first) == 0o600


def test_a_log_that_is_asked_for_is_private_where_it_is_made(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        with opened_log(tmp_path / "log", anew=True) as file:
            file.write(b"one")
    finally:
        os.umask(before)
    assert mode(tmp_path / "log") == 0o600
    with opened_log(tmp_path / "log", anew=False) as file:
        file.write(b" two")
    assert (tmp_path / "log").read_bytes() == b"one two"
    with opened_log(tmp_path / "log", anew=True) as file:
        file.write(b"three")
    assert (tmp_path / "log").read_bytes() == b"three"
