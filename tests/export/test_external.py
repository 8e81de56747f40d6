"""Towers whose weights lie in a file beside the graph, as those above 2 GiB must."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx.external_data_helper import ExternalDataInfo, uses_external_data

from cliprt import Bundle, BundleError, open_bundle
from cliprt_engines import OnnxTower
from cliprt_export import _variants, export_checkpoint
from cliprt_export._graph import MAX_BYTES, Graph
from cliprt_triton import write_repository


@pytest.fixture
def divided(small_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bundle:
    """The small bundle with a limit that neither of its towers keeps."""
    limited = functools.partial(_variants.write_tower, max_bytes=10_000)
    monkeypatch.setattr(_variants, "write_tower", limited)
    return export_checkpoint(small_checkpoint, tmp_path / "bundle", precisions=["fp32", "fp16"])


def test_both_layouts_answer_alike(divided: Bundle, small_bundle: Bundle) -> None:
    with np.load(small_bundle.file("golden.npz")) as golden:
        inputs = {"image": golden["pixels"], "text": golden["tokens"]}
    for tower, batch in inputs.items():
        name = f"{tower}.fp32.onnx"
        whole = OnnxTower(small_bundle.file(name)).run(batch)
        np.testing.assert_array_equal(OnnxTower(divided.file(name)).run(batch), whole)


def test_the_card_lists_the_second_file(divided: Bundle, small_bundle: Bundle) -> None:
    graphs = {f"{tower}.{name}.onnx" for tower in ("image", "text") for name in ("fp32", "fp16")}
    assert {name for name in divided.card.files if name.endswith(".data")} == {
        f"{name}.data" for name in graphs
    }
    assert divided.card.space == small_bundle.card.space
    assert divided.weights_of("text.fp16.onnx") == ["text.fp16.onnx.data"]
    assert small_bundle.weights_of("text.fp32.onnx") == []


def test_large_weights_lie_on_pages_and_small_ones_inside(divided: Bundle) -> None:
    graph = divided.file("image.fp32.onnx")
    model = onnx.load(graph, load_external_data=False)
    sizes = {True: [], False: []}  # type: dict[bool, list[int]]
    for tensor in model.graph.initializer:
        count = int(np.prod(tensor.dims))
        sizes[uses_external_data(tensor)].append(count * 4)
        if uses_external_data(tensor):
            info = ExternalDataInfo(tensor)
            assert (info.location, info.offset % 4096) == ("image.fp32.onnx.data", 0)
            assert info.length == count * 4
    assert min(sizes[True]) >= 1024 > max(sizes[False])
    onnx.checker.check_model(str(graph), full_check=True)


def test_a_graph_just_within_the_limit_stays_whole(tmp_path: Path) -> None:
    def write(max_bytes: int) -> bool:
        graph = Graph("test")
        x = graph.input("x", "float32", [1000])
        total = graph.op("Add", x, graph.weight("w", np.ones(1000, np.float32)))
        graph.output(total, "y", "float32", [1000])
        graph.write(tmp_path / "graph", "0", max_bytes)
        return (tmp_path / "graph.data").exists()

    assert not write(MAX_BYTES)
    # The size of the small parts of the file is rounded up by 16 bytes.
    size = (tmp_path / "graph").stat().st_size
    assert not write(size + 16)
    assert write(size - 1)


@pytest.mark.parametrize("link", [False, True])
def test_a_repository_has_both_files(divided: Bundle, tmp_path: Path, link: bool) -> None:
    repository = write_repository(divided, tmp_path / "repository", link=link)
    (version,) = (repository / "clip_text").glob("[0-9]*")
    assert (version / "text.fp32.onnx.data").is_symlink() == link
    with np.load(divided.file("golden.npz")) as golden:
        answer = OnnxTower(version / "model.onnx").run(golden["tokens"])
        np.testing.assert_allclose(answer, golden["text_embedding"], atol=2e-6)


def test_a_second_file_that_was_changed_is_noticed(divided: Bundle) -> None:
    data = divided.file("text.fp32.onnx.data")
    data.write_bytes(data.read_bytes()[:-1] + b"?")
    with pytest.raises(BundleError, match=r"text\.fp32\.onnx\.data is not the file that was"):
        open_bundle(divided.path)
