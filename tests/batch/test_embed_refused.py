"""What `cliprt embed` refuses, and that it says why."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from batch_inputs import small_pictures, write_source
from click.testing import CliRunner, Result

from cliprt import Bundle
from cliprt._cli import main

FILES = {f"{n:05d}.jpg": data for n, data in enumerate(small_pictures(8, seed=2).values())}


def embed(*arguments: object) -> Result:
    result = CliRunner().invoke(main, ["embed", *map(str, arguments)])
    assert "Traceback" not in result.output
    return result


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_source("tar", tmp_path / "source", FILES)


@pytest.fixture
def done(source: Path, demo_bundle: Bundle, tmp_path: Path) -> list[object]:
    """The arguments of a run that has ended."""
    arguments = [source, "--bundle", demo_bundle.path, "--out", tmp_path / "out", "--workers", 1]
    assert embed(*arguments).exit_code == 0
    return arguments


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        (["--dtype", "float16"], "dtype: the folder has float32, asked for is float16"),
        (["--what", "both"], "towers: the folder has image, asked for is image+text"),
        (["--format", "parquet"], "layout: the folder has npy, asked for is parquet"),
        (["--shard-size", 17], "shard_size: the folder has 10000, asked for is 17"),
        (["--max-image-bytes", 999], "max_image_bytes"),
        (["--fast-jpeg"], "fast_jpeg: the folder has false, asked for is true"),
        (["--no-truncate"], "truncate: the folder has true, asked for is false"),
    ],
)
def test_other_options_in_the_same_folder(
    done: list[object], changed: list[object], words: str
) -> None:
    refused = embed(*done, *changed)
    assert refused.exit_code == 1
    assert "holds another run" in refused.output
    assert words in refused.output


def test_another_source(done: list[object], tmp_path: Path) -> None:
    other = write_source("folder", tmp_path / "other", FILES)
    refused = embed(other, *done[1:])
    assert refused.exit_code == 1
    assert "source.address" in refused.output
    assert str(other) in refused.output


def test_another_bundle(done: list[object], small_bundle: Bundle) -> None:
    refused = embed(done[0], "--bundle", small_bundle.path, *done[3:])
    assert refused.exit_code == 1
    assert "space: the folder has" in refused.output


def test_a_tar_that_was_replaced(done: list[object], source: Path, tmp_path: Path) -> None:
    record = tmp_path / "out" / "_cliprt" / "done" / "000000.json"
    record.unlink()
    write_source("tar", source.parent, dict(list(FILES.items())[:5]))
    refused = embed(*done)
    assert refused.exit_code == 1
    assert f"{source}" in refused.output
    assert "the source has changed" in refused.output


def test_a_tar_that_is_gone(done: list[object], source: Path, tmp_path: Path) -> None:
    (tmp_path / "out" / "_cliprt" / "done" / "000000.json").unlink()
    source.unlink()
    refused = embed(*done, "--kind", "tar")
    assert refused.exit_code == 1
    assert str(source) in refused.output


def test_a_folder_that_holds_something_else(
    source: Path, demo_bundle: Bundle, tmp_path: Path
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("years of work")
    refused = embed(source, "--bundle", demo_bundle.path, "--out", tmp_path / "out")
    assert refused.exit_code == 1
    assert "holds no run" in refused.output
    assert "thesis.txt" in refused.output
    assert os.listdir(tmp_path / "out") == ["thesis.txt"]  # noqa: PTH208


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "either --bundle DIR or --url HOST:PORT"),
        (["--bundle", "x", "--url", "localhost:1"], "either --bundle DIR or --url HOST:PORT"),
        (["--bundle", "x", "--shard", "0/4"], "the first number goes from 1"),
        (["--bundle", "x", "--shard", "5/4"], "the first number goes from 1"),
        (["--bundle", "x", "--shard", "one"], "not like 3/16"),
        (["--bundle", "x", "--shard-size", "0"], "shard-size"),
        (["--bundle", "x", "--workers", "0"], "workers"),
        (["--bundle", "x", "--patience", "-1"], "patience"),
        (["--bundle", "x", "--max-image-pixels", "-4"], "max_image_pixels"),
        (["--bundle", "x", "--what", "sound"], "sound"),
    ],
)
def test_wrong_options_are_errors_of_usage(
    source: Path, tmp_path: Path, arguments: list[object], words: str
) -> None:
    refused = embed(source, "--out", tmp_path / "out", *arguments)
    assert refused.exit_code == 2
    assert words in refused.output
    assert not (tmp_path / "out").exists()


def test_a_source_that_is_not_there(demo_bundle: Bundle, tmp_path: Path) -> None:
    refused = embed(tmp_path / "none", "--bundle", demo_bundle.path, "--out", tmp_path / "out")
    assert refused.exit_code == 1
    assert str(tmp_path / "none") in refused.output


def test_a_bundle_that_is_not_there(source: Path, tmp_path: Path) -> None:
    refused = embed(source, "--bundle", tmp_path / "none", "--out", tmp_path / "out")
    assert refused.exit_code == 1
    assert str(tmp_path / "none") in refused.output


@pytest.mark.parametrize("module", ["pyarrow", "filelock"])
def test_a_missing_extra_is_named(
    monkeypatch: pytest.MonkeyPatch,
    source: Path,
    demo_bundle: Bundle,
    tmp_path: Path,
    module: str,
) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == module]:
        monkeypatch.delitem(sys.modules, name)

    class Hidden:
        def find_spec(self, name: str, path: object = None, target: object = None) -> None:
            if name == module:
                raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    monkeypatch.setattr(sys, "meta_path", [Hidden(), *sys.meta_path])
    refused = embed(source, "--bundle", demo_bundle.path, "--out", tmp_path / "out")
    assert refused.exit_code == 1
    assert module in refused.output
    assert "pip install 'cliprt[batch]'" in refused.output
