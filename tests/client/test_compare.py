"""Whether two models share a space, and if not, what differs."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import numpy as np
import pytest
from checkpoints import SMALL, Tensors, write_checkpoint
from click.testing import CliRunner, Result

from cliprt import Bundle, BundleError, Card, ServerUnavailable
from cliprt._compare import Comparison, compare_cards, in_words, read_card
from cliprt._compare_cli import compare
from cliprt_export import export_checkpoint


def exported(folder: Path, **options: object) -> Bundle:
    checkpoint = write_checkpoint(folder / "checkpoint", SMALL, **options)
    return export_checkpoint(checkpoint, folder / "bundle", samples=8)


def edited(folder: Path, file: str, **changes: object) -> Bundle:
    path = write_checkpoint(folder / "checkpoint", SMALL) / file
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    return export_checkpoint(path.parent, folder / "bundle", samples=8)


def matters(comparison: Comparison) -> list[str]:
    return [difference.what for difference in comparison.differences if difference.matters]


def run(*arguments: object) -> Result:
    return CliRunner().invoke(compare, [str(argument) for argument in arguments])


def test_shards_make_no_other_space(small_bundle: Bundle, tmp_path: Path) -> None:
    sharded = exported(tmp_path, shards=3)
    comparison = compare_cards(small_bundle.card, sharded.card)
    assert (comparison.same_space, comparison.differences) == (True, [])
    result = run(small_bundle.path, sharded.path)
    assert result.exit_code == 0
    assert result.stdout.startswith("same space\n")


def test_weights_stored_in_halves_are_other_weights(small_bundle: Bundle, tmp_path: Path) -> None:
    def halve(tensors: Tensors) -> Tensors:
        return {name: array.astype(np.float16) for name, array in tensors.items()}

    comparison = compare_cards(small_bundle.card, exported(tmp_path, change=halve).card)
    assert not comparison.same_space
    assert matters(comparison) == ["image weights", "text weights"]


def test_another_padding_makes_no_other_space(small_bundle: Bundle, tmp_path: Path) -> None:
    other = edited(tmp_path, "tokenizer_config.json", pad_token="<|startoftext|>")
    comparison = compare_cards(small_bundle.card, other.card)
    assert comparison.same_space
    assert [in_words(difference) for difference in comparison.differences] == [
        "text.pad_id: 49407 / 49406 (makes no other space)"
    ]


def test_a_padding_token_that_is_also_a_word_makes_another_space(
    small_bundle: Bundle, tmp_path: Path
) -> None:
    """A special token is cut out of texts first, so that "!" itself becomes other tokens."""
    other = edited(tmp_path, "tokenizer_config.json", pad_token="!")
    comparison = compare_cards(small_bundle.card, other.card)
    assert not comparison.same_space
    assert matters(comparison) == ["tokenizer"]
    assert [difference.what for difference in comparison.differences] == [
        "tokenizer",
        "text.pad_id",
    ]


def test_other_preprocessing_is_named(small_bundle: Bundle, tmp_path: Path) -> None:
    other = edited(tmp_path, "preprocessor_config.json", resample=2)
    comparison = compare_cards(small_bundle.card, other.card)
    assert matters(comparison) == ["preprocessing", "image.resample"]
    assert [in_words(difference) for difference in comparison.differences] == [
        "preprocessing: how pictures become pixels",
        "image.resample: bicubic / bilinear",
    ]


def test_a_missing_tower_is_named(small_bundle: Bundle) -> None:
    card = small_bundle.card
    parts = {name: value for name, value in card.identity.items() if name != "text weights"}
    other: Card = msgspec.structs.replace(card, identity=parts, space="0" * 64)
    (difference,) = compare_cards(card, other).differences
    assert in_words(difference) == "text weights: missing in the second"


def test_the_command_says_what_differs(small_bundle: Bundle, tmp_path: Path) -> None:
    other = exported(tmp_path, seed=1)
    result = run(small_bundle.path, other.path)
    assert result.exit_code == 1
    assert result.stdout.startswith("different spaces\n")
    assert "  image weights: weights of the image tower\n" in result.stdout
    as_json = run(small_bundle.path, other.path, "--json")
    assert as_json.exit_code == 1
    assert json.loads(as_json.stdout)["same_space"] is False


@pytest.mark.parametrize("source", ["no-such-folder", "host:port", "folder/name"])
def test_what_is_neither_bundle_nor_address(source: str) -> None:
    with pytest.raises(BundleError, match="neither a folder nor a served model"):
        read_card(source)


def test_a_model_name_that_cannot_be(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="is no address of a served model"):
        read_card("localhost:8001/not a name")


@pytest.mark.parametrize(
    ("source", "address", "model"),
    [
        ("localhost:8001", "localhost:8001", "clip"),
        ("grpc://10.0.0.1:8001/other", "10.0.0.1:8001", "other"),
    ],
)
def test_a_served_model_is_asked_for_its_card(
    source: str,
    address: str,
    model: str,
    small_bundle: Bundle,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Server:
        """Answers like the client of a server that serves the small bundle."""

        def __init__(self, asked: str, *, model: str, timeout_s: float) -> None:
            self.asked, self.card = (asked, model), small_bundle.card
            asked_for.append(self.asked)

        def __enter__(self) -> Server:
            return self

        def __exit__(self, *_: object) -> None:
            pass

    asked_for: list[tuple[str, str]] = []
    monkeypatch.setattr("cliprt._client.Client", Server)
    assert run(small_bundle.path, source).stdout.startswith("same space\n")
    assert asked_for == [(address, model)]


def test_a_server_that_is_not_there_is_said() -> None:
    with pytest.raises(ServerUnavailable):
        read_card("localhost:9", timeout_s=2)
