"""The report in a browser: plots are drawn, nothing is fetched, a narrow screen is enough.

CLIPRT_SCREENSHOTS names a folder in which pictures of the page are kept. Where no Chromium is
found the tests are skipped, unless CLIPRT_REQUIRE_BROWSER is set (``.ci/run`` does where it is).
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from bench_cards import card, fidelity, full_card, point, target
from click.testing import CliRunner

from cliprt_bench._cli_compare import compare

DRAWN = Path(__file__).resolve().parent / "golden" / "drawn_card.json"
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
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


@dataclass
class Opened:
    """A report that was opened, and what the browser said and asked for meanwhile."""

    page: Any
    requests: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    found = shutil.which("chromium") or shutil.which("chromium-browser")
    if found is None:
        if os.environ.get("CLIPRT_REQUIRE_BROWSER"):
            pytest.fail("CI needs a browser, and there is no chromium: apt-get install chromium")
        pytest.skip("there is no chromium to open the report with: apt-get install chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=found, args=list(FLAGS))
        yield started
        started.close()


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


def opened(browser: Any, path: Path, *, width: int = 1280, scheme: str = "light") -> Opened:
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    found = Opened(page)
    page.on("request", lambda request: found.requests.append(request.url))
    page.on("console", lambda message: found.complaints.append(message.text))
    page.on("pageerror", lambda error: found.complaints.append(str(error)))
    page.goto(path.as_uri(), wait_until="networkidle")
    return found


@pytest.mark.parametrize(
    ("width", "scheme"), [(1280, "light"), (1280, "dark"), (768, "light"), (400, "light")]
)
def test_plots_are_drawn_and_nothing_is_fetched(
    browser: Any, report: Path, screenshots: Path, width: int, scheme: str
) -> None:
    found = opened(browser, report, width=width, scheme=scheme)
    page = found.page
    page.screenshot(path=screenshots / f"report-{width}-{scheme}.png", full_page=True)
    measured = page.evaluate(MEASURE)
    assert [plot["name"] for plot in measured] == [
        *("latency", "scaling", "roofline", "fidelity", "stages")
    ]
    for plot in measured:
        assert plot["width"] > 250
        assert plot["height"] > 100
        assert plot["drawn"] > 15, plot["name"]
        assert plot["inked"] > 15, plot["name"]
        assert plot["outside"] == [], plot["name"]
    # Nothing scrolls sideways but tables in their own frames.
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert found.requests == [report.as_uri()]
    assert found.complaints == []
    page.close()


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
