"""The folder of a run: parts, shards, failures, amended shards, and the manifest."""

from __future__ import annotations

import json
import sys
import tracemalloc
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from run_folders import (
    DIM,
    LAYOUTS,
    PLAN,
    config,
    do_unit,
    files,
    left_over,
    rows,
    unsynced,
    write_parts,
)

from cliprt import MissingExtra
from cliprt_batch import _rewriting, _shards
from cliprt_batch._output_errors import OutputError, OutputMismatch, OutputUnfinished
from cliprt_batch._records import Dtype
from cliprt_batch._run_config import Layout
from cliprt_batch._run_folder import RunFolder

__all__ = ["unsynced"]

DTYPES = pytest.mark.parametrize("dtype", ["float32", "float16"])


def finished(
    out: Path,
    layout: Layout = "npy",
    bad: tuple[int, ...] = (),
    *,
    dtype: Dtype = "float32",
    size: int = 6,
) -> dict[str, bytes]:
    """An output of two units of 20 items each."""
    settings = config(layout, dtype)
    with RunFolder.open(out, settings) as run:
        run.note_plan(PLAN)
        for unit in range(2):
            do_unit(run, settings, unit, bad=bad, size=size)
        assert run.finish(2) is not None
    assert left_over(out) == []
    return files(out)


@DTYPES
def test_arrays_are_what_numpy_saves(tmp_path: Path, dtype: Dtype) -> None:
    finished(tmp_path / "out", bad=(0, 7), dtype=dtype)
    settings = config("npy", dtype)
    good = rows(settings, 1, [place for place in range(20) if place not in (0, 7)])
    for name, column in (("img_emb", "image_embedding"), ("text_emb", "text_embedding")):
        expected = np.array(good[column].to_pylist(), dtype)
        np.save(tmp_path / "expected.npy", expected)
        written = (tmp_path / "out" / name / f"{name}_000001.npy").read_bytes()
        assert written == (tmp_path / "expected.npy").read_bytes()


@LAYOUTS
def test_the_bytes_do_not_depend_on_the_parts(
    tmp_path: Path, layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_shards, "ROW_GROUP", 8)
    bad = (0, 5, 6, 19)
    one = finished(tmp_path / "one", layout, bad, size=3)
    assert one == finished(tmp_path / "other", layout, bad, size=20)


@LAYOUTS
def test_a_resumed_run_gives_the_same_bytes(tmp_path: Path, layout: Layout) -> None:
    whole = finished(tmp_path / "whole", layout, (3, 4))
    out, settings = tmp_path / "out", config(layout)
    with RunFolder.open(out, settings) as run:
        run.note_plan(PLAN)
        do_unit(run, settings, 1, bad=(3, 4))
        run.write_part(0, 1, rows(settings, 0, range(6, 12)))
    with RunFolder.open(out, settings) as run:
        assert run.is_done(1)
        assert not run.is_done(0)
        assert run.parts(0) == {1: 6}
    assert finished(out, layout, (3, 4)) == whole


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content[:-1],
        lambda content: content[:100],
        lambda content: b"",
        lambda content: content[:200] + bytes([content[200] ^ 1]) + content[201:],
        lambda content: content + b"\0",
    ],
)
def test_a_damaged_part_is_dropped(tmp_path: Path, damage: object) -> None:
    settings = config()
    with RunFolder.open(tmp_path / "out", settings) as run:
        write_parts(run, settings, 0, 20)
        path = tmp_path / "out" / "_cliprt" / "work" / "000000" / "0002.arrow"
        path.write_bytes(damage(path.read_bytes()))  # type: ignore[operator]
        assert run.parts(0) == {0: 6, 1: 6, 3: 2}
        assert not path.exists()


def test_a_part_that_is_damaged_after_it_was_checked_is_not_committed(tmp_path: Path) -> None:
    settings = config()
    with RunFolder.open(tmp_path / "out", settings) as run:
        parts = write_parts(run, settings, 0, 20)
        path = tmp_path / "out" / "_cliprt" / "work" / "000000" / "0002.arrow"
        path.write_bytes(path.read_bytes()[:-5])
        with pytest.raises(OutputError, match="0002.arrow is missing or damaged"):
            run.commit(0, parts)
        assert not run.is_done(0)
        assert not list((tmp_path / "out" / "_cliprt" / "tmp").glob("*/*"))


def test_a_unit_without_items_is_a_shard_without_rows(tmp_path: Path) -> None:
    settings = config()
    with RunFolder.open(tmp_path, settings) as run:
        record = run.commit(0, 0)
    assert record.items == 0
    assert np.load(tmp_path / "img_emb" / "img_emb_000000.npy").shape == (0, DIM)
    assert pa.parquet.read_table(tmp_path / "metadata" / "metadata_000000.parquet").num_rows == 0


def test_only_the_towers_that_were_asked_for_have_files(tmp_path: Path) -> None:
    settings = config(towers=("text",))
    with RunFolder.open(tmp_path, settings) as run:
        run.write_part(0, 0, rows(settings, 0, range(3)))
        assert list(run.commit(0, 1).files) == [
            "metadata/metadata_000000.parquet",
            "text_emb/text_emb_000000.npy",
        ]


def test_rows_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    settings = config()
    good = rows(settings, 0, range(4))
    unstaged = good.set_column(8, good.schema.field("error"), pa.array(["x", None, None, None]))
    unknown = rows(settings, 0, range(4), bad=(1,))
    unknown = unknown.set_column(7, good.schema.field("stage"), pa.array([None, "nap", None, None]))
    lacking = rows(settings, 0, range(4), bad=(1,))
    for name in ("stage", "error"):
        index = good.schema.get_field_index(name)
        lacking = lacking.set_column(index, good.schema.field(name), good[name])
    with RunFolder.open(tmp_path, settings) as run:
        for table, reason in (
            (good.drop_columns(["sha256"]), "has the columns"),
            (good.slice(0, 0), "no rows"),
            (good.take([1, 0, 2]), "not in the order"),
            (good.take([0, 2]), "leaves out rows"),
            (unstaged, "an error without a stage"),
            (unknown, "unknown stage"),
            (lacking, "that did not fail has no"),
        ):
            with pytest.raises(ValueError, match=reason):
                run.write_part(0, 0, table)
        run.write_part(0, 0, good)
        run.write_part(0, 1, rows(settings, 0, range(5, 8)))
        with pytest.raises(ValueError, match="do not follow one another"):
            run.commit(0, 2)
        assert run.parts(0) == {0: 4, 1: 3}


def test_failures_are_listed_and_counted(tmp_path: Path) -> None:
    finished(tmp_path, bad=(3, 7))
    lines = (tmp_path / "failures.jsonl").read_text().splitlines()
    assert len(lines) == 4
    assert json.loads(lines[2]) == {
        "key": "1/3.jpg",
        "shard": 1,
        "row": 3,
        "stage": "read",
        "reason": "no good: 3",
    }
    with RunFolder.open(tmp_path, config()) as run:
        assert [(failure.row, failure.stage) for failure in run.failed(1)] == [
            (3, "read"),
            (7, "decode"),
        ]
        record = run.done()[1]
        assert (record.items, record.embedded) == (20, 18)
        assert record.failed == {"decode": 1, "read": 1}


def test_where_nothing_failed_the_list_is_empty(tmp_path: Path) -> None:
    assert finished(tmp_path)["failures.jsonl"] == b""


@LAYOUTS
@DTYPES
@pytest.mark.parametrize("again", [(), (7,)])
def test_an_amended_shard_is_as_if_nothing_had_failed(
    tmp_path: Path,
    layout: Layout,
    dtype: Dtype,
    again: tuple[int, ...],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(_shards, "ROW_GROUP", 8)
    monkeypatch.setattr(_rewriting, "PART_ITEMS", 5)
    bad = (0, 4, 5, 7, 19)
    settings, out = config(layout, dtype), tmp_path / "out"
    finished(out, layout, bad, dtype=dtype)
    with RunFolder.open(out, settings) as run:
        for unit in range(2):
            run.amend(unit, rows(settings, unit, [0, 7, 19], bad=again))
            assert not (out / "manifest.json").exists()
            run.amend(unit, rows(settings, unit, [4, 5], bad=again))
            assert [failure.row for failure in run.failed(unit)] == list(again)
        run.finish(2)
    assert files(out) == finished(tmp_path / "whole", layout, again, dtype=dtype)
    assert left_over(out) == []


def test_only_failed_rows_can_be_amended(tmp_path: Path) -> None:
    finished(tmp_path, bad=(3,))
    settings = config()
    with RunFolder.open(tmp_path, settings) as run:
        for table in (rows(settings, 0, [3, 4]), rows(settings, 1, [3])):
            with pytest.raises(ValueError, match="are not failed ones of unit 0"):
                run.amend(0, table)


def test_a_shard_that_was_changed_is_not_amended(tmp_path: Path) -> None:
    finished(tmp_path, bad=(3,))
    path = tmp_path / "img_emb" / "img_emb_000000.npy"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    settings = config()
    with (
        RunFolder.open(tmp_path, settings) as run,
        pytest.raises(OutputError, match="img_emb_000000.npy is not what the run wrote"),
    ):
        run.amend(0, rows(settings, 0, [3]))


@pytest.mark.parametrize("lose", ["delete", "cut"])
def test_a_shard_whose_file_is_lost_is_done_again(tmp_path: Path, lose: str) -> None:
    whole = finished(tmp_path)
    path = tmp_path / "text_emb" / "text_emb_000001.npy"
    if lose == "delete":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:-1])
    with RunFolder.open(tmp_path, config()) as run:
        assert list(run.done()) == [0]
        assert not (tmp_path / "manifest.json").exists()
    assert finished(tmp_path) == whole


def test_a_finished_run_can_be_opened_and_finished_again(tmp_path: Path) -> None:
    assert finished(tmp_path) == finished(tmp_path)


def test_an_unfinished_run_is_not_finished(tmp_path: Path) -> None:
    settings = config()
    with RunFolder.open(tmp_path, settings) as run:
        run.note_plan(PLAN)
        do_unit(run, settings, 0)
        with pytest.raises(OutputUnfinished, match="1 units are not done, the first is 1; run"):
            run.finish(2)


def test_a_file_that_is_lost_before_the_end_is_noticed(tmp_path: Path) -> None:
    settings = config()
    with RunFolder.open(tmp_path, settings) as run:
        run.note_plan(PLAN)
        do_unit(run, settings, 0)
        (tmp_path / "img_emb" / "img_emb_000000.npy").unlink()
        with pytest.raises(OutputUnfinished, match="the first is 0; run the same command again"):
            run.finish(1)
    assert not (tmp_path / "manifest.json").exists()


def test_a_missing_pyarrow_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingExtra, match=r"pip install 'cliprt\[batch\]'"):
        RunFolder.open(tmp_path / "out", config())
    assert not (tmp_path / "out").exists()


def test_another_run_is_refused_and_every_difference_named(tmp_path: Path) -> None:
    with RunFolder.open(tmp_path, config()):
        pass
    asked = config("parquet", "float16", towers=("image",), options={"truncate": False, "mb": 1})
    with pytest.raises(OutputMismatch, match="choose another --out, or delete it") as caught:
        RunFolder.open(tmp_path, asked)
    assert caught.value.differences == (
        "towers: the folder has image+text, asked for is image",
        "layout: the folder has npy, asked for is parquet",
        "dtype: the folder has float32, asked for is float16",
        "options.precision: the folder has fp32, asked for is none",
        "options.truncate: the folder has true, asked for is false",
        "options.mb: the folder has none, asked for is 1",
    )
    for difference in caught.value.differences:
        assert difference in str(caught.value)


def test_another_plan_is_refused(tmp_path: Path) -> None:
    with RunFolder.open(tmp_path, config()) as run:
        run.note_plan(PLAN)
        run.note_plan(PLAN)
        with pytest.raises(OutputMismatch, match="the source has changed since"):
            run.note_plan("cd" * 32)


def test_a_folder_of_something_else_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "holiday.jpg").touch()
    with pytest.raises(OutputError, match=r"no run of cliprt embed \(there is 'holiday.jpg'\)"):
        RunFolder.open(tmp_path, config())
    assert [path.name for path in tmp_path.iterdir()] == ["holiday.jpg"]
    with pytest.raises(OutputError, match="is a file"):
        RunFolder.open(tmp_path / "holiday.jpg", config())


@pytest.mark.parametrize("content", [b"{", b"[]", b'{"version": 1}', b'{"version": 9}'])
def test_a_damaged_or_foreign_run_is_refused(tmp_path: Path, content: bytes) -> None:
    with RunFolder.open(tmp_path, config()):
        pass
    (tmp_path / "_cliprt" / "run.json").write_bytes(content)
    with pytest.raises(OutputError, match="choose another --out$") as raised:
        RunFolder.open(tmp_path, config())
    # Without this record nothing in the folder is of use; it is not one of a single shard.
    assert "delete" not in str(raised.value)


def test_the_last_of_several_shares_writes_the_manifest(tmp_path: Path) -> None:
    settings, whole = config(), finished(tmp_path / "whole")
    out = tmp_path / "out"
    first = RunFolder.open(out, settings, share=(1, 2))
    second = RunFolder.open(out, settings, share=(2, 2))
    for run, unit in ((first, 0), (second, 1)):
        run.note_plan(PLAN)
        assert (run.owns(0), run.owns(1)) == (unit == 0, unit == 1)
        do_unit(run, settings, unit)
    with pytest.raises(ValueError, match="unit 1 is committed, or of another share"):
        first.write_part(1, 0, rows(settings, 1, range(3)))
    assert first.finish(2) is None
    assert not (out / "manifest.json").exists()
    assert second.finish(2) is not None
    assert files(out) == whole


def test_a_share_that_opens_leaves_the_files_of_others_alone(tmp_path: Path) -> None:
    settings = config()
    with RunFolder.open(tmp_path, settings, share=(1, 2)) as run:
        write_parts(run, settings, 0, 20)
        temporary = tmp_path / "_cliprt" / "tmp" / "1-of-2" / "being-written"
        temporary.touch()
        with RunFolder.open(tmp_path, settings, share=(2, 2)):
            assert temporary.exists()
            assert run.parts(0) == {0: 6, 1: 6, 2: 6, 3: 2}
    with RunFolder.open(tmp_path, settings, share=(2, 2)):
        assert not temporary.exists()


@LAYOUTS
def test_memory_is_that_of_a_part_and_not_of_the_shard(tmp_path: Path, layout: Layout) -> None:
    """Python's memory and pyarrow's, which count their own."""
    settings = config(layout, dim=512)
    size, parts = 512, 24
    with RunFolder.open(tmp_path, settings) as run:
        for part in range(parts):
            run.write_part(0, part, rows(settings, 0, range(part * size, (part + 1) * size)))
        part_bytes = size * 2 * settings.dim * 4
        pool = pa.default_memory_pool()
        begun, peaks = pool.bytes_allocated(), list[int]()
        tables = run._tables

        def counted(unit: int, count: int):  # type: ignore[no-untyped-def]
            for table in tables(unit, count):
                peaks.append(pool.bytes_allocated() - begun)
                yield table

        run._tables = counted  # type: ignore[method-assign]
        tracemalloc.start()
        run.commit(0, parts)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    # The shard is 24 parts; a row group is four, and is held before it is put into one piece.
    bound = 12 if layout == "parquet" else 5
    assert peak < bound * part_bytes
    assert max(peaks) < bound * part_bytes


@pytest.fixture
def restless() -> Iterator[None]:
    """Threads take turns all the time."""
    usual = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(usual)


@pytest.mark.usefixtures("restless", "unsynced")
def test_one_thread_may_ask_while_another_commits(tmp_path: Path) -> None:
    units = 300
    with ThreadPoolExecutor(1) as threads, RunFolder.open(tmp_path, config()) as run:
        commits = threads.submit(lambda: [run.commit(unit, 0) for unit in range(units)])
        while not commits.done():
            run.parts(units)
            known = list(run.done())
            assert known == list(range(len(known)))
        assert len(commits.result()) == len(run.done()) == units
