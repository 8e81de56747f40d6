"""A plugin of pytest for ``hot_paths.py``: an option, and a table at the end."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from cliprt._cores import usable_cores
from cliprt_bench._machine import cpu_fields, features

BASELINE = Path(__file__).with_name("hot_paths.json")


class Baseline(msgspec.Struct, frozen=True):
    """The multiples of an earlier day.

    Attributes:
        cpu: name of the processor they were measured on.
        cores: that could be used.
        features: of the processor, as in a card's machine.
        multiples: by path.
    """

    cpu: str
    cores: int
    features: tuple[str, ...]
    multiples: dict[str, float]

    def of_here(self) -> bool:
        """Whether this machine computes alike."""
        return msgspec.structs.replace(here(), multiples=self.multiples) == self


def here() -> Baseline:
    """Of this machine, without multiples."""
    fields = cpu_fields()
    return Baseline(fields.get("model name", ""), usable_cores(), features(fields), multiples={})


def baselines() -> list[Baseline]:
    """Those of earlier days, one for each kind of machine."""
    return msgspec.json.decode(BASELINE.read_bytes(), type=list[Baseline])


def kept() -> Baseline | None:
    """That of an earlier day on a machine like this one."""
    return next((each for each in baselines() if each.of_here()), None)


SEEN: pytest.StashKey[dict[str, tuple[str, float, float | None]]] = pytest.StashKey()
"""By path: the kind of its loop, how many times that it took, and of an earlier day."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--keep-baseline", action="store_true", help="keep this machine's in hot_paths.json"
    )


def pytest_configure(config: pytest.Config) -> None:
    config.stash[SEEN] = {}


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    for name, (kind, multiple, was) in config.stash[SEEN].items():
        before = "" if was is None else f", it took {was:.3g}"
        terminalreporter.write_line(f"{name}: {multiple:.3g} times the loop '{kind}'{before}")
    if config.getoption("--keep-baseline"):
        before = kept() or here()
        seen = {name: round(seen[1], 4) for name, seen in config.stash[SEEN].items()}
        now = msgspec.structs.replace(before, multiples={**before.multiples, **seen})
        others = [each for each in baselines() if not each.of_here()]
        BASELINE.write_bytes(msgspec.json.format(msgspec.json.encode([*others, now])) + b"\n")
        terminalreporter.write_line(f"kept in {BASELINE.name}")
    elif kept() is None:
        terminalreporter.write_line(
            f"nothing was held against {BASELINE.name}, which knows no machine like this one"
        )
