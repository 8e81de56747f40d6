"""A source that is another one when a run goes on."""

from __future__ import annotations

import io
import os
import sys
from pathlib import Path

import pytest
from batch_sources import parquet, planned, put, samples, tar

from cliprt_batch import _source
from cliprt_batch._source import Source, SourceChanged, check_plan, open_plan

FILES = {
    "list.txt": (b"a.jpg\n", b"a.jpg\nb.jpg\n"),
    "lines.jsonl": (b'{"path": "a.jpg"}', b'{"path": "b.jpeg"}'),
    "a.tar": (tar(samples(1)), tar(samples(2, 9000))),
    "t.parquet": (parquet({"path": ["a.jpg"]}), parquet({"path": ["a.jpg"], "key": ["a"]})),
}
NAMES = pytest.mark.parametrize("name", list(FILES))


class Input(io.TextIOWrapper):
    """A standard input."""

    def __init__(self, content: bytes, *, terminal: bool = False) -> None:
        super().__init__(io.BytesIO(content))
        self.terminal = terminal

    def isatty(self) -> bool:
        return self.terminal


@NAMES
def test_a_source_that_stays_is_accepted(root: str, tmp_path: Path, name: str) -> None:
    source = Source(put(root, name, FILES[name][0]))
    planned(source, tmp_path / "plan")
    check_plan(source, open_plan(tmp_path / "plan"))


@NAMES
def test_a_file_that_was_edited_is_named(root: str, tmp_path: Path, name: str) -> None:
    before, after = FILES[name]
    source = Source(put(root, name, before))
    stamp = planned(source, tmp_path / "plan").units[0].stamp
    put(root, name, after)
    with pytest.raises(SourceChanged, match="choose another --out") as caught:
        check_plan(source, open_plan(tmp_path / "plan"))
    assert f"{root}/{name}" in str(caught.value)
    assert f"was {stamp}, and is size={len(after)}" in str(caught.value)


@NAMES
def test_a_file_that_is_gone_is_named(tmp_path: Path, name: str) -> None:
    source = Source(put(str(tmp_path), name, FILES[name][0]))
    planned(source, tmp_path / "plan")
    (tmp_path / name).unlink()
    with pytest.raises(SourceChanged, match="No such file") as caught:
        check_plan(source, open_plan(tmp_path / "plan"))
    assert name in str(caught.value)


@pytest.mark.parametrize("pattern", ["{}", "{}/*.tar", "{}/{{0..2}}.tar"])
def test_one_file_more_or_less_is_named(tmp_path: Path, pattern: str) -> None:
    root = tmp_path / "source"
    for number in range(3):
        put(str(root), f"{number}.tar", tar(samples(1)))
    source = Source(pattern.format(root))
    planned(source, tmp_path / "plan")
    check_plan(source, open_plan(tmp_path / "plan"))
    (root / "1.tar").rename(root / "7.tar")
    with pytest.raises(SourceChanged) as caught:
        check_plan(source, open_plan(tmp_path / "plan"))
    assert "1.tar" in str(caught.value)
    # Braces say which files there are.
    assert ("7.tar' is new" in str(caught.value)) == ("{{" not in pattern)


def test_a_pattern_that_matches_nothing_any_more(tmp_path: Path) -> None:
    put(str(tmp_path / "source"), "a.tar", tar(samples(1)))
    source = Source(f"{tmp_path}/source/*.tar")
    planned(source, tmp_path / "plan")
    (tmp_path / "source" / "a.tar").unlink()
    with pytest.raises(SourceChanged, match="nothing matches"):
        check_plan(source, open_plan(tmp_path / "plan"))


def test_an_empty_file_that_was_filled_is_named(root: str, tmp_path: Path) -> None:
    put(root, "a.txt", b"a.jpg\n")
    put(root, "b.txt", b"# none\n")
    source = Source(f"{root}/*.txt")
    planned(source, tmp_path / "plan")
    check_plan(source, open_plan(tmp_path / "plan"))
    put(root, "b.txt", b"b.jpg\n")
    with pytest.raises(SourceChanged, match=r"b\.txt' was size=7 .*, and is size=6"):
        check_plan(source, open_plan(tmp_path / "plan"))


def test_few_changes_are_told_and_few_files_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_source, "_CHECKED", 5)
    for number in range(10):
        put(str(tmp_path), f"{number}.tar", tar(samples(1)))
    source = Source(f"{tmp_path}/*.tar")
    planned(source, tmp_path / "plan")
    os.utime(tmp_path / "9.tar", ns=(1, 1))
    check_plan(source, open_plan(tmp_path / "plan"))
    for number in range(10):
        os.utime(tmp_path / f"{number}.tar", ns=(1, 1))
    with pytest.raises(
        SourceChanged, match=r"0\.tar.*; .*2\.tar' was .*, and 2 more changes"
    ) as caught:
        check_plan(source, open_plan(tmp_path / "plan"))
    assert "3.tar" not in str(caught.value)


def test_pictures_that_came_later_are_no_change(root: str, tmp_path: Path) -> None:
    put(root, "a.jpg", b"")
    planned(root, tmp_path / "plan")
    put(root, "b.jpg", b"")
    check_plan(Source(root), open_plan(tmp_path / "plan"))


LISTED = [
    (("image",), b"a.jpg\n\n# none\nb.jpg\n"),
    (("text",), b"a cat\n"),
    (("image",), b'{"path": "a.jpg"}\n'),
]


@pytest.mark.parametrize(("towers", "lines"), LISTED)
@pytest.mark.parametrize("after", ["same", "nothing", "blank", "terminal", "closed", "none"])
def test_a_standard_input_that_has_nothing_else_is_accepted(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    towers: tuple[str, ...],
    lines: bytes,
    after: str,
) -> None:
    monkeypatch.setattr(sys, "stdin", Input(lines))
    planned("-", tmp_path / "plan", towers)
    inputs = {
        "same": Input(lines),
        "nothing": Input(b""),
        "blank": Input(b"\n\n"),
        "terminal": Input(b"typed\n", terminal=True),
        "closed": Input(b""),
        "none": None,
    }
    inputs["closed"].close()  # type: ignore[union-attr]
    monkeypatch.setattr(sys, "stdin", inputs[after])
    check_plan(Source("-"), open_plan(tmp_path / "plan"))


@pytest.mark.parametrize(("towers", "lines"), LISTED)
@pytest.mark.parametrize("after", [b"c.jpg\n", b'{"path": "c.jpg"}\n'])
def test_other_lines_of_the_standard_input_are_told(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    towers: tuple[str, ...],
    lines: bytes,
    after: bytes,
) -> None:
    monkeypatch.setattr(sys, "stdin", Input(lines))
    items = planned("-", tmp_path / "plan", towers).items
    monkeypatch.setattr(sys, "stdin", Input(lines + after))
    reason = rf"standard input has other lines .* than those that were listed \({items} items\)"
    with pytest.raises(SourceChanged, match=f"{reason}.*choose another --out"):
        check_plan(Source("-"), open_plan(tmp_path / "plan"))
