"""Whether two models share an embedding space, and if not, what differs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import msgspec

from cliprt._bundle import open_bundle
from cliprt._card import Card, ImageSpec, TextSpec
from cliprt._errors import BundleError

_PARTS = {
    "image tower": "sizes, activation or pooling of the image tower",
    "text tower": "sizes, activation or pooling of the text tower",
    "image weights": "weights of the image tower",
    "text weights": "weights of the text tower",
    "preprocessing": "how pictures become pixels",
    "tokens": "how tokens are cut, filled up and pooled",
    "tokenizer": "how strings become tokens",
    "normalisation": "how embeddings are normalised",
}


class Difference(msgspec.Struct, frozen=True, kw_only=True):
    """One thing in which two cards differ.

    Attributes:
        what: part of the identity, or field of the card.
        first: what the first one has; None if it is missing there.
        second: what the second one has; None if it is missing there.
        matters: whether it makes another space.
    """

    what: str
    first: str | None
    second: str | None
    matters: bool


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    """Two models side by side.

    Attributes:
        same_space: whether their embeddings may be compared.
        first_space: space of the first.
        second_space: space of the second.
        differences: what differs, parts of the identity first.
    """

    same_space: bool
    first_space: str
    second_space: str
    differences: list[Difference]


def read_card(source: str, *, timeout_s: float = 60.0) -> Card:
    """The card of a bundle or of a served model.

    Args:
        source: a folder, or ``host:port`` of a Triton server, with ``/model`` if the model has
            another name than ``clip``.
        timeout_s: deadline of each request to a server.

    Raises:
        BundleError: neither a bundle nor an address, or the bundle is damaged.
        ServerUnavailable: nothing answers at the address.
        ModelUnavailable: the server does not serve the model.
    """
    if Path(source).is_dir():
        return open_bundle(source).card
    address, _, model = source.removeprefix("grpc://").partition("/")
    if not address.rpartition(":")[2].isdecimal():
        raise BundleError(
            f"{source!r} is neither a folder nor a served model such as localhost:8001 or "
            "localhost:8001/clip"
        )
    from cliprt._client import Client  # takes a while to import, and bundles need none

    try:
        with Client(address, model=model or "clip", timeout_s=timeout_s) as client:
            return client.card
    except ValueError as error:
        raise BundleError(f"{source!r} is no address of a served model: {error}") from None


def compare_cards(first: Card, second: Card) -> Comparison:
    """Says whether two cards share a space, and in what they differ."""
    same = first.space == second.space
    differences = [
        Difference(
            what=part,
            first=first.identity.get(part),
            second=second.identity.get(part),
            matters=not same,
        )
        for part in differing_parts(first.identity, second.identity)
    ]
    differences += _fields("image", first.image, second.image, same)
    differences += _fields("text", first.text, second.text, same)
    for name in ("dim", "logit_scale", "logit_bias"):
        one, other = getattr(first, name), getattr(second, name)
        if one != other:
            matters = name == "dim" and not same
            differences.append(_difference(name, one, other, matters))
    return Comparison(
        same_space=same,
        first_space=first.space,
        second_space=second.space,
        differences=differences,
    )


def differing_parts(first: Mapping[str, str], second: Mapping[str, str]) -> list[str]:
    """Parts of an identity that differ or are missing on one side, in the order of the first."""
    parts = [*first, *(part for part in second if part not in first)]
    return [part for part in parts if first.get(part) != second.get(part)]


def in_words(difference: Difference) -> str:
    """A difference as a line of text."""
    if (meaning := _PARTS.get(difference.what)) is None:
        effect = "" if difference.matters else " (makes no other space)"
        return f"{difference.what}: {difference.first} / {difference.second}{effect}"
    if difference.first is None or difference.second is None:
        side = "first" if difference.first is None else "second"
        return f"{difference.what}: missing in the {side}"
    return f"{difference.what}: {meaning}"


def _fields(
    name: str, first: ImageSpec | TextSpec | None, second: ImageSpec | TextSpec | None, same: bool
) -> list[Difference]:
    """Fields of a spec that differ, ``image.resample`` for instance."""
    if first is None or second is None:
        return []
    return [
        _difference(f"{name}.{field}", one, other, not same and not _unseen(field, first, second))
        for field in first.__struct_fields__
        if (one := getattr(first, field)) != (other := getattr(second, field))
    ]


def _unseen(field: str, *specs: ImageSpec | TextSpec) -> bool:
    """Whether a field cannot change an embedding: what fills up texts where nothing sees it."""
    return field == "pad_id" and not any(
        isinstance(spec, TextSpec) and spec.fixed_length for spec in specs
    )


def _difference(what: str, first: object, second: object, matters: bool) -> Difference:
    one, other = (None if value is None else str(value) for value in (first, second))
    return Difference(what=what, first=one, second=other, matters=matters)
