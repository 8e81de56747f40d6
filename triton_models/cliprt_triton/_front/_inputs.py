"""The body of ``POST /v1/embeddings``: read, checked and taken apart, before anything is computed.

A string is a text or a picture, never an address: nothing is ever fetched. What begins like a data
URI must be one of a picture, because a caption that begins so is rare and a picture that is taken
for text would be answered with a plausible, wrong embedding.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import msgspec

from cliprt._json import one_line
from cliprt_triton._front._errors import Refusal, invalid

_T = TypeVar("_T")

_FIELDS = ("input", "model", "encoding_format", "dimensions", "user")

# "data: a plot" is a text. "data:,x" and "data: image/png;base64,..." are meant as data URIs.
_LIKE_A_DATA_URI = re.compile(r"\s*data:(?=\S|[^,]{0,200};\s*base64,)", re.IGNORECASE)
_PICTURE = re.compile(
    r"data:image/[a-z0-9.+-]{1,64}(?:;[a-z0-9-]{1,64}=[a-z0-9.+-]{1,64}){0,8};base64,",
    re.IGNORECASE,
)
_SHOWN = 60


@dataclass(frozen=True)
class EmbeddingsRequest:
    """A checked request.

    Attributes:
        texts: the texts.
        text_places: of each text, its place in the input.
        pictures: encoded pictures.
        picture_places: of each picture, its place in the input.
        base64: whether embeddings are sent as base64 of little-endian float32, or as numbers.
    """

    texts: tuple[str, ...]
    text_places: tuple[int, ...]
    pictures: tuple[bytes, ...]
    picture_places: tuple[int, ...]
    base64: bool

    @property
    def items(self) -> int:
        """How many embeddings are asked for."""
        return len(self.texts) + len(self.pictures)


def parse_request(body: bytes, *, model: str, dim: int, max_items: int) -> EmbeddingsRequest:
    """Reads a request.

    Args:
        body: the whole body.
        model: the one that is served.
        dim: length of its embeddings.
        max_items: most items of ``input``.

    Raises:
        Refusal: with status 400, or 404 for another model.
    """
    fields = _fields(body)
    for name in fields:
        if name not in _FIELDS:
            raise invalid(f"Unrecognized request argument supplied: {one_line(name, _SHOWN)}")
    for name in ("input", "model"):
        if name not in fields:
            raise invalid(f"you must provide the parameter {name!r}", name)
    asked = _typed(fields, "model", str, "a string")
    if asked != model:
        raise unknown_model(asked, model)
    form = _optional(fields, "encoding_format", Literal["float", "base64"], "'float' or 'base64'")
    dimensions = _optional(fields, "dimensions", int, "an integer")
    if dimensions not in (None, dim):
        raise invalid(
            f"the embeddings of {model} have {dim} dimensions and are not shortened; leave "
            f"'dimensions' out or pass {dim}, got {dimensions}",
            "dimensions",
        )
    _optional(fields, "user", str, "a string")
    return _sorted(_input(fields, max_items), form == "base64")


def unknown_model(asked: str, served: str) -> Refusal:
    """The refusal for a model that is not there."""
    return Refusal(
        404,
        f"The model {asked[:_SHOWN]!r} does not exist; this server has: {served!r}",
        param="model",
        code="model_not_found",
    )


def _fields(body: bytes) -> dict[str, msgspec.Raw]:
    try:
        return msgspec.json.decode(body, type=dict[str, msgspec.Raw])
    except msgspec.ValidationError:
        raise invalid("the body must be a JSON object") from None
    except RecursionError:
        raise invalid("the body is not the JSON of a request: it is nested too deeply") from None
    # UnicodeDecodeError is a ValueError, as msgspec's own errors are.
    except (msgspec.DecodeError, ValueError) as error:
        raise invalid(f"the body is not valid JSON: {_plain(error)}") from None


def _typed(fields: dict[str, msgspec.Raw], name: str, kind: Any, expected: str) -> Any:
    try:
        return msgspec.json.decode(fields[name], type=kind)
    except msgspec.ValidationError:
        raise invalid(f"{name!r} must be {expected}", name) from None
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise invalid(f"{name!r} is not valid JSON: {_plain(error)}", name) from None


def _optional(fields: dict[str, msgspec.Raw], name: str, kind: Any, expected: str) -> Any:
    """The value of a field, or None where it is missing or null."""
    return _typed(fields, name, kind | None, expected) if name in fields else None


def _input(fields: dict[str, msgspec.Raw], max_items: int) -> list[str]:
    raw = fields["input"]
    # Whether there is a list decides what a message can point to.
    single = not bytes(raw).lstrip().startswith(b"[")
    try:
        found = msgspec.json.decode(raw, type=str if single else list[str])
    except msgspec.ValidationError as error:
        place = re.search(r"\$\[(\d+)\]", str(error))
        param = "input" if place is None else f"input[{place[1]}]"
        raise invalid(
            f"{param} must be a string, a text or a picture as data:image/...;base64,...; arrays "
            "of token ids are not taken, because other tokenizers' ids mean nothing to this "
            "model: send the text",
            param,
        ) from None
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise invalid(f"'input' is not valid JSON: {_plain(error)}", "input") from None
    items = [found] if isinstance(found, str) else list(found)
    if not items:
        raise invalid("'input' is empty; pass at least one text or picture", "input")
    if len(items) > max_items:
        raise invalid(
            f"'input' has {len(items):,} items, at most {max_items:,} are taken at once; "
            "send them in several requests",
            "input",
        )
    return items


def _sorted(items: Sequence[str], as_base64: bool) -> EmbeddingsRequest:
    """Texts and pictures apart, each with its place."""
    texts: list[tuple[int, str]] = []
    pictures: list[tuple[int, bytes]] = []
    for place, item in enumerate(items):
        if _LIKE_A_DATA_URI.match(item):
            pictures.append((place, _picture(item, f"input[{place}]")))
        else:
            texts.append((place, item))
    return EmbeddingsRequest(
        texts=tuple(text for _, text in texts),
        text_places=tuple(place for place, _ in texts),
        pictures=tuple(picture for _, picture in pictures),
        picture_places=tuple(place for place, _ in pictures),
        base64=as_base64,
    )


def _picture(uri: str, param: str) -> bytes:
    """The encoded picture in a data URI."""
    head = _PICTURE.match(uri)
    if head is None:
        raise invalid(
            f"{param} begins like a data URI, but not like one of a picture: "
            f"{uri[:_SHOWN].strip()!r}; write data:image/jpeg;base64, and the base64 of the file",
            param,
            "invalid_image",
        )
    try:
        # Strict: what other decoders skip would be a picture with bytes missing.
        return base64.b64decode(uri[head.end() :], validate=True)
    # ValueError: characters beyond ASCII.
    except (binascii.Error, ValueError):
        raise invalid(
            f"{param}: what follows base64, in the data URI is not base64 (letters, digits, '+', "
            "'/', filled up with '=' to a multiple of four, without line breaks)",
            param,
            "invalid_image",
        ) from None


def _plain(error: Exception) -> str:
    """The decoder's reason; Python's own errors about encodings quote what they cannot decode."""
    if isinstance(error, UnicodeDecodeError):
        return "it is not UTF-8"
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    return str(error)
