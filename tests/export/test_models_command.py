"""``cliprt models`` and what ``cliprt convert`` says without torch."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from cliprt import BundleError, MissingExtra
from cliprt_export import _cli_models
from cliprt_export._cli_convert import convert
from cliprt_export._convert import convert_checkpoint
from cliprt_export._families import FAMILIES


def run(*arguments: str) -> Result:
    result = CliRunner().invoke(_cli_models.models, list(arguments))
    assert result.exit_code == 0
    return result


def test_every_family_is_listed_as_json() -> None:
    listed = json.loads(run("--json").stdout)
    assert [entry["name"] for entry in listed] == [family.name for family in FAMILIES]
    assert all(set(entry) == {"name", "title", "variants", "verified"} for entry in listed)


def test_a_pipe_gets_plain_lines() -> None:
    lines = run().stdout.splitlines()
    assert len(lines) == 3 * len(FAMILIES)
    assert "siglip  Hugging Face SigLIP, SigLIP 2 of a fixed resolution" in lines
    assert not set("│┃╭") & set("".join(lines))


def test_a_terminal_gets_a_table(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal:
        @staticmethod
        def isatty() -> bool:
            return True

    class Fake:
        stdout = Terminal()

    monkeypatch.setattr(_cli_models, "sys", Fake)
    shown = run().stdout
    assert set("│┃") & set(shown)
    assert all(family.name in shown for family in FAMILIES)


def without_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if torch were not installed, whether it is or not."""
    import sys

    monkeypatch.setitem(sys.modules, "torch", None)


def test_without_torch_convert_says_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_torch(monkeypatch)
    (tmp_path / "weights.pt").touch()
    with pytest.raises(MissingExtra, match=r"module 'torch'.*pip install 'cliprt\[convert\]'"):
        convert_checkpoint(tmp_path / "weights.pt", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_existing_folder_is_not_touched(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="already exists; choose another --out"):
        convert_checkpoint(tmp_path / "weights.pt", tmp_path)


def test_the_command_leaves_errors_to_the_main_one(tmp_path: Path) -> None:
    result = CliRunner().invoke(convert, ["weights.pt", "--out", str(tmp_path)])
    assert isinstance(result.exception, BundleError)
