"""API keys: read from a file, compared without telling by the time how much was right."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable
from pathlib import Path

from cliprt._errors import ServerStartError
from cliprt_triton._front._errors import Refusal
from cliprt_triton._server_flags import warn_of_readers

_LEAST = 16


class ApiKeys:
    """The keys that open the front; without any, it is open."""

    def __init__(self, keys: Iterable[str] = ()) -> None:
        """Takes the keys.

        Raises:
            ValueError: a key is short, or holds what no header can carry.
        """
        self._digests = []
        for number, key in enumerate(keys, start=1):
            # The key itself stays out of the message, which may end up in a log.
            if len(key) < _LEAST or not all("!" <= letter <= "~" for letter in key):
                raise ValueError(
                    f"API key {number} must have at least {_LEAST} letters, digits or signs of "
                    "ASCII and no spaces"
                )
            self._digests.append(_digest(key.encode()))

    def check(self, header: str | None) -> None:
        """Lets a request pass whose ``Authorization`` header carries one of the keys.

        Raises:
            Refusal: with status 401.
        """
        if not self._digests:
            return
        scheme, _, given = (header or "").partition(" ")
        found = _digest(given.strip().encode("utf-8", "surrogateescape"))
        # Digests are of one length, and every key is compared, whichever fits.
        matches = [hmac.compare_digest(found, each) for each in self._digests]
        if scheme.lower() != "bearer" or not any(matches):
            raise Refusal(
                401,
                "you must send a valid API key in the header Authorization: Bearer KEY",
                code="invalid_api_key",
                headers={"www-authenticate": "Bearer"},
            )


def read_api_keys(path: Path) -> tuple[str, ...]:
    """The keys in a file, one on each line; blank lines and those that begin with # are comments.

    Raises:
        ServerStartError: it cannot be read, or holds no usable key.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise ServerStartError(f"the API keys in {path} cannot be read: {reason}") from None
    stripped = (line.strip() for line in lines)
    keys = tuple(line for line in stripped if line and not line.startswith("#"))
    if not keys:
        raise ServerStartError(f"{path} holds no API key; write one on each line")
    try:
        ApiKeys(keys)
    except ValueError as error:
        raise ServerStartError(f"{path}: {error}") from None
    warn_of_readers(path, "the API keys")
    return keys


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()
