"""What commands print: words of others do not steer the terminal."""

from __future__ import annotations

import click
import pytest
from click.testing import CliRunner

from cliprt import ServerError
from cliprt._console import errors_as_lines, print_table, printable

EVIL = "a\x1b[2J\x1b]0;owned\x07b\u202ec"


def test_in_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(("key", "what"), [(EVIL, "x\ny")])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    assert all(line.isprintable() for line in lines)
    assert "x y" in lines[1]


def test_in_an_error() -> None:
    @click.command()
    def command() -> None:
        with errors_as_lines():
            raise ServerError(f"it says {EVIL}\nand more")

    said = CliRunner().invoke(command).output
    assert said == f"Error: it says {printable(EVIL)}\nand more\n"
    assert all(line.isprintable() for line in said.splitlines())
