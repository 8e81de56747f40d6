"""LocalClip with towers that are passed in: they must fit, and what they do wrong is told."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from cases import arrays
from numpy.typing import NDArray

from cliprt import Bundle, InvalidInput, ServerError
from cliprt_engines import CpuSettings, LocalClip, OnnxTower, TowerInfo


class Recorded:
    """A tower that notes what it is given; it stands for one on a GPU."""

    def __init__(self, tower: OnnxTower | None = None, max_batch: int | None = None) -> None:
        self.tower, self.max_batch = tower, max_batch
        self.batches: list[int] = []
        self.closed = 0
        self.changes: dict[str, Any] = {}

    @property
    def info(self) -> TowerInfo:
        assert self.tower is not None
        found = dataclasses.replace(self.tower.info, max_batch=self.max_batch, runtime="recorded 1")
        return dataclasses.replace(found, **self.changes)

    def run(self, batch: NDArray[np.uint8] | NDArray[np.int32]) -> NDArray[np.float32]:
        self.batches.append(len(batch))
        if self.tower is None:
            raise RuntimeError("out of memory")
        return self.tower.run(batch)

    def close(self) -> None:
        self.closed += 1


def test_towers_may_be_passed_in(small_bundle: Bundle) -> None:
    own = Recorded(OnnxTower(small_bundle.file("text.fp32.onnx"), threads=1), max_batch=3)
    unused = Recorded(OnnxTower(small_bundle.file("image.fp32.onnx"), threads=1))
    with LocalClip(small_bundle, towers={"text": own, "image": unused}) as clip:
        assert clip.encode_text(["a", "b c", "d", "e", "f", "g", "h"]).shape == (7, clip.card.dim)
    assert sorted(own.batches) == [1, 3, 3]
    assert (own.closed, unused.closed) == (1, 1)


def test_large_batches_of_a_tower_passed_in_stay_whole(small_bundle: Bundle) -> None:
    own = Recorded(OnnxTower(small_bundle.file("text.fp32.onnx"), threads=1), max_batch=64)
    with LocalClip(small_bundle, towers={"text": own}) as clip:
        clip.encode_text(["a"] * 150)
        with pytest.raises(ValueError, match=r"text tower was passed in \(recorded 1\)"):
            clip.settings("text")
        with pytest.raises(ValueError, match=r"text tower was passed in \(recorded 1\)"):
            clip.precision("text")
    assert sorted(own.batches) == [22, 64, 64]


def test_pictures_for_a_tower_passed_in(small_bundle: Bundle) -> None:
    own = Recorded(OnnxTower(small_bundle.file("image.fp32.onnx"), threads=1), max_batch=16)
    pictures = arrays(20, 48)
    with LocalClip(small_bundle, towers={"image": own}) as clip:
        found = clip.encode_image(pictures)
        with pytest.raises(InvalidInput, match="item 17: "):
            clip.encode_image([*pictures[:17], b"no picture"])
    with LocalClip(small_bundle, settings=CpuSettings()) as clip:
        np.testing.assert_allclose(found, clip.encode_image(pictures), atol=1e-6)


@pytest.mark.parametrize(
    ("tower", "changes", "says"),
    [
        ("image", {"input": "tokens", "dtype": "int32", "shape": (None,)}, "takes int32 tokens"),
        ("image", {"shape": (224, 224, 3)}, r"takes uint8 pixels \[224, 224, 3\], but"),
        ("image", {"dtype": "float32"}, "takes float32 pixels"),
        ("text", {"shape": (77,)}, r"takes int32 tokens \[77\]"),
        ("text", {"dim": 512}, "gives embeddings of length 512"),
        ("text", {"max_length": 16}, "takes up to 16 tokens, but texts of .* have up to 77"),
    ],
)
def test_a_tower_that_does_not_fit_is_refused(
    small_bundle: Bundle, tower: str, changes: dict[str, Any], says: str
) -> None:
    own = Recorded(OnnxTower(small_bundle.file(f"{tower}.fp32.onnx"), threads=1))
    own.changes = changes
    with pytest.raises(ValueError, match=says):
        LocalClip(small_bundle, towers={tower: own})
    with pytest.raises(ValueError, match="no tower 'audio'"):
        LocalClip(small_bundle, towers={"audio": own})
    assert own.closed == 0


@pytest.mark.parametrize(("answer", "says"), [(None, "NoneType"), ([[1.0]], "list")])
def test_an_answer_that_is_no_array_is_a_server_error(
    small_bundle: Bundle, monkeypatch: pytest.MonkeyPatch, answer: object, says: str
) -> None:
    own = Recorded(OnnxTower(small_bundle.file("text.fp32.onnx"), threads=1))
    monkeypatch.setattr(own, "run", lambda batch: answer)
    with (
        LocalClip(small_bundle, towers={"text": own}) as clip,
        pytest.raises(ServerError, match=rf"\(recorded 1\) answered {says}, expected float32"),
    ):
        clip.encode_text("a")


def test_an_answer_that_cannot_be_right_names_a_way_out(
    small_bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = Recorded(OnnxTower(small_bundle.file("text.fp32.onnx"), threads=1))
    dim = small_bundle.card.dim
    monkeypatch.setattr(own, "run", lambda batch: np.full((len(batch), dim), np.nan, np.float32))
    with (
        LocalClip(small_bundle, towers={"text": own}) as clip,
        pytest.raises(ServerError, match=r"nan\); check the tower that was passed in$"),
    ):
        clip.encode_text("a")


def test_a_tower_that_cannot_be_closed_keeps_no_other_open(
    small_bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    towers = {
        name: Recorded(OnnxTower(small_bundle.file(f"{name}.fp32.onnx"), threads=1))
        for name in ("image", "text")
    }
    clip = LocalClip(small_bundle, towers=towers)
    clip.encode_text("a")
    closed: list[str] = []
    for name, own in towers.items():

        def close(name: str = name) -> None:
            closed.append(name)
            raise RuntimeError(f"{name} is stuck")

        monkeypatch.setattr(own, "close", close)
    with pytest.raises(RuntimeError, match="is stuck"):
        clip.close()
    assert sorted(closed) == ["image", "text"]
    clip.close()
    assert len(closed) == 2


def test_a_tower_that_fails_is_a_server_error(
    small_bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = Recorded(OnnxTower(small_bundle.file("text.fp32.onnx"), threads=1))
    with LocalClip(small_bundle, towers={"text": own}) as clip:
        clip.encode_text("a")
        monkeypatch.setattr(OnnxTower, "run", lambda *_: 1 / 0)
        with pytest.raises(ServerError, match=r"the text tower \(recorded 1\) failed: division"):
            clip.encode_text("a")
