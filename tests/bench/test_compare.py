"""Cards side by side: what is refused, what is told, and what the rows say."""

from __future__ import annotations

import csv
import io
import json
import math
import re
from pathlib import Path
from typing import Any

import bench_cards as cards
import msgspec
import pytest
from bench_cards import card, full_card, point, quiet, workload
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st

from cliprt_bench._bench_card import BenchCard, BenchCardError, Inputs, Method, Model
from cliprt_bench._cli_compare import compare
from cliprt_bench._comparable import (
    LabelledCard,
    check_comparable,
    letters,
    printable,
)
from cliprt_bench._compare import Comparison, compare_bench_cards

DRAWN = Path(__file__).resolve().parent / "golden" / "drawn_card.json"


def labelled(*given: BenchCard) -> tuple[LabelledCard, ...]:
    return tuple(
        LabelledCard(label=letters(i), source=f"{letters(i)}.json", card=each)
        for i, each in enumerate(given)
    )


def compared(*given: BenchCard, **more: Any) -> Comparison:
    return compare_bench_cards(labelled(*given), **more)


def run(tmp_path: Path, given: list[BenchCard], *options: str) -> Result:
    paths = []
    for index, each in enumerate(given):
        paths.append(tmp_path / f"{letters(index)}.json")
        each.write(paths[-1])
    return CliRunner().invoke(compare, [*map(str, paths), *options])


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"kind": "throughput"}, "different kinds, load and throughput; measure both with"),
        (
            {"model": Model(name="m", space="ff" * 32, dim=512)},
            r"different models, their spaces are abababababab \(example-b32\) and ffffffffffff",
        ),
        (
            {"inputs": Inputs(described="other pictures", sha256="ee" * 32)},
            "different inputs, .* 'other pictures' .* measure both with the same inputs",
        ),
        (
            {"points": (point(workload(batch=64)),)},
            "no point in common: .* 'image, batch 1, 1 caller', .* 'image, batch 64, 1 caller'",
        ),
    ],
)
def test_what_is_not_comparable_is_refused(other: dict[str, Any], message: str) -> None:
    with pytest.raises(BenchCardError, match=message):
        compared(card(), card(**other))


def test_the_third_card_is_held_against_the_baseline() -> None:
    with pytest.raises(BenchCardError, match=r"A \(A\.json\) and C \(C\.json\)"):
        compared(card(), card(), card(kind="startup"))


def test_a_card_of_another_schema_is_refused(tmp_path: Path) -> None:
    result = run(tmp_path, [card(), card(schema=99)])
    assert isinstance(result.exception, BenchCardError)
    assert "B.json has schema 99, this cliprt reads 1" in str(result.exception)


def test_a_card_without_points_is_refused() -> None:
    with pytest.raises(BenchCardError, match=r"B \(B\.json\) holds no point, it was stopped"):
        compared(card(), card(points=()))


def test_a_point_that_is_there_twice_is_refused() -> None:
    with pytest.raises(BenchCardError, match="has the point 'image, batch 1, 1 caller' twice"):
        compared(card([point(), point(p50=1.0)]))


def test_cards_of_stages_need_no_points() -> None:
    stages = {"image": {"decode": quiet(2.0)}}
    one = card(kind="stages", points=(), stages=stages)
    assert [row.stage for row in compared(one, one).stages] == ["decode"]
    with pytest.raises(BenchCardError, match="'stages of image', the second 'stages of text'"):
        compared(one, card(kind="stages", points=(), stages={"text": {"decode": quiet(2.0)}}))


def test_stages_beside_points_are_no_point_in_common() -> None:
    stages = {"image": {"decode": quiet(2.0)}}
    one = card(kind="throughput", stages=stages)
    two = card([point(workload(batch=64))], kind="throughput", stages=stages)
    with pytest.raises(BenchCardError, match="no point in common"):
        compared(one, two)


def test_equal_cards_have_no_notes() -> None:
    assert check_comparable(labelled(card(), card())) == ()


@pytest.mark.parametrize(
    ("other", "note"),
    [
        (
            {"machine": cards.machine("CPU 2", 8, gpus=(cards.gpu("GPU 1"),))},
            "B was measured on another machine (CPU 2, 8 cores + GPU 1) than A (Example CPU 1, 2",
        ),
        (
            {"method": Method(warmup_s=1, repeat_s=3, repeats=3, seed=7, command="c")},
            "B was measured by another method than A: repeats 3 instead of 5, seed 7 instead of 0.",
        ),
        ({"cliprt": "0.2.0"}, "B was measured by cliprt 0.2.0, A by 0.1.0."),
        ({"complete": False}, "B is incomplete: its measurement was stopped."),
        ({"machine": cards.machine(load=0.5)}, "The machine of B was busy when"),
        ({"points": (point(p99=cards.noisy(9.0)),)}, "B has noisy figures in 1 of its 1 points."),
        ({"points": (point(marks=("The generator was slow.",)),)}, "1 caller: The generator was"),
        ({"points": (point(errors={"Overloaded": 3}),)}, "3 requests failed: Overloaded (3)."),
        (
            {"points": (point(), point(workload("text")))},
            "B and A share 1 points; 0 are only in A, 1 only in B.",
        ),
    ],
)
def test_what_differs_is_told(other: dict[str, Any], note: str) -> None:
    notes = compared(card(), card(**other)).notes
    assert len(notes) == 1
    assert note in notes[0]


GPU = cards.gpu()


@pytest.mark.parametrize(
    ("one", "two", "note"),
    [
        (
            {"libraries": {"numpy": "1.26.4", "openvino": "2026.4"}},
            {"libraries": {"numpy": "2.1.0", "torch": "2.9"}},
            "B was measured with other versions than A: numpy 2.1.0 instead of 1.26.4, "
            "openvino none instead of 2026.4, torch 2.9 instead of none.",
        ),
        (
            {},
            {"python": "3.12.1", "system": "Linux 6.9"},
            "B was measured with other versions than A: Python 3.12.1 instead of 3.11.7, "
            "system Linux 6.9 instead of Linux 6.1.",
        ),
        (
            {"gpus": (GPU,)},
            {"gpus": (msgspec.structs.replace(GPU, driver="570.2"),)},
            "B was measured with other versions than A: GPU driver 570.2 instead of 560.1.",
        ),
        (
            {},
            {"clock_mhz": 1800.0},
            "B ran at other clocks than A: CPU 1,800 MHz instead of 2,500 MHz.",
        ),
        (
            {"gpus": (msgspec.structs.replace(GPU, clock_mhz=1980),)},
            {"gpus": (msgspec.structs.replace(GPU, clock_mhz=1200),), "clock_mhz": 2450.0},
            "B ran at other clocks than A: Example GPU 1,200 MHz instead of 1,980 MHz.",
        ),
    ],
)
def test_other_versions_and_clocks_are_told(
    one: dict[str, Any], two: dict[str, Any], note: str
) -> None:
    given = (card(machine=cards.machine(**more)) for more in (one, two))
    assert compared(*given).notes == (note,)


def test_a_clock_that_is_not_known_is_not_compared() -> None:
    given = (card(machine=cards.machine(clock_mhz=clock)) for clock in (None, 1800.0))
    assert compared(*given).notes == ()


def test_there_is_a_row_for_each_point_that_any_card_has() -> None:
    one = card([point(workload(batch=8)), point(workload(batch=1))])
    two = card([point(workload("text", text_length=8)), point(workload(batch=1))])
    rows = compared(one, two).rows
    words = [row.workload.in_words() for row in rows]
    assert words == [
        "image, batch 1, 1 caller",
        "image, batch 8, 1 caller",
        "text, batch 1, 1 caller, 8 tokens",
    ]
    there = [[cell is not None for cell in row.cells] for row in rows]
    assert there == [[True, True], [True, False], [False, True]]


def test_an_open_loop_is_named_by_its_rate() -> None:
    words = workload(callers=32, loop="open", rate=12.5).in_words()
    assert words == "image, batch 1, open loop, 12.5/s, at most 32 under way"


def test_ratios_are_those_to_the_first_card() -> None:
    row = compared(card([point(p99=10.0)]), card([point(p99=15.0, items=50.0)])).rows[0]
    first, second = row.cells
    assert first is not None
    assert first.ratios == {}
    assert second is not None
    assert second.ratios["p99_ms"].value == pytest.approx(1.5)
    assert second.ratios["items_s"].value == pytest.approx(0.5)
    assert second.ratios["p99_ms"].clear


def test_the_best_point_within_a_limit_is_found() -> None:
    points = [
        point(workload(batch=1), p99=10.0, items=50.0),
        point(workload(batch=4), p99=30.0, items=90.0),
        point(workload(batch=8), p99=61.0, items=120.0),
        point(workload(batch=2), p99=20.0, items=300.0, errors={"Overloaded": 1}),
        point(workload(batch=16), p99=None, items=400.0),
        point(workload("text"), p99=70.0, items=900.0),
    ]
    rows = compared(card(points), card([point(p99=20.0, items=45.0)]), at_p99_ms=60.0).best
    assert [row.tower for row in rows] == ["image", "text"]
    first, second = rows[0].cells
    assert first is not None
    assert first.workload.batch == 4
    assert second is not None
    assert second.ratio is not None
    assert second.ratio.value == pytest.approx(0.5)
    assert rows[1].cells == (None, None)


def test_texts_of_other_lengths_do_not_compete() -> None:
    points = [point(workload("text", text_length=length)) for length in (8, 77)]
    rows = compared(card(points), at_p99_ms=60.0).best
    assert [row.text_length for row in rows] == [8, 77]


def test_a_point_that_holds_by_a_noisy_p99_is_marked(tmp_path: Path) -> None:
    result = run(tmp_path, [card([point(p99=cards.noisy(20.0))])], "--at-p99", "50")
    assert "at batch 1, 1 caller, p99 ~20.0 ms" in result.output


@pytest.mark.parametrize("limit", [0.0, -1.0, math.inf, math.nan])
def test_a_limit_that_is_none_is_refused(limit: float) -> None:
    with pytest.raises(BenchCardError, match="a limit of p99 is positive"):
        compared(card(), at_p99_ms=limit)


def test_a_drawn_card_merges_with_a_fresh_one(tmp_path: Path) -> None:
    full_card().write(tmp_path / "fresh.json")
    result = CliRunner().invoke(compare, [str(tmp_path / "fresh.json"), str(DRAWN)])
    assert result.exit_code == 0, result.output
    assert "B was measured on another machine (Drawn CPU (no machine has it), 16" in result.output
    assert "image, p01 cosine to the reference  0.99999" in result.output


def test_the_drawn_card_is_what_its_script_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(DRAWN.parent))
    import draw_card

    from cliprt_bench._bench_card import read_bench_card

    assert read_bench_card(DRAWN) == draw_card.drawn_card()


def test_tables_show_spread_ratio_and_noise(tmp_path: Path) -> None:
    two = card([point(p99=21.0, items=cards.noisy(80.0))])
    result = run(tmp_path, [card(), two])
    assert result.exit_code == 0
    assert "21.0 ±1.0%  1.50x [1.4" in result.output
    assert "~80.0 ±" in result.output


def test_the_cards_table_says_what_a_figure_hangs_on(tmp_path: Path) -> None:
    gpu = msgspec.structs.replace(cards.gpu(), clock_mhz=1980, power_limit_w=450.0)
    mixed = cards.target("fp32+bf16", precisions={"image": "bf16", "text": "fp32"}, device="gpu")
    result = run(tmp_path, [card(machine=cards.machine(gpus=(gpu,)), target=mixed)])
    for words in (
        "precision          image bf16, text fp32",
        "computed on        GPU",
        "GPU                24,000 MB, driver 560.1, 1,980 MHz, at most 450 W",
        "CPU clock          2,500 MHz",
        "system             Linux 6.1, Python 3.11.7",
        "libraries          numpy 1.26.4",
    ):
        assert words in result.output


def test_what_each_point_took_stands_in_a_table(tmp_path: Path) -> None:
    figures = {"rss_mb": 900.0, "cpu_cores": 2.0, "generator_cores": 0.1}
    two = {**figures, "gpu_percent": cards.noisy(70.0), "target_cores": 1.5}
    result = run(tmp_path, [card([point(figures=figures)]), card([point(figures=two)])])
    table = result.output.partition("Load and resources\n")[2].partition("\n\n")[0].splitlines()
    heads, first, second = (re.split(r"  +", line) for line in table)
    assert heads == [
        *("point", "busy cores", "target's cores", "generator's cores"),
        *("target's memory, MB", "GPU busy, %"),
    ]
    assert first == [
        *("A, image, batch 1, 1 caller", "2.00 ±1.0%", "–", "0.100 ±1.0% (5% of busy)"),
        *("900 ±1.0%", "–"),
    ]
    assert second[0] == "B, image, batch 1, 1 caller"
    assert second[2] == "1.50 ±1.0%"
    assert second[5].startswith("~70.0 ±")


def test_shares_and_prices_show_their_spread(tmp_path: Path) -> None:
    ceilings = (cards.ceiling("decode", {"image": 200.0}),)
    given = card([point(items=cards.noisy(100.0))], ceilings=ceilings, price_per_hour=0.36)
    out = tmp_path / "out.csv"
    result = run(tmp_path, [given], "--csv", str(out))
    assert re.search(r"~50\.0% \[\d+\.\d%, \d+\.\d%\]  of decode", result.output)
    (line,) = csv.DictReader(io.StringIO(out.read_text()))
    assert float(line["share_of_ceiling_low"]) < 0.5 < float(line["share_of_ceiling_high"])
    assert float(line["per_million"]) == pytest.approx(1.0)
    assert line["per_million_noisy"] == line["share_of_ceiling_noisy"] == "1"


@pytest.mark.parametrize(
    ("kind", "title"), [("startup", "Steps of a start, ms"), ("stages", "Stages, ms of an item")]
)
def test_steps_of_a_start_are_not_those_of_an_item(tmp_path: Path, kind: str, title: str) -> None:
    own = card(kind=kind, points=(), stages={"startup": {"import": quiet(900.0)}})
    assert f"{title}\n" in run(tmp_path, [own]).output


def test_markdown_escapes_what_a_card_says(tmp_path: Path) -> None:
    bad = card(target=cards.target("fp32|<b>`*"))
    out = tmp_path / "out.md"
    assert run(tmp_path, [bad], "--markdown", str(out)).exit_code == 0
    text = out.read_text()
    assert "<b>" not in text
    assert "A fp32&#124;&#60;b&#62;\\`\\*" in text


def test_csv_has_a_line_for_each_point_of_each_card(tmp_path: Path) -> None:
    out = tmp_path / "out.csv"
    given = [card([point(), point(workload(batch=2))]), card(target=cards.target("=1+1"))]
    assert run(tmp_path, given, "--csv", str(out)).exit_code == 0
    lines = list(csv.DictReader(io.StringIO(out.read_text())))
    assert [(line["card"], line["batch"]) for line in lines] == [("A", "1"), ("B", "1"), ("A", "2")]
    assert float(lines[1]["items_s_ratio"]) == pytest.approx(1.0)
    assert lines[0]["items_s_ratio"] == ""
    # A spreadsheet must not compute what a card says.
    assert lines[1]["precision"] == "'=1+1"


def test_json_on_standard_output_is_whole(tmp_path: Path) -> None:
    options = ("--json", "--at-p99", "50", "--fail-if", "p99>1.1x", "--csv", str(tmp_path / "c"))
    result = run(tmp_path, [card(), card([point(p99=28.0)])], *options)
    assert result.exit_code == 1
    content = json.loads(result.stdout)
    assert [each["label"] for each in content["cards"]] == ["A", "B"]
    assert content["rows"][0]["cells"][1]["ratios"]["p99_ms"]["value"] == pytest.approx(2.0)
    assert content["best"][0]["cells"][0]["items_s"]["value"] == pytest.approx(100.0)
    assert len(content["conditions"]["violations"]) == 1


def test_a_card_cannot_move_the_cursor(tmp_path: Path) -> None:
    bad = card(
        target=cards.target("\x1b[2J\x07"),
        machine=cards.machine("\x1b]0;title\x07"),
        points=[point(marks=("\x1b[31mred",), errors={"\x1b[1m": 2})],
    )
    for options in ((), ("--markdown", str(tmp_path / "m"))):
        result = run(tmp_path, [bad], *options)
        assert result.exit_code == 0
        assert "\x1b" not in result.output
    assert "\x1b" not in (tmp_path / "m").read_text()


@given(st.text(), st.integers(1, 50))
def test_printable_is_one_short_line(text: str, longest: int) -> None:
    line = printable(text, longest)
    assert len(line) <= longest
    assert line.isprintable()


def test_letters_go_on_after_z() -> None:
    assert [letters(i) for i in (0, 25, 26, 701, 702)] == ["A", "Z", "AA", "ZZ", "AAA"]


def test_a_file_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    result = run(tmp_path, [card()], "--csv", str(tmp_path / "file" / "out.csv"))
    assert result.exit_code == 1
    assert "out.csv cannot be written" in str(result.exception)
