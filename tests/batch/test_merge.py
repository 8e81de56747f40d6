"""Folders of shares, joined: the bytes of the undivided run."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner
from run_folders import PLAN, config, do_unit, files, left_over, rows

from cliprt_batch._cli_merge import merge as command
from cliprt_batch._merge import merge
from cliprt_batch._output_errors import OutputBusy, OutputError, OutputMismatch, OutputUnfinished
from cliprt_batch._run_config import Layout, RunConfig
from cliprt_batch._run_folder import RunFolder

UNITS, BAD = 7, (2, 9)


def share(
    out: Path,
    which: tuple[int, int],
    settings: RunConfig | None = None,
    *,
    plan: str = PLAN,
    stop: int = UNITS,
    bad: tuple[int, ...] = BAD,
) -> Path:
    """Runs a share, up to a unit."""
    settings = settings or config()
    with RunFolder.open(out, settings, share=which) as run:
        run.note_plan(plan)
        for unit in filter(run.owns, range(stop)):
            do_unit(run, settings, unit, items=12, bad=bad)
        (run.plan_folder / "plan.jsonl").write_text("the plan\n")
        if stop == UNITS:
            run.finish(UNITS)
    return out


@pytest.mark.parametrize("layout", ["npy", "parquet"])
def test_three_shares_are_the_whole(tmp_path: Path, layout: Layout) -> None:
    settings = config(layout)
    whole = files(share(tmp_path / "whole", (1, 1), settings))
    shares = [share(tmp_path / str(i), (i, 3), settings) for i in (3, 1, 2)]
    before = [files(folder) for folder in shares]
    manifest = merge(shares, tmp_path / "out")
    assert (manifest.items, manifest.embedded) == (UNITS * 12, UNITS * 10)
    assert files(tmp_path / "out") == whole
    assert (tmp_path / "out" / "_cliprt" / "plan.jsonl").read_text() == "the plan\n"
    assert left_over(tmp_path / "out") == []
    assert [files(folder) for folder in shares] == before


def test_files_are_links_and_copies_where_that_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shares = [share(tmp_path / str(i), (i, 2)) for i in (1, 2)]
    name = "img_emb/img_emb_000000.npy"
    merge(shares, tmp_path / "linked")
    assert (tmp_path / "linked" / name).samefile(shares[0] / name)

    def refuse(*_: object) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(Path, "hardlink_to", refuse)
    merge(shares, tmp_path / "copied")
    assert not (tmp_path / "copied" / name).samefile(shares[0] / name)
    assert files(tmp_path / "copied") == files(tmp_path / "linked")


def test_what_was_merged_can_be_amended_without_touching_the_shares(tmp_path: Path) -> None:
    shares = [share(tmp_path / str(i), (i, 2)) for i in (1, 2)]
    before = [files(folder) for folder in shares]
    out = tmp_path / "out"
    merge(shares, out)
    settings = config()
    with RunFolder.open(out, settings) as run:
        for unit in range(UNITS):
            run.amend(unit, rows(settings, unit, BAD))
        run.finish(UNITS)
    assert files(out) == files(share(tmp_path / "whole", (1, 1), bad=()))
    assert [files(folder) for folder in shares] == before


def test_one_folder_of_all_shares_is_finished_in_place(tmp_path: Path) -> None:
    out = tmp_path / "out"
    share(out, (1, 2))
    with RunFolder.open(out, config(), share=(2, 2)) as run:
        for unit in filter(run.owns, range(UNITS)):
            do_unit(run, config(), unit, items=12, bad=BAD)
    assert not (out / "manifest.json").exists()
    merge([out], out)
    assert files(out) == files(share(tmp_path / "whole", (1, 1)))


def test_the_same_units_twice_are_taken_once(tmp_path: Path) -> None:
    one, two = share(tmp_path / "1", (1, 2)), share(tmp_path / "2", (2, 2))
    whole = share(tmp_path / "whole", (1, 1))
    shutil.copytree(one, tmp_path / "copy")
    merge([one, tmp_path / "copy", two, whole], tmp_path / "out")
    assert files(tmp_path / "out") == files(whole)


def test_missing_units_are_named_with_what_makes_them(tmp_path: Path) -> None:
    shares = [share(tmp_path / str(i), (i, 4)) for i in (1, 3)]
    with pytest.raises(
        OutputUnfinished, match="3 of 7 units.*: 1, 3, 5;.*--shard 2/4, --shard 4/4"
    ):
        merge(shares, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_unfinished_share_alone_is_named(tmp_path: Path) -> None:
    folder = share(tmp_path / "1", (1, 2), stop=2)
    with pytest.raises(
        OutputUnfinished, match="1 is unfinished: 1 shards are done; run the command"
    ):
        merge([folder], tmp_path / "out")


def test_units_that_differ_are_refused(tmp_path: Path) -> None:
    one = share(tmp_path / "1", (1, 1))
    other = share(tmp_path / "2", (1, 1), bad=(3, 4))
    with pytest.raises(OutputError, match="unit . is in .*1 and in .*2, and they differ"):
        merge([one, other], tmp_path / "out")


def test_shares_of_different_runs_are_refused(tmp_path: Path) -> None:
    one = share(tmp_path / "1", (1, 2))
    other = share(tmp_path / "2", (2, 2), config(dtype="float16"))
    with pytest.raises(OutputMismatch, match="dtype: the first has float32, the other float16"):
        merge([one, other], tmp_path / "out")
    other = share(tmp_path / "3", (2, 2), plan="cd" * 32)
    with pytest.raises(OutputMismatch, match="the source was not the same"):
        merge([one, other], tmp_path / "out")


@pytest.mark.parametrize("linked", [True, False])
def test_a_damaged_file_is_not_merged(
    tmp_path: Path, linked: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = share(tmp_path / "1", (1, 1))
    path = folder / "text_emb" / "text_emb_000003.npy"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    if not linked:

        def refuse(*_: object) -> None:
            raise OSError(18, "Invalid cross-device link")

        monkeypatch.setattr(Path, "hardlink_to", refuse)
    with pytest.raises(
        OutputError, match="1/text_emb/text_emb_000003.npy is not what the run wrote"
    ):
        merge([folder], tmp_path / "out")
    assert not (tmp_path / "out" / "manifest.json").exists()
    assert left_over(tmp_path / "out") == []


def test_a_folder_of_something_else_is_no_share(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="holds no run of cliprt embed"):
        merge([tmp_path], tmp_path / "out")
    with pytest.raises(OutputError, match="there is nothing to merge"):
        merge([], tmp_path / "out")


def test_a_folder_that_is_being_written_is_not_merged_into(tmp_path: Path) -> None:
    folder = share(tmp_path / "1", (1, 1))
    with RunFolder.open(folder, config()), pytest.raises(OutputBusy):
        merge([folder], folder)


def test_the_command(tmp_path: Path) -> None:
    shares = [str(share(tmp_path / str(i), (i, 2))) for i in (1, 2)]
    out = tmp_path / "out"
    said = CliRunner().invoke(command, [*shares, "--out", str(out)])
    assert said.exit_code == 0
    assert f"{out}: 7 shards, 70 items embedded, 14 failed" in said.output
    said = CliRunner().invoke(command, [*shares, "--out", str(out), "--json"])
    assert json.loads(said.stdout) == {
        "out": str(out),
        "items": 84,
        "embedded": 70,
        "failed": {"encode": 7, "read": 7},
        "shards": 7,
    }
