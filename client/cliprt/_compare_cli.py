"""``cliprt compare``."""

from __future__ import annotations

import click
import msgspec

from cliprt._compare import compare_cards, in_words, read_card
from cliprt._console import out


@click.command()
@click.argument("first")
@click.argument("second")
@click.option("--timeout", "timeout_s", default=60.0, help="Deadline of a server, in seconds.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
@click.pass_context
def compare(
    context: click.Context, first: str, second: str, timeout_s: float, as_json: bool
) -> None:
    """Say whether FIRST and SECOND share an embedding space.

    Each is a bundle, or a served model: host:port of a Triton server, or host:port/model. The exit
    status is 0 if embeddings of the two may be compared, and 1 if not.
    """
    one, other = (read_card(source, timeout_s=timeout_s) for source in (first, second))
    result = compare_cards(one, other)
    if as_json:
        click.echo(msgspec.json.encode(result).decode())
    else:
        console = out()
        console.print("same space" if result.same_space else "different spaces")
        for label, card in (("first", one), ("second", other)):
            console.print(f"{label:<6}  {card.space}  {card.name} ({card.family})")
        for difference in result.differences:
            console.print(f"  {in_words(difference)}")
    if not result.same_space:
        context.exit(1)
