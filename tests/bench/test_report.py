"""The report of a comparison: all in one file, nothing loaded, every text escaped."""

from __future__ import annotations

import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import bench_cards as cards
import msgspec
import pytest
from bench_cards import card, full_card, point, quiet, workload
from click.testing import CliRunner

from cliprt import MissingExtra
from cliprt_bench._bench_card import BenchCard
from cliprt_bench._cli_compare import compare
from cliprt_bench._comparable import LabelledCard, letters
from cliprt_bench._compare import Comparison, compare_bench_cards
from cliprt_bench._drawing import Plot
from cliprt_bench._gate import Verdict
from cliprt_bench._plots import draw_plots
from cliprt_bench._report import report_page

HOSTILE = (
    "<script>alert(1)</script>",
    '"><img src=http://example.com/x onerror=alert(1)>',
    "</dd></style><style>*{display:none}</style>",
    "{title} {0} %s {{ $\\frac{ $x$",
    "_&lt;b&gt; ' \" \x00\x1b[2J\u202e",
    "",
    "x" * 5000,
)


def compared(*given: BenchCard, **more: Any) -> Comparison:
    labelled = [
        LabelledCard(label=letters(i), source=f"{letters(i)}.json", card=each)
        for i, each in enumerate(given)
    ]
    return compare_bench_cards(labelled, **more)


def plots(*given: BenchCard) -> dict[str, Plot]:
    return {plot.name: plot for plot in draw_plots(compared(*given))}


class Page(HTMLParser):
    """Elements with their attributes, and whether each that was opened is closed."""

    VOID = ("meta", "link", "img", "br")

    def __init__(self, content: bytes) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.texts: list[str] = []
        self.feed(content.decode())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def test_each_plot_is_drawn_where_cards_hold_its_figures() -> None:
    assert list(plots(full_card())) == ["latency", "scaling", "roofline", "fidelity", "stages"]


@pytest.mark.parametrize(
    ("missing", "left"),
    [
        ({"points": (point(),)}, {"latency", "roofline", "fidelity", "stages"}),
        ({"ceilings": ()}, {"latency", "scaling", "fidelity", "stages"}),
        ({"fidelity": {}}, {"latency", "scaling", "roofline", "stages"}),
        ({"stages": {}}, {"latency", "scaling", "roofline", "fidelity"}),
        ({"points": ()}, {"stages"}),
        ({"points": (point(p50=None, p99=None, items=0.0),)}, {"stages"}),
    ],
)
def test_an_empty_plot_is_left_out(missing: dict[str, Any], left: set[str]) -> None:
    assert set(plots(full_card(**missing))) == left


def axis(plot: Plot) -> str:
    """What its axis of latencies shows."""
    found = re.search(r">latency (p\d+), ms<", plot.svg)
    assert found is not None
    return found[1]


@pytest.mark.parametrize(
    ("second", "shown"),
    [
        ({}, "p99"),
        ({"p99": None, "figures": {"p95_ms": 13.0}}, "p95"),
        ({"p99": None}, "p50"),
        ({"p50": None}, "p99"),
        # One that has no latency at all decides nothing.
        ({"p50": None, "p99": None}, "p99"),
    ],
)
def test_latency_is_of_one_percentile_for_all_cards(second: dict[str, Any], shown: str) -> None:
    first = point(figures={"p95_ms": 13.0, "p90_ms": 12.0})
    drawn = plots(card([first]), card([point(**second)]))["latency"]
    assert axis(drawn) == shown
    assert (f"It is {shown} for all" in drawn.caption) is (shown != "p99")
    assert "left out" not in drawn.caption


def test_points_without_the_percentile_are_left_out_and_counted() -> None:
    points = [point(), point(workload(batch=2), p99=None), point(workload(batch=4))]
    drawn = plots(card(points))["latency"]
    assert axis(drawn) == "p99"
    assert "1 points without a p99 are left out" in drawn.caption


def test_the_roofline_of_a_text_length_has_its_own_ceilings() -> None:
    ceiling = cards.ceiling("loopback", {})
    points = [point(workload("text", text_length=n), items=40.0) for n in (8, 77)]
    own = card(
        points,
        ceilings=(msgspec.structs.replace(ceiling, text_items_s={8: 800.0, 77: 80.0}),),
    )
    svg = plots(own)["roofline"].svg
    assert ">5%</text>" in svg
    assert ">50%</text>" in svg


def test_text_lengths_and_loops_have_lines_of_their_own() -> None:
    def of(**more: Any) -> BenchCard:
        points = [point(workload("text", batch, **more), items=50.0 * batch) for batch in (1, 2)]
        return card([*own.points, *points], ceilings=own.ceilings)

    own = card(
        [
            point(workload("text", batch, text_length=8), p99=1.0, items=500.0 * batch)
            for batch in (1, 2)
        ],
        ceilings=(cards.ceiling("decode", {"text": 5000.0}),),
    )
    words = {
        "A: cliprt fp32, text, 8 tokens, open loop": {"loop": "open", "text_length": 8},
        "A: cliprt fp32, text, 77 tokens": {"text_length": 77},
        "A: cliprt fp32, text": {},
    }
    for text, more in words.items():
        drawn = plots(of(**more))
        for name in ("latency", "roofline", "fidelity"):
            keys = [key for key in drawn[name].legend if key.shape != "tick"]
            assert {key.text for key in keys} == {"A: cliprt fp32, text, 8 tokens", text}
            assert len({key.shape for key in keys}) == 2
        # Of each the fastest, none by the other.
        assert ">20%</text>" in drawn["roofline"].svg
        assert ">2%</text>" in drawn["roofline"].svg


@pytest.mark.parametrize(
    ("kind", "axis", "title"),
    [
        ("startup", "milliseconds of a start", "Steps of a start"),
        ("stages", "milliseconds of an item", "Stage breakdown"),
    ],
)
def test_steps_of_a_start_are_not_those_of_an_item(kind: str, axis: str, title: str) -> None:
    own = card(kind=kind, points=(), stages={"startup": {"import": quiet(900.0)}})
    drawn = plots(own)["stages"]
    assert f">{axis}</text>" in drawn.svg
    assert drawn.title == title


@pytest.mark.parametrize(
    ("verdict", "dress"),
    [
        (Verdict(violations=(), undecided=()), "notes verdict"),
        (Verdict(violations=("a",), undecided=("b",)), "notes verdict violated"),
        (Verdict(violations=(), undecided=("b",)), "notes verdict undecided"),
    ],
)
def test_conditions_are_dressed_by_what_they_came_to(verdict: Verdict, dress: str) -> None:
    own = card(kind="stages", points=(), stages={"image": {"decode": quiet(1.0)}})
    page = Page(report_page(compared(own), verdict))
    assert dress in [attributes.get("class") for _, attributes in page.elements]


@pytest.mark.parametrize(("count", "folded"), [(6, False), (7, True)])
def test_many_notes_are_folded(count: int, folded: bool) -> None:
    own = compared(card(kind="stages", points=(), stages={"image": {"decode": quiet(1.0)}}))
    notes = tuple(f"note {number}" for number in range(count))
    page = report_page(msgspec.structs.replace(own, notes=notes)).decode()
    assert (f"<details><summary><h2>{count} notes" in page) is folded
    assert page.count("<li>note ") == count


def test_a_legend_names_each_card_and_tower() -> None:
    legend = plots(full_card(), full_card(target=cards.target("int8-cpu")))["latency"].legend
    assert [(key.colour, key.shape, key.text) for key in legend] == [
        (0, "round", "A: cliprt fp32, image"),
        (0, "square", "A: cliprt fp32, text"),
        (1, "round", "B: cliprt int8-cpu, image"),
        (1, "square", "B: cliprt int8-cpu, text"),
    ]


def test_a_drawing_is_described_and_its_names_are_its_own() -> None:
    drawn = plots(full_card())
    seen: set[str] = set()
    for name, plot in drawn.items():
        root = ElementTree.fromstring(plot.svg)
        ids = [element.get("id") for element in root.iter() if element.get("id")]
        assert len(ids) == len(set(ids))
        assert not seen & set(ids)
        seen |= set(ids)
        assert root.get("role") == "img"
        assert root.get("aria-labelledby") == f"{name}-title {name}-desc"
        described = {element.get("id"): element.text for element in root.iter()}
        assert described[f"{name}-title"] == plot.title
        assert described[f"{name}-desc"] == plot.caption
        used = re.findall(r'(?:href="|url\()#([^")]+)', plot.svg)
        assert used
        assert set(used) <= set(ids)


def test_a_drawing_has_only_colours_of_the_style_sheet() -> None:
    for plot in plots(full_card(), full_card()).values():
        assert "var(--s0)" in plot.svg
        assert "var(--soft)" in plot.svg
        assert not re.search(r"#[0-9a-f]{6}\b", plot.svg)


def test_noisy_points_are_hollow() -> None:
    def hollow(svg: str) -> int:
        return svg.count("fill: var(--card)")

    loud = plots(card([point(items=cards.noisy(10.0))]))["latency"].svg
    assert hollow(loud) > hollow(plots(card([point(items=10.0)]))["latency"].svg)


def test_the_stages_of_a_bar_end_at_their_sum() -> None:
    own = card(stages={"image": {"decode": quiet(1.25), "tower": quiet(2.5)}})
    assert ">3.75</text>" in plots(own)["stages"].svg


def test_the_share_of_the_ceiling_is_written_on_the_roofline() -> None:
    own = card([point(items=64.0)], ceilings=(cards.ceiling("matmul_fp32", {"image": 100.0}),))
    assert ">64%</text>" in plots(own)["roofline"].svg


def test_the_same_cards_give_the_same_bytes(tmp_path: Path) -> None:
    full_card().write(tmp_path / "A.json")
    code = (
        "import sys; from pathlib import Path; from cliprt_bench._report import report_page; "
        "from cliprt_bench._compare import compare_bench_cards; "
        "from cliprt_bench._comparable import read_labelled; "
        "page = report_page(compare_bench_cards(read_labelled([Path(sys.argv[1])]))); "
        "sys.stdout.buffer.write(page)"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "A.json")]
    there = subprocess.run(command, check=True, capture_output=True).stdout
    assert there == report_page(compared(full_card()))


def test_settings_of_a_process_do_not_matter() -> None:
    import matplotlib

    expected = report_page(compared(full_card()))
    with matplotlib.rc_context({"font.size": 30, "svg.fonttype": "path", "axes.grid": True}):
        assert report_page(compared(full_card())) == expected
        assert matplotlib.rcParams["font.size"] == 30


def hostile(text: str) -> BenchCard:
    """A card that says a text wherever it may."""
    return full_card(
        cliprt=text,
        made=text,
        machine=cards.machine(
            text, system=text, python=text, libraries={text: text}, gpus=(cards.gpu(text),)
        ),
        target=cards.target(text, name=text, runtime=text, precisions={text: text, "text": ""}),
        fidelity={"image": cards.fidelity(0.9), text: cards.fidelity(0.8)},
        inputs=cards.card().inputs.__class__(described=text, sha256="0"),
        model=cards.card().model.__class__(name=text, space="0", dim=1),
        ceilings=(cards.ceiling(text or "matmul_", {"image": 500.0, text: 2.0}),),
        stages={text: {text: quiet(1.0)}, "image": {text: quiet(2.0)}},
        points=(
            point(marks=(text,), errors={text: 1}, figures={text: 1.0}),
            point(workload(batch=2)),
        ),
    )


@pytest.fixture(scope="module")
def harmless() -> Page:
    verdict = Verdict(violations=("plain",), undecided=("plain",))
    return Page(report_page(compared(hostile("plain"), at_p99_ms=50.0), verdict))


@pytest.mark.parametrize("text", HOSTILE)
def test_what_a_card_says_is_only_text(text: str, harmless: Page) -> None:
    given = compared(hostile(text), at_p99_ms=50.0)
    verdict = Verdict(violations=(text,), undecided=(text,))
    page = Page(report_page(given, verdict))
    assert page.open == []
    # The same elements as of a harmless card: none was added, none swallowed.
    allowed = {tag for tag, _ in harmless.elements}
    assert {tag for tag, _ in page.elements} <= allowed
    assert allowed.isdisjoint({"script", "img", "iframe", "link", "object", "a"})
    assert sum(tag == "style" for tag, _ in page.elements) == 1
    for _, attributes in page.elements:
        assert not any(name.startswith("on") for name in attributes)


def test_a_script_in_a_card_is_shown_as_text() -> None:
    page = Page(report_page(compared(hostile(HOSTILE[0]))))
    assert any("<script>alert(1)</script>" in text for text in page.texts)


def test_the_page_asks_for_nothing_and_forbids_all() -> None:
    page = Page(report_page(compared(full_card(), full_card(2.0))))
    (policy,) = (
        attributes["content"]
        for tag, attributes in page.elements
        if tag == "meta" and attributes.get("http-equiv") == "Content-Security-Policy"
    )
    assert policy is not None
    assert policy.split(";")[0] == "default-src 'none'"
    for _, attributes in page.elements:
        for name in ("src", "href", "xlink:href", "data", "srcset", "action"):
            assert (attributes.get(name) or "#").startswith("#")
        assert "url(" not in re.sub(r"url\(#", "", attributes.get("style") or "")


def test_headings_and_tables_can_be_found_without_eyes() -> None:
    page = Page(report_page(compared(full_card(), full_card(2.0), at_p99_ms=50.0)))
    tags = [tag for tag, _ in page.elements]
    assert tags.count("h1") == 1
    assert tags.count("table") == tags.count("thead") == 9
    assert all(attributes.get("scope") for tag, attributes in page.elements if tag == "th")
    assert tags.count("figure") == tags.count("figcaption") == tags.count("svg") == 5


def test_many_cards_and_great_figures_can_be_drawn() -> None:
    given = [full_card(1.0 + i) for i in range(10)]
    odd = card(
        [point(p50=1e-12, p99=1e14, items=1e14), point(workload(batch=2), p99=1e300, items=1e300)]
    )
    drawn = plots(*given, odd)
    assert len(drawn["latency"].legend) == 21


def test_a_report_without_matplotlib_names_the_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    full_card().write(tmp_path / "A.json")
    result = CliRunner().invoke(compare, [str(tmp_path / "A.json"), "--html", str(tmp_path / "r")])
    assert isinstance(result.exception, MissingExtra)
    assert "cliprt[bench]" in str(result.exception)


def test_tables_need_no_matplotlib(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    full_card().write(tmp_path / "A.json")
    assert CliRunner().invoke(compare, [str(tmp_path / "A.json")]).exit_code == 0
