"""A run that is killed again and again ends with the bytes of one that never was."""

from __future__ import annotations

from pathlib import Path

import pytest
from batch_runs import finished, killed, output, run

from cliprt import Bundle

SHARD = ("--shard-size", "600")


@pytest.fixture(scope="module")
def arguments(demo_bundle: Bundle, pictures_2400: Path) -> list[object]:
    return ["embed", pictures_2400, "--bundle", demo_bundle.path, *SHARD]


@pytest.fixture(scope="module")
def undisturbed(arguments: list[object], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("undisturbed") / "out"
    finished(*arguments, "--out", out, "--workers", 2)
    assert len(output(out)) == 4 * 2 + 2
    return out


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_killed_and_resumed(
    arguments: list[object], undisturbed: Path, tmp_path: Path, workers: int
) -> None:
    out = tmp_path / "out"
    went = killed(
        lambda life: [*arguments, "--out", out, "--workers", workers], out, kills=3, seed=workers
    )
    assert went.kills >= 2
    assert output(out) == output(undisturbed)


def test_the_number_of_workers_changes_between_the_lives(
    arguments: list[object], undisturbed: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    went = killed(
        lambda life: [*arguments, "--out", out, "--workers", (2, 1, 4, 3)[life % 4]],
        out, kills=6, seed=9,
    )  # fmt: skip
    assert went.kills >= 3
    assert output(out) == output(undisturbed)


def test_shares_in_folders_of_their_own_are_merged(
    arguments: list[object], undisturbed: Path, tmp_path: Path
) -> None:
    folders = [tmp_path / f"share{share}" for share in (1, 2)]
    for share, out in enumerate(folders, 1):
        went = killed(
            lambda life, out=out, share=share: [*arguments, "--out", out, "--shard", f"{share}/2"],
            out, kills=2, seed=share, plain=0.0,
        )  # fmt: skip
        assert went.kills >= 1
    finished("merge", *folders, "--out", tmp_path / "merged")
    assert output(tmp_path / "merged") == output(undisturbed)


def test_shares_in_one_folder(arguments: list[object], undisturbed: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    for share in (1, 2):
        killed(
            lambda life, share=share: [*arguments, "--out", out, "--shard", f"{share}/2"],
            out, kills=2, seed=share, plain=1.0,
        )  # fmt: skip
    assert output(out) == output(undisturbed)


def test_nothing_is_computed_again_in_a_finished_run(
    arguments: list[object], undisturbed: Path
) -> None:
    before = {path: path.stat().st_mtime_ns for path in (undisturbed / "img_emb").iterdir()}
    again = run(*arguments, "--out", undisturbed)
    assert again.returncode == 0
    assert "this run: 0 items" in again.stdout
    assert {path: path.stat().st_mtime_ns for path in before} == before
