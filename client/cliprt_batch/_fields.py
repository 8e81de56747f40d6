"""Which column of a table, or field of an object, is the picture, the text and the key."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

PICTURE = (
    *("image", "img", "jpg", "jpeg", "png", "webp", "picture", "image_bytes", "bytes"),
    *("image_path", "img_path", "path", "image_file", "file_name", "filename"),
    *("file_path", "filepath", "file"),
)
"""Names of pictures, the likeliest first; in any case of letters. No ``url``: none is fetched."""

TEXT = ("caption", "text", "txt", "description", "prompt", "title")
"""Names of texts, likewise."""

KEY = ("key", "__key__")
"""Names of keys, likewise."""


class Wanted(NamedTuple):
    """What is asked of each item, and the names that the user gave; None where they are found.

    Attributes:
        towers: ``image``, ``text`` or both.
        image: name of the picture.
        text: name of the text.
        key: name of the key.
    """

    towers: tuple[str, ...]
    image: str | None = None
    text: str | None = None
    key: str | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """Those that the user gave and the towers need."""
        named = (("image", self.image), ("text", self.text))
        given = [name for tower, name in named if name is not None and tower in self.towers]
        return tuple([*given, self.key] if self.key is not None else given)


class Chosen(NamedTuple):
    """The names that were chosen; None where there is none, or no picture is asked for.

    Texts are kept for the metadata where only pictures are asked for.
    """

    image: str | None
    text: str | None
    key: str | None


def choose(
    wanted: Wanted, pictures: Iterable[str], texts: Iterable[str], keys: Iterable[str]
) -> Chosen:
    """Finds the names that were not given.

    Args:
        wanted: what is asked for.
        pictures: the names of all columns that could be a picture by their type.
        texts: likewise of those that could be a text.
        keys: likewise of those that could be a key.
    """
    image = wanted.image or _first(pictures, PICTURE)
    text = wanted.text or _first(texts, TEXT)
    return Chosen(
        image if "image" in wanted.towers else None,
        text,
        wanted.key or _first(keys, KEY),
    )


def lacking(wanted: Wanted, chosen: Chosen, names: Iterable[str], where: str) -> str | None:
    """What is wrong with a table: a column that was named is not there, or none can be used.

    Returns:
        A sentence that names the columns that are there; None where all is well.
    """
    there = list(names)
    listed = ", ".join(map(repr, there[:50])) or "none"
    # A text that only the metadata are to have must be there too if it was named.
    for name in dict.fromkeys([*wanted.names, *([wanted.text] if wanted.text is not None else [])]):
        if name not in there:
            return f"{where} has no column {name!r}; its columns are {listed}"
    sides: Mapping[str, tuple[str | None, tuple[str, ...]]] = {
        "image": (chosen.image, PICTURE),
        "text": (chosen.text, TEXT),
    }
    for tower in wanted.towers:
        found, known = sides[tower]
        if found is None:
            return (
                f"{where} has no column for the {tower} tower under one of the names "
                f"{', '.join(known)}; name it; its columns are {listed}"
            )
    return None


def _first(there: Iterable[str], known: tuple[str, ...]) -> str | None:
    folded: dict[str, str] = {}
    for name in there:
        folded.setdefault(name.lower(), name)
    return next((folded[name] for name in known if name in folded), None)
