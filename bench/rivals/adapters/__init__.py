"""Adapters: what turns encoded pictures and strings into embeddings, one file for each rival."""

from __future__ import annotations

import importlib
import io
from collections.abc import Sequence
from importlib import metadata
from typing import Any, ClassVar

from numpy.typing import NDArray


class Adapter:
    """A rival, loaded.

    An adapter does what a careful user of that library would write, and nothing that the library
    does not offer.

    Attributes:
        threads: whether several threads may call it at once.
        packages: the packages whose versions are told.
    """

    threads: ClassVar[bool] = False
    packages: ClassVar[tuple[str, ...]] = ()

    def embed(self, kind: str, items: Sequence[Any]) -> NDArray[Any]:
        """Embeddings [n, dim] of any length.

        Args:
            kind: ``image`` or ``text``.
            items: encoded pictures (bytes), or strings.
        """
        raise NotImplementedError

    def versions(self) -> dict[str, str]:
        """Installed versions, by package."""
        return {name: metadata.version(name) for name in self.packages}

    def close(self) -> None:
        """Frees what the adapter holds."""
        return


def load_adapter(name: str, settings: dict[str, Any]) -> Adapter:
    """Loads the adapter of a file in this folder.

    Args:
        name: the file's name without ``.py``; one with a dot is a module anywhere.
        settings: keyword arguments of its class ``Rival``.
    """
    module = importlib.import_module(name if "." in name else f"rivals.adapters.{name}")
    adapter = module.Rival(**settings)
    assert isinstance(adapter, Adapter)
    adapter.embed("text", ["a photo of a cat"])
    return adapter


def rgb(items: Sequence[bytes]) -> list[Any]:
    """Encoded pictures as Pillow's, in RGB."""
    from PIL import Image

    found = []
    for item in items:
        with Image.open(io.BytesIO(item)) as image:
            found.append(image.convert("RGB"))
    return found
