"""From what is asked for to a card: nothing that was measured is lost, nothing private is kept."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import bench_cards as cards
import click
import nvml_stand_in
import pytest
from bench_subjects import Counted
from click.testing import CliRunner, Result

from cliprt import Bundle, ServerUnavailable
from cliprt._cli import main
from cliprt_bench import _bounds, _cli_tune, _run, _startup, _targets
from cliprt_bench._bench_card import BenchCard, read_bench_card
from cliprt_bench._ceilings import Rate
from cliprt_bench._cli import bench as group
from cliprt_bench._cli_options import Asked, shared_options
from cliprt_bench._command import PRIVATE, command_line
from cliprt_bench._figures import figure
from cliprt_bench._foretold import foretold
from cliprt_bench._stages import Stages

SHORT = ("--seconds", "0.1", "--repeats", "2", "--warmup", "0.01")
QUIET = (*SHORT, "--no-ceilings")
COUNTED = ("--python", "bench_subjects:Counted", "--tower", "image")

STAGES = {"image": {"tower": cards.quiet(1.0)}}


def bench(*words: object) -> Result:
    return CliRunner().invoke(main, ["bench", *map(str, words)])


def measured(*words: object) -> Any:
    done = bench(*words, "--json")
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def one_round(*arguments: object, **more: object) -> Iterator[Stages]:
    yield STAGES
    raise KeyboardInterrupt


def test_ctrl_c_keeps_the_stages_so_far(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_run, "stages_of", one_round)
    card = measured("stages", *COUNTED, *QUIET)
    assert card["stages"]["image"]["tower"]["value"] == 1
    assert not card["complete"]


def test_ctrl_c_keeps_the_starts_so_far(
    monkeypatch: pytest.MonkeyPatch, demo_bundle: Bundle
) -> None:
    monkeypatch.setattr(_run, "startup_of", one_round)
    card = measured("startup", "--bundle", demo_bundle.path)
    assert card["stages"]["image"]["tower"]["value"] == 1
    assert not card["complete"]


def test_ctrl_c_in_the_ceilings_keeps_what_was_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    def measure(*arguments: object, **more: object) -> Iterator[Rate]:
        yield Rate("memory", figure([1.0]), "GB/s", "one")
        raise KeyboardInterrupt

    monkeypatch.setattr(_bounds, "measure", measure)
    card = measured("latency", *COUNTED, *SHORT)
    assert [point["workload"]["batch"] for point in card["points"]] == [1, 8]
    assert [ceiling["name"] for ceiling in card["ceilings"]] == ["memory"]
    assert not card["complete"]


def test_stages_that_fail_do_not_lose_the_points(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*arguments: object, **more: object) -> Iterator[Stages]:
        yield STAGES
        raise ServerUnavailable("it is gone")

    monkeypatch.setattr(_run, "stages_of", fails)
    monkeypatch.setattr(_run, "STAGED", (Counted,))
    done = bench("throughput", *COUNTED, *QUIET, "--concurrency", 1, "--json")
    assert done.exit_code == 0
    assert "not all stages were measured: it is gone" in done.stderr
    card = json.loads(done.stdout)
    assert len(card["points"]) == 2
    assert card["stages"]["image"]


def test_stages_are_those_of_the_towers_asked_for(demo_bundle: Bundle) -> None:
    card = measured("stages", "--bundle", demo_bundle.path, "--tower", "text", *QUIET)
    assert set(card["stages"]) == {"text"}


def test_the_machine_is_described_before_it_has_work(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    happened: list[str] = []

    class Opened(Counted):
        def __init__(self) -> None:
            super().__init__()
            happened.append("opened")

    def machine(**more: object) -> Any:
        happened.append("machine")
        return cards.machine(gpus=(cards.gpu(),))

    nvml_stand_in.install(monkeypatch, ("GPU-1",))
    monkeypatch.setattr(_run, "machine", machine)
    monkeypatch.setattr("bench_subjects.Counted", Opened)
    card = measured("latency", *COUNTED, *QUIET)
    assert happened == ["machine", "opened"]
    assert card["machine"]["gpus"][0]["clock_mhz"] == 1980


def test_a_target_elsewhere_gets_nothing_of_this_machine() -> None:
    done = bench("latency", "--python", "bench_subjects:Elsewhere", "--json", *SHORT)
    assert done.exit_code == 0, done.output
    card = json.loads(done.stdout)
    assert card["machine"]["cpu"].startswith("another machine, asked from ")
    assert card["machine"]["gpus"] == card["ceilings"] == []
    assert "cpu_cores" not in card["points"][0]["figures"]
    assert "the target is on another machine" in done.stderr
    assert "Then come" not in done.stderr


@pytest.mark.parametrize("remote", [True, False])
def test_a_target_behind_a_forwarded_port_is_elsewhere(remote: bool) -> None:
    """Its address does not tell, so somebody has to."""
    done = bench("latency", *COUNTED, "--batch", 1, *QUIET, "--json", *["--remote"] * remote)
    assert done.exit_code == 0, done.output
    card = json.loads(done.stdout)
    assert (card["target"]["process"] == "remote") == remote
    assert card["machine"]["cpu"].startswith("another machine, asked from ") == remote
    assert ("the target is on another machine" in done.stderr) == remote


def test_what_is_made_may_lie_in_the_current_folder(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    name = "mine_in_the_current_folder"
    Path(f"{name}.py").write_text("from bench_subjects import Counted as make\n")
    try:
        card = measured("latency", "--python", f"{name}:make", "--batch", 1, *QUIET)
    finally:
        sys.modules.pop(name, None)
    assert card["model"]["name"] == "zeros"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ["latency", "--batch", "1,2", "--concurrency", "1,2", *QUIET],
            "4 points, 2 windows of 0.1 s each: about 1 seconds, longer where requests are slow. "
            "Ctrl-C ends it",
        ),
        (
            ["load", "--rate", "1000", *QUIET, "--warmup", "0.3"],
            "1 points, 2 windows of 0.1 s each: about 1 seconds",
        ),
    ],
)
def test_how_long_it_takes_is_said_beforehand(words: list[str], said: str) -> None:
    done = bench(*words, *COUNTED)
    assert done.exit_code == 0, done.output
    assert said in done.stderr


@pytest.mark.parametrize(
    ("later", "said"),
    [
        (["stages", "ceilings"], " Then come stages and ceilings."),
        (["ceilings"], " Then come ceilings."),
        ([], ""),
    ],
)
def test_what_is_measured_by_default_takes_minutes(later: list[str], said: str) -> None:
    kept: list[Asked] = []

    @click.command()
    @shared_options
    def keep(asked: Asked) -> None:
        kept.append(asked)

    keep([], standalone_mode=False)
    assert foretold(kept[0], [0.0] * 24, later) == (
        "24 points, 5 windows of 5 s each: about 10 minutes, longer where requests are slow."
        f"{said} Ctrl-C ends it and keeps what was measured so far."
    )


def test_a_start_that_does_not_end_is_told(
    monkeypatch: pytest.MonkeyPatch, demo_bundle: Bundle
) -> None:
    monkeypatch.setattr(_startup, "_PATIENCE_S", 0.2)
    monkeypatch.setattr(_startup, "_LOCAL", "import time; time.sleep(60)")
    done = bench("startup", "--bundle", demo_bundle.path)
    assert done.exit_code == 1
    assert "the start took more than 0.2 s, and was ended" in done.stderr
    assert isinstance(done.exception, SystemExit)


def test_a_load_has_its_text_lengths(demo_bundle: Bundle) -> None:
    card = measured(
        "load", "--bundle", demo_bundle.path, "--tower", "text", "--text-length", "7,12",
        "--rate", 50, *QUIET,
    )  # fmt: skip
    assert [point["workload"]["text_length"] for point in card["points"]] == [7, 12]


def test_the_capacity_behind_a_share_is_told_with_its_spread(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(_run, "_CAPACITY_S", 0.1)
    card = measured("load", *COUNTED, "--share", "0.1,0.2", *QUIET)
    capacities = [point["figures"]["capacity_s"] for point in card["points"]]
    assert len(capacities[0]["repeats"]) == 3
    assert capacities[0] == capacities[1]


def test_a_share_of_nothing_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    class Failing(Counted):
        def __init__(self) -> None:
            super().__init__()
            self.error = ServerUnavailable("it is gone")

    monkeypatch.setattr(_run, "_CAPACITY_S", 0.1)
    monkeypatch.setattr("bench_subjects.Counted", Failing)
    done = bench("load", *COUNTED, *QUIET)
    assert done.exit_code == 1
    assert "nothing was answered" in done.output
    assert "it is gone" in done.output


def test_what_the_fastest_precision_was_is_told(demo_bundle: Bundle) -> None:
    card = measured(
        "latency", "--bundle", demo_bundle.path, "--precision", "fastest", "--batch", 1, *QUIET
    )
    assert card["target"]["precision"] in ("fp32", "int8-cpu")
    assert set(card["target"]["precisions"]) == {"image", "text"}
    assert set(card["fidelity"]) == {"image", "text"}


@pytest.mark.parametrize("name", ["none/card.json", "", "file/card.json"])
def test_a_file_that_cannot_be_written_is_refused_first(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").touch()
    done = bench("latency", *COUNTED, *QUIET, "--out", tmp_path / name)
    assert done.exit_code == 2
    assert "cannot be written; name a file" in done.output
    assert "items/s" not in done.output


def test_a_card_that_cannot_be_written_was_printed_before(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def full(card: BenchCard, path: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(BenchCard, "write", full)
    done = bench("latency", *COUNTED, *QUIET, "--out", tmp_path / "card.json")
    assert done.exit_code == 1
    assert "image, batch 1, 1 caller" in done.stdout
    assert "card.json cannot be written: No space left on device" in done.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["latency", "--precision", "fp16", "--bundle", "BUNDLE"], "precision must be one of"),
        (["startup", "--precision", "fp16", "--bundle", "BUNDLE"], "'fp16' is not one of"),
        (
            ["startup", "--served", "--precision", "fastest", "--bundle", "BUNDLE"],
            "name a precision",
        ),
        (["stages", *COUNTED], "does not tell its stages; measure LocalClip (--bundle)"),
        (["latency", "--openai", "http://host:port"], "the address of a front is http://host:"),
        (["latency", "--openai", "ftp://host"], "the address of a front is http://host:port"),
        (["latency", *COUNTED, "--bundle", "BUNDLE"], "brings its own bundle and precision"),
        (["latency", *COUNTED, "--precision", "fp32"], "brings its own bundle and precision"),
        (["latency", *COUNTED, "--server-pid", 1], "--server-pid is the process of a server"),
        (["latency", "--bundle", "BUNDLE", "--server-pid", 1], "--server-pid is the process of"),
        (["latency", "--url", "a:1", "--precision", "fp32"], "a Triton says what it serves"),
        (["latency", "--bundle", "BUNDLE", "--tls"], "are for --url and --openai"),
        (["latency", "--bundle", "BUNDLE", "--remote"], "--remote is for --url, --openai and"),
        (["latency", "--url", "a:1", "--remote", "--server-pid", 1], "the server is not"),
    ],
)
def test_what_would_change_nothing_or_fail_later_is_refused(
    demo_bundle: Bundle, words: list[object], said: str
) -> None:
    done = bench(*(demo_bundle.path if word == "BUNDLE" else word for word in words))
    assert done.exit_code in (1, 2)
    assert said in " ".join(done.output.split())
    assert isinstance(done.exception, SystemExit)  # and no traceback


def test_a_process_of_this_machine_is_not_that_of_a_server_elsewhere(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Remote(Counted):
        def __init__(self, *arguments: object) -> None:
            super().__init__()
            self.target = cards.target(process="remote")

    monkeypatch.setattr("cliprt_bench._cli_options.Served", Remote)
    done = bench("latency", "--url", "host:1", "--server-pid", 1, *QUIET)
    assert done.exit_code == 2
    assert "--server-pid is a process of this machine" in done.output


def options() -> list[click.Option]:
    commands = [*group.commands.values(), _cli_tune.tune]
    found = chain.from_iterable(command.params for command in commands)
    return [each for each in found if isinstance(each, click.Option)]


def test_options_whose_values_say_where_something_is_are_private() -> None:
    free = {
        name
        for option in options()
        if isinstance(option.type, click.Path) or option.type is click.STRING
        for name in option.opts
        if not option.is_flag
    }
    of_comparing = {"--html", "--csv", "--fail-if", "--markdown"}
    assert free - PRIVATE - of_comparing == {"--precision", "--model"}


def test_private_options_exist() -> None:
    assert {name for option in options() for name in option.opts} >= PRIVATE


def test_the_kept_command_names_no_places() -> None:
    words = "bench latency --bundle /home/me/b --url=host:1 --token-file --token-file --batch 1"
    kept = "cliprt bench latency --bundle … --url=… --token-file … --batch 1"
    assert command_line(words.split()) == kept


def test_the_command_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["cliprt", "bench", "latency", "--tls-server-name", "secret"])
    done = bench("latency", *COUNTED, *QUIET, "--out", tmp_path / "card.json")
    assert done.exit_code == 0, done.output
    command = read_bench_card(tmp_path / "card.json").method.command
    assert command == "cliprt bench latency --tls-server-name …"


def test_towers_in_different_precisions(demo_bundle: Bundle) -> None:
    found = _targets.certified(demo_bundle, {"image": "fp32", "text": "none"})
    assert set(found) == {"image"}
