"""The policy of queues: presets, changes to them, and what is out of range."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from cliprt import Bundle, Limits
from cliprt_triton import Policy
from cliprt_triton._cli_repository import repository
from cliprt_triton._policy import PRESETS


def test_presets_are_ordered_by_how_long_they_let_wait() -> None:
    assert PRESETS == ("latency", "balanced", "throughput")
    delays = [Policy.preset(name).max_queue_delay_us for name in PRESETS]
    timeouts = [Policy.preset(name).queue_timeout_us for name in PRESETS]
    queues = [Policy.preset(name).max_queue_size for name in PRESETS]
    assert delays == sorted({*delays})
    assert timeouts == sorted({*timeouts})
    assert queues == sorted({*queues})


@pytest.mark.parametrize("name", PRESETS)
def test_no_preset_caches(name: Any) -> None:
    assert not Policy.preset(name).cache_texts


def test_every_preset_is_explained() -> None:
    assert all(f"``{name}``" in str(Policy.preset.__doc__) for name in PRESETS)


def test_the_default_is_balanced() -> None:
    assert Policy() == Policy.preset("balanced")


def test_a_preset_is_changed_by_what_is_given() -> None:
    changed = Policy.preset("latency", max_queue_size=3, instances=None)
    assert (changed.max_queue_size, changed.instances) == (3, 1)
    assert changed.queue_timeout_us == Policy.preset("latency").queue_timeout_us


def test_an_unknown_preset_names_the_known_ones() -> None:
    with pytest.raises(ValueError, match="'fast'; there are latency, balanced, throughput"):
        Policy.preset("fast")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "name",
    [
        each.name
        for each in fields(Policy)
        if each.name not in ("max_queue_delay_us", "cache_texts")
    ],
)
def test_numbers_are_at_least_one(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} must be at least 1, got 0"):
        Policy(**{name: 0})


def test_a_delay_may_be_zero_but_not_less() -> None:
    assert Policy(max_queue_delay_us=0).max_queue_delay_us == 0
    with pytest.raises(ValueError, match="max_queue_delay_us must be at least 0, got -1"):
        Policy(max_queue_delay_us=-1)


@pytest.mark.parametrize(
    ("given", "most", "expected"),
    [(None, None, 64), (None, 128, 128), (16, None, 16), (16, 128, 16), (256, 128, 128)],
)
def test_engines_limit_the_batch(given: int | None, most: int | None, expected: int) -> None:
    assert Policy(max_batch_size=given).batch_size(most) == expected


def test_limits_of_the_command_line_are_those_of_the_models(
    small_bundle: Bundle, tmp_path: Path
) -> None:
    out = tmp_path / "repository"
    given = [str(small_bundle.path), "--out", str(out)]
    given += ["--max-text-characters", "70", "--max-image-pixels", "9000"]
    found = CliRunner().invoke(repository, given)
    assert found.exit_code == 0, found.output
    text = (out / "clip_tokenize" / "config.pbtxt").read_text()
    assert r"\"max_text_characters\":70" in text
    assert r"\"max_image_pixels\":9000" in text
    assert rf"\"max_image_bytes\":{Limits().max_image_bytes}" in text
