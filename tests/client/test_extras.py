"""A missing optional dependency is named together with the command that installs it."""

from __future__ import annotations

import pytest

from cliprt import MissingExtra
from cliprt._extras import require


def test_an_installed_module_is_returned() -> None:
    assert require("json", extra="export").dumps([1]) == "[1]"


def test_a_missing_module_names_its_extra() -> None:
    with pytest.raises(MissingExtra, match=r"pip install 'cliprt\[engines\]'"):
        require("no_such_module", extra="engines")
