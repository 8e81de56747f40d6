"""``make bench``: the commands that it gives, and what it says of its time."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from conftest import ROOT

import cards
from cliprt import Bundle
from cliprt_bench._comparable import read_labelled
from cliprt_bench._compare import compare_bench_cards
from cliprt_bench._compare_tables import to_markdown


class Clock:
    """Stands where nobody moves it."""

    seconds = 0.0

    def monotonic(self) -> float:
        return self.seconds


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch, demo_bundle: Bundle) -> list[list[str]]:
    """What was run, each in a minute; exporting takes two, and no server is started."""
    clock, run = Clock(), []

    def runs(command: Sequence[str], *, check: bool) -> None:
        assert check
        clock.seconds += 60
        run.append([*command][3:])

    def exports() -> Bundle:
        clock.seconds += 120
        return demo_bundle

    @contextmanager
    def serves(repository: object) -> Iterator[Any]:
        yield SimpleNamespace(address="127.0.0.1:1", pid=1)

    monkeypatch.setattr(cards, "time", clock)
    monkeypatch.setattr(cards, "subprocess", SimpleNamespace(run=runs))
    monkeypatch.setattr(cards, "drawn_bundle", exports)
    monkeypatch.setattr(cards, "TritonServer", serves)
    for name in ("write_repository", "chosen_settings", "keep_pictures"):
        monkeypatch.setattr(cards, name, lambda *arguments, **more: None)
    return run


def test_the_export_counts(
    commands: list[list[str]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    (tmp_path / "other.json").touch()
    (tmp_path / "old-load.json").touch()
    (tmp_path / "load.png").touch()
    monkeypatch.setattr("sys.argv", ["cards.py", "--out", str(tmp_path)])
    cards.main()
    kinds = [command[1] for command in commands]
    # In process and served, in two precisions; a load is that of a server.
    assert {kind: len([*group]) for kind, group in itertools.groupby(sorted(kinds))} == {
        **{"compare": 4, "latency": 2, "load": 2, "startup": 2, "throughput": 4}
    }
    minutes = len(commands) + 2
    said = f"measured in {minutes:.1f} minutes, 2.0 of them to have the bundle; reports: {tmp_path}"
    assert said in capsys.readouterr().out
    assert [path.name for path in tmp_path.iterdir()] == ["other.json"]


def test_without_a_browser_there_are_no_pictures(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(cards, "chromium", lambda: nullcontext(None))
    cards.keep_pictures(tmp_path)
    assert "there is no chromium" in capsys.readouterr().out
    assert not [*tmp_path.iterdir()]


def test_the_tables_of_the_benchmarks_page_are_those_of_its_cards() -> None:
    page = (ROOT / "docs" / "benchmarks.md").read_text(encoding="utf-8")
    shown = re.findall(r"^\| (?:image|text|startup)[,:] .*$", page, re.MULTILINE)
    assert len(shown) > 20
    measured: set[str] = set()
    for kind in ("throughput", "latency", "load", "startup"):
        cards = sorted((ROOT / "docs" / "cards").glob(f"*-{kind}.json"))
        compared = compare_bench_cards(read_labelled(cards))
        measured |= set(to_markdown(compared, None).splitlines())
    assert [line for line in shown if line not in measured] == []
