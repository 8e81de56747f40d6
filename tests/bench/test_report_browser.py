"""The report in a browser: plots are drawn, nothing is fetched, a narrow screen is enough.

CLIPRT_SCREENSHOTS names a folder in which pictures of the page are kept. Where no Chromium is
found the tests are skipped, unless CLIPRT_REQUIRE_BROWSER is set (``.ci/run`` does where it is).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
from bench_cards import card, fidelity, full_card, point, target
from click.testing import CliRunner
from PIL import Image

import cards
from cliprt_bench._cli_compare import compare
from screenshots import chromium, opened

GOLDEN = Path(__file__).resolve().parent / "golden"
DRAWN, RECORDED = GOLDEN / "drawn_card.json", GOLDEN / "recorded_card.json"
# Of each plot: its size, how much it drew, and what is seen of it beyond its frame; what is clipped
# is seen as far as its clip. Half a pixel is rounding.
MEASURE = """
() => [...document.querySelectorAll('figure svg')].map(svg => {
  const frame = svg.getBoundingClientRect();
  const drawn = [...svg.querySelectorAll('path, use, text')].filter(
    each => !each.closest('defs') && !each.closest('clipPath'));
  const scale = frame.width / svg.viewBox.baseVal.width;
  const seen = each => {
    const box = each.getBoundingClientRect();
    const clipped = each.closest('[clip-path]');
    if (!clipped) return box;
    const rect = svg.querySelector(clipped.getAttribute('clip-path').slice(4, -1) + ' rect');
    const at = name => rect[name].baseVal.value * scale;
    const left = Math.max(box.left, frame.left + at('x'));
    const top = Math.max(box.top, frame.top + at('y'));
    const right = Math.min(box.right, frame.left + at('x') + at('width'));
    const bottom = Math.min(box.bottom, frame.top + at('y') + at('height'));
    return {left, top, right, bottom, width: right - left, height: bottom - top};
  };
  const boxes = drawn.map(seen);
  const style = each => getComputedStyle(each);
  return {
    name: svg.closest('figure').id, width: frame.width, height: frame.height,
    drawn: boxes.filter(box => box.width + box.height > 0).length,
    inked: drawn.filter(each => /^rgb/.test(style(each).stroke) || /^rgb/.test(style(each).fill))
      .length,
    outside: drawn.filter((each, place) => {
      const box = boxes[place];
      return box.left < frame.left - .5 || box.right > frame.right + .5
        || box.top < frame.top - .5 || box.bottom > frame.bottom + .5;
    }).map(each => each.outerHTML.slice(0, 200)),
  };
})
"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as started:
        if started is None:
            if os.environ.get("CLIPRT_REQUIRE_BROWSER"):
                pytest.fail("CI needs a browser, and there is no chromium")
            pytest.skip("there is no chromium to open the report with: apt-get install chromium")
        yield started


@pytest.fixture(scope="module")
def screenshots(tmp_path_factory: pytest.TempPathFactory) -> Path:
    named = os.environ.get("CLIPRT_SCREENSHOTS")
    folder = Path(named) if named else tmp_path_factory.mktemp("screenshots")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    full_card().write(folder / "fp32.json")
    full_card(
        1.6,
        target=target("int8-cpu"),
        fidelity={"image": fidelity(0.9931), "text": fidelity(0.9967)},
    ).write(folder / "int8.json")
    given = [str(folder / "fp32.json"), str(folder / "int8.json"), str(DRAWN)]
    options = ["--html", str(folder / "report.html"), "--at-p99", "100", "--fail-if", "p99>2x"]
    result = CliRunner().invoke(compare, [*given, *options])
    assert result.exit_code == 0, result.output
    return folder / "report.html"


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory, fresh_card: Path) -> Path:
    """A report of cards that were measured: one recorded, one fresh."""
    page = tmp_path_factory.mktemp("measured") / "report.html"
    result = CliRunner().invoke(compare, [str(RECORDED), str(fresh_card), "--html", str(page)])
    assert result.exit_code == 0, result.output
    return page


@pytest.mark.parametrize(
    ("width", "scheme"), [(1280, "light"), (1280, "dark"), (768, "light"), (400, "light")]
)
def test_plots_are_drawn_and_nothing_is_fetched(
    browser: Any, report: Path, screenshots: Path, width: int, scheme: str
) -> None:
    found = opened(browser, report, width=width, scheme=scheme)
    page = found.page
    found.keep(screenshots / f"report-{width}-{scheme}.png")
    check_plots(page, ["latency", "scaling", "roofline", "fidelity", "stages"])
    # Nothing scrolls sideways but tables in their own frames.
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert found.requests == [report.as_uri()]
    assert found.complaints == []
    page.close()


def check_plots(page: Any, names: list[str]) -> None:
    plots = page.evaluate(MEASURE)
    assert [plot["name"] for plot in plots] == names
    for plot in plots:
        assert plot["width"] > 250
        assert plot["height"] > 100
        assert plot["drawn"] > 15, plot["name"]
        assert plot["inked"] > 15, plot["name"]
        assert plot["outside"] == [], plot["name"]


def test_what_was_measured_is_drawn_and_nothing_is_fetched(
    browser: Any, measured: Path, screenshots: Path
) -> None:
    found = opened(browser, measured)
    found.keep(screenshots / "measured.png")
    check_plots(found.page, ["latency", "scaling", "roofline", "fidelity"])
    assert found.requests == [measured.as_uri()]
    assert found.complaints == []
    found.page.close()


def test_make_bench_keeps_pictures_of_its_reports(
    browser: Any, measured: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(cards, "chromium", lambda: nullcontext(browser))
    for kind in cards.KINDS:
        (tmp_path / f"{kind}.html").write_bytes(measured.read_bytes())
    cards.keep_pictures(tmp_path)
    for kind in cards.KINDS:
        with Image.open(tmp_path / f"{kind}.png") as picture:
            assert (picture.format, picture.width) == ("PNG", 1280)
            assert picture.height > 900


def test_dress_follows_the_reader(browser: Any, report: Path) -> None:
    """Paper, ink and the line of the first card differ, and ink can be read on paper."""
    look = """() => ['body', 'figure svg text', '#scaling path[style*="--s0"]'].map(name => {
      const style = getComputedStyle(document.querySelector(name));
      return [style.backgroundColor, style.fill, style.stroke];
    })"""
    seen = []
    for scheme in ("light", "dark"):
        found = opened(browser, report, scheme=scheme)
        seen.append(found.page.evaluate(look))
        found.page.close()
    (light_body, light_text, light_line), (dark_body, dark_text, dark_line) = seen
    assert light_body[0] != dark_body[0]
    assert light_line[2] != dark_line[2]
    assert contrast(light_body[0], light_text[1]) > 4.5
    assert contrast(dark_body[0], dark_text[1]) > 4.5


def contrast(one: str, other: str) -> float:
    """WCAG's ratio of two colours as a browser writes them, ``rgb(0, 0, 0)``."""
    lights = []
    for colour in (one, other):
        parts = [int(part) / 255 for part in colour[4:-1].split(",")]
        linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        lights.append(0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2])
    return (max(lights) + 0.05) / (min(lights) + 0.05)


def test_a_hostile_card_runs_nothing(browser: Any, tmp_path: Path) -> None:
    bad = "</title><script>document.title='taken'</script><img src=http://example.invalid/x>"
    card(
        [point(marks=(bad,), errors={bad: 1})],
        target=target(bad, name=bad, runtime=bad),
        stages={"image": {bad: point().figures["p50_ms"]}},
    ).write(tmp_path / "bad.json")
    page_path = tmp_path / "bad.html"
    result = CliRunner().invoke(compare, [str(tmp_path / "bad.json"), "--html", str(page_path)])
    assert result.exit_code == 0, result.output
    found = opened(browser, page_path, width=400)
    assert found.page.title() == "example-b32: load"
    assert found.page.locator("script, img").count() == 0
    assert found.page.evaluate("document.documentElement.scrollWidth") <= 400
    assert found.requests == [page_path.as_uri()]
    found.page.close()
