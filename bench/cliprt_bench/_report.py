"""The report of a comparison: one HTML file with plots and tables, for a browser or an archive.

No scripts, no fonts, nothing that is loaded; a policy in the page forbids all of it. Every text of
a card is escaped, cards being whatever a file gave.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from cliprt_bench._comparable import printable
from cliprt_bench._compare import Comparison
from cliprt_bench._compare_tables import (
    LEGEND,
    Table,
    Text,
    heading,
    tables,
    verdict_lines,
)
from cliprt_bench._drawing import COLOURS, Key, Plot
from cliprt_bench._facts import facts_of
from cliprt_bench._gate import UNDECIDED, VIOLATED, Verdict
from cliprt_bench._plots import draw_plots

_PAGE = """\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta name="referrer" content="no-referrer">
<title>{title}</title>
<style>
:root {{ --page: #f6f6f4; --card: #fff; --line: #dcdcd7; --ink: #1c1c1a; --soft: #63635e;
  --mark: #1668c7; --good: #1c7a3d; --bad: #b3261e; --warn: #fdf3dc; --warn-line: #e2c98c;
  --s0: #1668c7; --s1: #c2570c; --s2: #0f8a6a; --s3: #a83279; --s4: #8a6d00; --s5: #5b50c9;
  --s6: #4b7d1f; --s7: #b3261e; }}
@media (prefers-color-scheme: dark) {{
  :root {{ --page: #161615; --card: #20201f; --line: #3a3a38; --ink: #ececea; --soft: #a3a39d;
    --mark: #6cb0ff; --good: #74d391; --bad: #ff8a80; --warn: #2c2618; --warn-line: #5c4d26;
    --s0: #6cb0ff; --s1: #ff9e57; --s2: #45c9a2; --s3: #f08bc6; --s4: #e0be4a; --s5: #aaa2ff;
    --s6: #9ccf66; --s7: #ff8a80; }} }}
* {{ box-sizing: border-box; }}
body {{ margin: 0 auto; padding: 2rem clamp(1rem, 4vw, 3rem) 4rem; max-width: 86rem;
  background: var(--page); color: var(--ink); font: 15px/1.5 system-ui, sans-serif; }}
h1 {{ margin: 0; font-size: 1.6rem; font-weight: 650; overflow-wrap: anywhere; }}
h2 {{ margin: 2.5rem 0 .85rem; font-size: 1.1rem; font-weight: 650; }}
h3 {{ margin: 0; font-size: 1rem; font-weight: 650; }}
p {{ margin: .35rem 0 0; color: var(--soft); overflow-wrap: anywhere; }}
.cards, .plots {{ display: grid; gap: 1rem; }}
.cards {{ grid-template-columns: repeat(auto-fill, minmax(min(100%, 20rem), 1fr));
  margin-top: 1.5rem; }}
.plots {{ grid-template-columns: repeat(auto-fit, minmax(min(100%, 30rem), 1fr));
  align-items: start; }}
.cards article, figure {{ min-width: 0; margin: 0; padding: 1.1rem 1.25rem; background: var(--card);
  border: 1px solid var(--line); border-radius: 10px; }}
.cards article {{ border-top: 4px solid var(--own); overflow-wrap: anywhere; }}
.cards small {{ color: var(--soft); font-weight: 400; margin-left: .4rem; }}
dl {{ display: grid; grid-template-columns: auto 1fr; gap: .15rem .9rem; margin: .7rem 0 0;
  font-size: .87rem; }}
dt {{ color: var(--soft); }}
dd {{ margin: 0; min-width: 0; font-variant-numeric: tabular-nums; }}
.notes {{ margin: 1.25rem 0 0; padding: .8rem 1rem .8rem 2.2rem; background: var(--warn);
  border: 1px solid var(--warn-line); border-radius: 10px; font-size: .9rem;
  overflow-wrap: anywhere; }}
.verdict {{ background: var(--card); border-color: var(--good); margin-top: 0; }}
.verdict.violated {{ border-color: var(--bad); }}
.verdict.undecided {{ border-color: var(--warn-line); }}
figure {{ max-width: 46rem; }}
figure svg {{ display: block; width: 100%; height: auto; margin: .6rem 0 .4rem; }}
figure svg * {{ stroke-linejoin: round; stroke-linecap: butt; }}
figure svg text {{ font-family: system-ui, sans-serif !important; }}
figcaption {{ color: var(--soft); font-size: .87rem; }}
.legend {{ display: flex; flex-wrap: wrap; gap: .2rem 1.1rem; margin: 0 0 .6rem; padding: 0;
  list-style: none; color: var(--ink); font-size: .85rem; }}
.legend li {{ display: flex; gap: .45rem; align-items: center; min-width: 0;
  overflow-wrap: anywhere; }}
.legend i {{ flex: none; width: .7rem; height: .7rem; background: var(--own); }}
.legend .round {{ border-radius: 50%; }}
.legend .bar {{ border-radius: 3px; }}
.legend .diamond {{ transform: rotate(45deg) scale(.85); }}
.legend .triangle {{ clip-path: polygon(50% 0, 100% 100%, 0 100%); }}
.legend .tick {{ width: .22rem; height: .95rem; margin: 0 .24rem; }}
summary {{ cursor: pointer; margin: 2rem 0 .85rem; color: var(--soft); }}
summary h2 {{ display: inline; margin: 0; color: var(--ink); }}
summary:focus-visible, .scroll:focus-visible {{ outline: 2px solid var(--mark);
  outline-offset: 2px; }}
.scroll {{ overflow-x: auto; background: var(--card); border: 1px solid var(--line);
  border-radius: 10px; }}
table {{ border-collapse: collapse; width: 100%; font-size: .88rem;
  font-variant-numeric: tabular-nums; }}
th, td {{ padding: .5rem .9rem; text-align: right; vertical-align: top; white-space: nowrap;
  border-top: 1px solid var(--line); }}
thead th {{ border-top: 0; color: var(--soft); font-weight: 600; }}
th:first-child {{ text-align: left; font-weight: 500; }}
td small {{ display: block; color: var(--soft); }}
td .better {{ color: var(--good); }}
td .worse {{ color: var(--bad); }}
.how {{ margin-top: .8rem; font-size: .87rem; }}
@media (max-width: 40rem) {{ th, td {{ padding: .45rem .6rem; }}
  .cards article, figure {{ padding: .9rem; }} th:first-child {{ white-space: normal;
  min-width: 8rem; }} }}
@media print {{ body {{ max-width: none; padding: 0; }}
  figure, .cards article, tr {{ break-inside: avoid; }} .scroll {{ overflow: visible; }} }}
</style>
</head>
<body>
<header><h1>{title}</h1><p>{subtitle}</p></header>
<main>
{sections}
</main>
</body>
</html>
"""


# Tables that answer a second question.
_FOLDED = ("Latency p50", "Latency p90", "Longest", "Share", "Price", "Load and")

# More are folded.
_MOST_NOTES = 6


def report_page(comparison: Comparison, verdict: Verdict | None = None) -> bytes:
    """The report, encoded; the same cards give the same bytes.

    Args:
        comparison: cards side by side.
        verdict: what conditions came to, if there were any.

    Raises:
        MissingExtra: matplotlib is not installed.
    """
    first = comparison.cards[0]
    sections = [_cards(comparison), notes_section(comparison.notes)]
    if verdict is not None:
        sections.append(_verdict(verdict))
    sections.append(plots_section(draw_plots(comparison)))
    # The cards stand at the top already.
    sections += [table_section(table) for table in tables(comparison)[1:]]
    sections.append(f'<p class="how">{escape(LEGEND)}</p>')
    count = len(comparison.cards)
    subtitle = (
        f"{count} {'card' if count == 1 else 'cards'} of cliprt bench, inputs: "
        f"{printable(first.card.inputs.described, 200)}"
    )
    return page(heading(comparison), subtitle, sections)


def page(title: str, subtitle: str, sections: Sequence[str]) -> bytes:
    """A page in the report's dress, encoded.

    Args:
        title: plain text.
        subtitle: plain text.
        sections: HTML; empty ones are left out.
    """
    text = _PAGE.format(
        title=escape(title), subtitle=escape(subtitle), sections="\n".join(filter(None, sections))
    )
    # A card may hold what no encoding can; the page shows a question mark there.
    return text.encode("utf-8", errors="replace")


def _cards(comparison: Comparison) -> str:
    articles = []
    for index, each in enumerate(comparison.cards):
        baseline = "" if index else " <small>baseline</small>"
        facts = facts_of(each)
        name = facts.pop("target")
        lines = "".join(
            f"<dt>{escape(what)}</dt><dd>{escape(value)}</dd>"
            for what, value in facts.items()
            if value
        )
        articles.append(
            f'<article style="--own: var(--s{index % COLOURS})"><h3>{escape(each.label)}{baseline}'
            f"</h3><p>{escape(name)}</p><dl>{lines}</dl></article>"
        )
    return f'<section class="cards" aria-label="Cards">{"".join(articles)}</section>'


def notes_section(notes: Sequence[str]) -> str:
    """Sentences that should be read first; nothing where there are none."""
    if not notes:
        return ""
    lines = "".join(f"<li>{escape(note)}</li>" for note in notes)
    shown = f'<ul class="notes" aria-label="Notes">{lines}</ul>'
    if len(notes) <= _MOST_NOTES:
        return shown
    # Plots come first; short windows on a busy machine have something to say of every point.
    return (
        f"<details><summary><h2>{len(notes)} notes: what is noisy, missing or not alike</h2>"
        f"</summary>\n{shown}</details>"
    )


def _verdict(verdict: Verdict) -> str:
    lines = "".join(f"<li>{escape(line)}</li>" for line in verdict_lines(verdict))
    outcome = {VIOLATED: " violated", UNDECIDED: " undecided"}.get(verdict.status, "")
    return f'<section><h2>Conditions</h2><ul class="notes verdict{outcome}">{lines}</ul></section>'


def plots_section(plots: Sequence[Plot]) -> str:
    """Plots with their titles, legends and captions; nothing where there are none."""
    if not plots:
        return ""
    figures = "\n".join(
        f'<figure id="{plot.name}"><h3>{escape(plot.title)}</h3>\n{plot.svg}\n<figcaption>'
        f'<ul class="legend">{"".join(map(_key, plot.legend))}</ul>{escape(plot.caption)}'
        "</figcaption></figure>"
        for plot in plots
    )
    return f'<section><h2>Plots</h2><div class="plots">\n{figures}\n</div></section>'


def _key(key: Key) -> str:
    return (
        f'<li style="--own: var(--s{key.colour})"><i class="{key.shape}" aria-hidden="true"></i>'
        f"<span>{escape(key.text)}</span></li>"
    )


def table_section(table: Table) -> str:
    """A table that can be folded."""
    title = escape(table.title)
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in table.columns)
    rows = "\n".join(
        f'<tr><th scope="row">{escape(row[0].main)}</th>{"".join(map(_cell, row[1:]))}</tr>'
        for row in table.rows
    )
    shown = "" if table.title.startswith(_FOLDED) else " open"
    # A keyboard reaches what only scrolling shows.
    return (
        f"<details{shown}><summary><h2>{title}</h2></summary>\n"
        f'<div class="scroll" tabindex="0" role="region" '
        f'aria-label="{title}"><table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{rows}\n'
        "</tbody></table></div></details>"
    )


def _cell(text: Text) -> str:
    if not text.detail:
        return f"<td>{escape(text.main)}</td>"
    tone = f' class="{text.tone}"' if text.tone else ""
    return f"<td>{escape(text.main)}<small{tone}>{escape(text.detail)}</small></td>"
