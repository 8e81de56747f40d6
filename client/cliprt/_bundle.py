"""Opening a bundle: the folder that ``cliprt export`` writes."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from cliprt._card import Card, FileEntry, decode_card
from cliprt._errors import BundleError
from cliprt._external import external_files

CARD = "card.json"
TOKENIZER = "tokenizer.json"
GOLDEN = "golden.npz"
CERTIFICATE = "certificate.json"
DECISIONS = "precisions.json"
GRAPH_SUFFIX = ".onnx"


@dataclass(frozen=True)
class Bundle:
    """A bundle whose files are all there and unchanged since export.

    Attributes:
        path: the folder.
        card: its card.
    """

    path: Path
    card: Card

    def weights_of(self, graph: str) -> list[str]:
        """Names of the files that hold a graph's weights; none if it holds them itself.

        Raises:
            BundleError: the bundle has no such graph.
        """
        return sorted(external_files(self.file(graph)))

    def file(self, name: str) -> Path:
        """Path of one file of the bundle.

        Raises:
            BundleError: the bundle has no such file.
        """
        if name not in self.card.files and name != CARD:
            raise BundleError(
                f"{self.path} holds no {name}; it has {', '.join(sorted(self.card.files))}"
            )
        return self.path / name


def open_bundle(path: str | Path) -> Bundle:
    """Opens a bundle and checks every file against the SHA-256 in its card.

    Raises:
        BundleError: no bundle there, a file is missing or cannot be read, its content is not what
            was exported, or a graph keeps weights outside the bundle.
    """
    folder = Path(path)
    try:
        return _opened(folder)
    # A name in the card may be one that no file can have.
    except OSError as error:
        raise BundleError(f"{folder} cannot be read: {error.strerror or error}") from None


def _opened(folder: Path) -> Bundle:
    card_path = folder / CARD
    if not card_path.is_file():
        raise BundleError(
            f"{folder} is no bundle (it has no {CARD}); make one with: "
            "cliprt export CHECKPOINT --out BUNDLE"
        )
    card = decode_card(card_path.read_bytes(), origin=str(folder))
    if outside := [name for name in card.files if Path(name).name != name]:
        raise BundleError(f"the card of {folder} names a file outside the bundle: {outside[0]!r}")
    # Graphs first: a file that one of them points to is not read before the name has been judged.
    graphs = [name for name in card.files if name.endswith(GRAPH_SUFFIX)]
    for name in graphs:
        _check_content(folder, name, card.files[name])
        if unlisted := sorted(external_files(folder / name) - card.files.keys()):
            raise BundleError(
                f"{name} of {folder} keeps weights in {unlisted[0]!r}, which the card does not "
                "list; it is not loaded"
            )
    for name in sorted(card.files.keys() - set(graphs)):
        _check_content(folder, name, card.files[name])
    return Bundle(path=folder, card=card)


def _check_content(folder: Path, name: str, entry: FileEntry) -> None:
    file = folder / name
    if not file.is_file():
        raise BundleError(f"{folder} is incomplete: {name} is missing; export it again")
    if file.stat().st_size != entry.size or sha256_of(file) != entry.sha256:
        raise BundleError(
            f"{file} is not the file that was exported (its SHA-256 differs from the card's); "
            "export the checkpoint again"
        )


def sha256_of(path: Path) -> str:
    """SHA-256 of a file's content, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()
