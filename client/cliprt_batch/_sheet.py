"""A contact sheet: one HTML file with everything in it, for a browser, a mail or an archive.

No scripts, no fonts, nothing that is loaded; a policy in the page forbids both. Every text is
escaped, keys and captions being whatever a source gave.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from cliprt_batch._items import Ref
from cliprt_batch._results import write_result
from cliprt_batch._thumbnails import thumbnail

_PAGE = """\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{title}</title>
<style>
:root {{ --page: #f6f6f4; --card: #fff; --line: #e2e2de; --ink: #1c1c1a; --soft: #6b6b66;
  --mark: #1668c7; --empty: #ecece8; }}
@media (prefers-color-scheme: dark) {{
  :root {{ --page: #161615; --card: #20201f; --line: #353533; --ink: #ececea; --soft: #9d9d97;
    --mark: #6cb0ff; --empty: #2a2a28; }} }}
* {{ box-sizing: border-box; }}
body {{ margin: 0 auto; padding: 2rem clamp(1rem, 4vw, 3rem) 4rem; max-width: 100rem;
  background: var(--page); color: var(--ink); font: 15px/1.45 system-ui, sans-serif; }}
header {{ display: flex; gap: 1.25rem; align-items: center; margin-bottom: 1.75rem; }}
header img {{ width: 88px; height: 88px; object-fit: cover; border-radius: 10px; }}
h1 {{ margin: 0; font-size: 1.5rem; font-weight: 650; overflow-wrap: anywhere; }}
h2 {{ margin: 2.25rem 0 .75rem; font-size: .95rem; font-weight: 600; color: var(--soft); }}
p {{ margin: .25rem 0 0; color: var(--soft); }}
.cards {{ display: flex; flex-wrap: wrap; gap: 1rem; }}
figure {{ width: 180px; margin: 0; background: var(--card); border: 1px solid var(--line);
  border-radius: 10px; overflow: hidden; }}
figure.marked {{ border-color: var(--mark); box-shadow: 0 0 0 1px var(--mark); }}
.picture {{ height: 178px; background: var(--empty); display: flex; align-items: center;
  justify-content: center; overflow: hidden; }}
.picture img {{ display: block; width: 178px; height: 178px; object-fit: contain; }}
.none {{ padding: 1rem; color: var(--soft); font: 12px/1.4 ui-monospace, monospace;
  text-align: center; overflow-wrap: anywhere; min-width: 0; }}
figcaption {{ padding: .6rem .75rem .75rem; }}
.badge {{ font-weight: 650; font-variant-numeric: tabular-nums; color: var(--mark); }}
.text {{ margin: .15rem 0 .3rem; color: var(--ink); overflow-wrap: anywhere; }}
.note {{ font: 12px/1.4 ui-monospace, monospace; color: var(--soft); overflow-wrap: anywhere; }}
</style>
</head>
<body>
<header>{picture}<div><h1>{title}</h1><p>{subtitle}</p></div></header>
{sections}
</body>
</html>
"""


_LONGEST = 400
"""Characters of a key or caption that a card shows."""

_NOT_SHOWN = (
    "the picture is not there any more, cannot be read, exceeds the limits, or lies within a file "
    "of a store"
)


@dataclass(frozen=True)
class Card:
    """One picture of a sheet.

    Attributes:
        key: the item's name, shown below, and in place of a picture that cannot be had.
        picture: the encoded picture, or where it lies; None where it cannot be had.
        badge: shown first, a score for instance.
        text: the caption, or None.
        note: one more line, or None.
        marked: whether the card is framed.
    """

    key: str
    picture: Ref | bytes | None
    badge: str
    text: str | None = None
    note: str | None = None
    marked: bool = False


@dataclass(frozen=True)
class Section:
    """Cards that belong together, and what stands above them; nothing if that is empty."""

    heading: str
    cards: Sequence[Card]


def write_sheet(
    path: Path,
    *,
    title: str,
    subtitle: str,
    sections: Sequence[Section],
    picture: Ref | None = None,
) -> None:
    """Writes a contact sheet.

    Args:
        path: the HTML file, which appears whole or not at all.
        title: of the page.
        subtitle: a sentence below.
        sections: the pictures.
        picture: one that stands beside the title, the query for instance.

    Raises:
        InvalidInput: the file cannot be written.
    """
    head = thumbnail(picture)
    page = _PAGE.format(
        title=escape(title),
        subtitle=escape(subtitle),
        picture="" if head is None else f'<img src="{head}" alt="the picture asked for">',
        sections="\n".join(_section(section) for section in sections),
    )
    # A key may hold what no encoding can; the page shows a question mark there.
    write_result(path, page.encode("utf-8", errors="replace"))


def _section(section: Section) -> str:
    heading = f"<h2>{escape(section.heading)}</h2>\n" if section.heading else ""
    cards = "\n".join(_card(card) for card in section.cards)
    return f'<section>\n{heading}<div class="cards">\n{cards}\n</div>\n</section>'


def _card(card: Card) -> str:
    key, text, note = (escape(_cut(line or "")) for line in (card.key, card.text, card.note))
    small = thumbnail(card.picture)
    shown = f'<div class="none" title="{_NOT_SHOWN}">{key}</div>'
    if small is not None:
        shown = f'<img src="{small}" alt="{text or key}">'
    lines = [f'<div class="badge">{escape(card.badge)}</div>']
    if text:
        lines.append(f'<div class="text">{text}</div>')
    # Where there is no picture the key stands in its place.
    shown_below = (key if small is not None else "", note)
    lines += [f'<div class="note">{line}</div>' for line in shown_below if line]
    mark = ' class="marked"' if card.marked else ""
    return (
        f'<figure{mark}><div class="picture">{shown}</div>'
        f"<figcaption>{''.join(lines)}</figcaption></figure>"
    )


def _cut(text: str) -> str:
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"
