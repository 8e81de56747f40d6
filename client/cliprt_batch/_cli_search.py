"""``cliprt search``."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import click
import msgspec

from cliprt._client import Client
from cliprt._connection_options import ConnectionOptions, connection_options
from cliprt._console import out, print_table
from cliprt._space import Embeddings
from cliprt_batch._collection import Among, Collection
from cliprt_batch._pictures import find_pictures, place_of
from cliprt_batch._search import Hit, check_space, joined
from cliprt_batch._search import search as find
from cliprt_batch._sheet import Card, Section, write_sheet
from cliprt_batch._words import in_a_line

if TYPE_CHECKING:
    from cliprt_engines import LocalClip

_PATH = click.Path(path_type=Path)


@click.command()
@click.argument("folder", type=_PATH)
@click.argument("text", required=False)
@click.option("--image", type=_PATH, help="A picture to search with, alone or beside TEXT.")
@click.option("--bundle", type=_PATH, help="The bundle that embeds the query, in this process.")
@click.option("--url", help="Or a Triton server that does: host:port of gRPC.")
@click.option("--model", default="clip", show_default=True, help="Prefix of its models' names.")
@click.option(
    "--among",
    type=click.Choice(["image", "text"]),
    help="Which embeddings of the folder are searched [default: image, if it has them].",
)
@click.option(
    "--top", type=click.IntRange(min=1), default=10, show_default=True, help="Items to find."
)
@click.option("--html", type=_PATH, help="Write a contact sheet, one file with all in it.")
@click.option("--json", "as_json", is_flag=True, help="Print the items as JSON.")
@connection_options
def search(
    folder: Path,
    text: str | None,
    image: Path | None,
    bundle: Path | None,
    url: str | None,
    model: str,
    among: Among | None,
    top: int,
    html: Path | None,
    as_json: bool,
    via: ConnectionOptions,
) -> None:
    """Find the items of FOLDER, made by 'cliprt embed', that are nearest to a query.

    The query is TEXT, a picture, or both: then the mean of the two cosines ranks. Every item is
    compared, so nothing is missed; the model must be the one that embedded FOLDER. Scores are
    cosines; those of a text with pictures are far lower than those of two pictures.

    \b
    cliprt search out "a red circle left of a blue square" --bundle bundle
    cliprt search out --image cat.jpg --url localhost:8001 --html cats.html
    """  # noqa: D301
    if not text and image is None:
        raise click.UsageError("say what to search for: TEXT, --image FILE or both")
    if (bundle is None) == (url is None):
        raise click.UsageError("say who embeds the query: --bundle DIR or --url HOST:PORT")
    collection = Collection(folder)
    if among is None:
        among = "image" if "image" in collection.manifest.towers else "text"
    collection.require_tower(among)
    with ExitStack() as stack:
        clip: Client | LocalClip
        if url is not None:
            clip = stack.enter_context(Client(via.to(url), model=model))
        else:
            assert bundle is not None
            clip = stack.enter_context(_local(bundle))
        check_space(collection, clip.card.space, f"{clip.card.name} ({url or bundle})")
        queries: list[Embeddings] = []
        if text:
            queries.append(clip.encode_text([text]))
        if image is not None:
            queries.append(clip.encode_image([image]))
    query = joined(*queries)
    hits = find(collection, query, among=among, top=top, show_progress=sys.stderr.isatty())
    if as_json:
        click.echo(msgspec.json.encode(hits).decode())
    else:
        rows = [(f"{hit.score:.4f}", in_a_line(hit.key), in_a_line(hit.caption)) for hit in hits]
        print_table(("score", "key", "caption"), rows)
    if html is not None:
        _sheet(html, hits, text, image, collection)
        if not as_json:
            out().print(f"contact sheet: {html}")


def _local(bundle: Path) -> LocalClip:
    # Settings are given: to measure the best ones takes longer than one query.
    from cliprt_engines import CpuSettings, LocalClip

    return LocalClip(bundle, settings=CpuSettings(batch=1))


def _sheet(
    path: Path, hits: list[Hit], text: str | None, image: Path | None, collection: Collection
) -> None:
    asked = [text] if text else []
    asked += [image.name] if image is not None else []
    cards = [
        Card(key=hit.key, picture=picture, badge=f"{hit.score:.4f}", text=hit.caption)
        for hit, picture in zip(hits, find_pictures(collection.folder, hits), strict=True)
    ]
    write_sheet(
        path,
        title=" + ".join(asked),
        subtitle=f"the nearest {len(hits)} of {collection.rows:,} items in {collection.folder}, "
        f"by the model {collection.manifest.model}",
        sections=[Section("", cards)],
        picture=None if image is None else place_of(image),
    )
