"""Graphs that keep weights in other files: which files, and none outside the bundle."""

from __future__ import annotations

import builtins
import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from cliprt import Bundle, BundleError, open_bundle
from cliprt._bundle import sha256_of
from cliprt._external import external_files, locations
from cliprt_engines import OnnxTower

WEIGHTS = np.arange(256, dtype=np.float32).tobytes()


def tensor_in(*places: str, name: str = "w") -> TensorProto:
    """A weight that lies in a file; of several places the last one counts for ONNX."""
    tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=[256])
    tensor.data_location = TensorProto.EXTERNAL
    for place in places:
        tensor.external_data.add(key="location", value=place)
    return tensor


def graph_of(name: str, *weights: TensorProto, nodes: list[Any] | None = None) -> Any:
    add = [helper.make_node("Add", ["x", "w"], ["y"])]
    x, y = (helper.make_tensor_value_info(port, TensorProto.FLOAT, [256]) for port in "xy")
    return helper.make_graph(nodes or add, name, [x], [y], list(weights))


def write(path: Path, *places: str) -> Path:
    return save(path, graph_of("g", tensor_in(*places)))


def save(path: Path, graph: Any, **fields: Any) -> Path:
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], **fields)
    model.ir_version = 10
    path.write_bytes(model.SerializeToString())
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with weights in it, others outside it, and links to these."""
    folder = tmp_path / "bundle"
    folder.mkdir()
    (folder / "weights.data").write_bytes(WEIGHTS)
    (tmp_path / "secret").write_bytes(WEIGHTS)
    (folder / "link").symlink_to(tmp_path / "secret")
    (folder / "inner").symlink_to("weights.data")
    (folder / "chain").symlink_to("link")
    return folder


def inside_an_attribute(tensor: TensorProto) -> Any:
    node = helper.make_node("Constant", [], ["w"], value=tensor)
    return graph_of("g", nodes=[node, helper.make_node("Add", ["x", "w"], ["y"])])


def inside_a_branch(tensor: TensorProto) -> Any:
    y = helper.make_tensor_value_info("b", TensorProto.FLOAT, [256])
    branch = helper.make_graph([helper.make_node("Add", ["x", "w"], ["b"])], "b", [], [y], [tensor])
    node = helper.make_node("If", ["c"], ["y"], then_branch=branch, else_branch=branch)
    return graph_of("g", nodes=[node])


def as_a_sparse_weight(tensor: TensorProto) -> Any:
    graph = graph_of("g")
    graph.sparse_initializer.add().values.CopyFrom(tensor)
    return graph


@pytest.mark.parametrize(
    "build",
    [
        lambda tensor: graph_of("g", tensor),
        inside_an_attribute,
        inside_a_branch,
        as_a_sparse_weight,
    ],
)
def test_every_tensor_of_a_graph_is_seen(build: Callable[[TensorProto], Any], folder: Path) -> None:
    graph = save(folder / "graph.onnx", build(tensor_in("weights.data")))
    assert external_files(graph) == {"weights.data"}


def test_a_function_is_seen(folder: Path) -> None:
    node = helper.make_node("Constant", [], ["y"], value=tensor_in("weights.data"))
    opset = helper.make_opsetid("", 20)
    function = helper.make_function("own", "F", ["x"], ["y"], [node], [opset])
    graph = save(folder / "graph.onnx", graph_of("g"), functions=[function])
    assert external_files(graph) == {"weights.data"}


def test_the_defaults_of_a_function_are_seen(folder: Path) -> None:
    default = helper.make_attribute("value", tensor_in("weights.data"))
    node = helper.make_node("Identity", ["x"], ["y"])
    opset = helper.make_opsetid("", 20)
    function = helper.make_function(
        "own", "F", ["x"], ["y"], [node], [opset], attribute_protos=[default]
    )
    graph = save(folder / "graph.onnx", graph_of("g"), functions=[function])
    assert external_files(graph) == {"weights.data"}


def test_what_belongs_to_training_is_seen(folder: Path) -> None:
    training = onnx.TrainingInfoProto()
    training.initialization.CopyFrom(graph_of("g", tensor_in("weights.data")))
    model = helper.make_model(graph_of("g"))
    model.training_info.append(training)
    graph = folder / "graph.onnx"
    graph.write_bytes(model.SerializeToString())
    assert external_files(graph) == {"weights.data"}


def test_a_place_given_twice_hides_nothing(folder: Path) -> None:
    graph = write(folder / "graph.onnx", "../secret", "weights.data")
    with pytest.raises(BundleError, match=r"'\.\./secret', outside its own folder"):
        external_files(graph)


@pytest.mark.parametrize(
    ("place", "text"),
    [
        ("../secret", "outside its own folder"),
        ("sub/../../secret", "outside its own folder"),
        ("sub/weights.data", "outside its own folder"),
        ("..\\secret", "outside its own folder"),
        ("..", "outside its own folder"),
        ("", "outside its own folder"),
        ("ABSOLUTE", "outside its own folder"),
        ("link", "a link to another folder"),
        ("chain", "a link to another folder"),
    ],
)
def test_nothing_outside_the_folder_is_opened(
    place: str, text: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = str(folder.parent / "secret") if place == "ABSOLUTE" else place
    graph = write(folder / "graph.onnx", place)
    opened: list[str] = []
    original = io.open

    def record(file: Any, *arguments: Any, **options: Any) -> Any:
        if str(folder.parent) in str(file):  # not what is read to learn the processor
            opened.append(str(file))
        return original(file, *arguments, **options)

    monkeypatch.setattr(io, "open", record)
    monkeypatch.setattr(builtins, "open", record)
    with pytest.raises(BundleError, match=text):
        OnnxTower(graph)
    assert opened == [str(graph)]


def test_links_within_a_folder_are_followed(folder: Path) -> None:
    tower = OnnxTower(write(folder / "graph.onnx", "inner"))
    assert tower.run(np.zeros(256, np.float32))[5] == 5  # type: ignore[arg-type]


def test_a_folder_of_links_into_another_one_is_a_folder(folder: Path, tmp_path: Path) -> None:
    graph = write(folder / "graph.onnx", "weights.data")
    linked = tmp_path / "linked"
    linked.mkdir()
    for file in (graph, folder / "weights.data"):
        (linked / file.name).symlink_to(file)
    assert external_files(linked / "graph.onnx") == {"weights.data"}


def test_the_content_alone_cannot_name_files(folder: Path) -> None:
    content = write(folder / "graph.onnx", "weights.data").read_bytes()
    with pytest.raises(BundleError, match="load it from its path"):
        OnnxTower(content)


@pytest.mark.parametrize("length", [1, 9, 40, 150])
def test_a_graph_that_is_cut_off_is_refused(length: int, folder: Path) -> None:
    content = write(folder / "graph.onnx", "weights.data").read_bytes()
    with pytest.raises(BundleError, match="no readable ONNX graph"):
        locations(io.BytesIO(content[: len(content) - length]))


def test_graphs_within_graphs_have_an_end() -> None:
    content = b""
    for field in (6, 5, 1) * 40:
        header = bytes([field << 3 | 2])
        size, digits = len(content), b""
        while size > 0x7F:
            digits += bytes([size & 0x7F | 0x80])
            size >>= 7
        content = header + digits + bytes([size]) + content
    size = len(content)
    prefix = bytes([7 << 3 | 2, size & 0x7F | 0x80, size >> 7])
    with pytest.raises(BundleError, match="messages lie more than 32 deep"):
        locations(io.BytesIO(prefix + content))


@pytest.fixture
def bundle(small_bundle: Bundle, tmp_path: Path) -> Path:
    return Path(shutil.copytree(small_bundle.path, tmp_path / "foreign"))


def list_again(bundle: Path, *names: str) -> None:
    """Puts the true hash of a file into the card, as whoever made the bundle could."""
    card = json.loads((bundle / "card.json").read_text())
    for name in names:
        file = bundle / name
        card["files"][name] = {"sha256": sha256_of(file), "size": file.stat().st_size}
    (bundle / "card.json").write_text(json.dumps(card))


@pytest.mark.parametrize(
    ("place", "text"),
    [
        ("../secret", "outside its own folder"),
        ("card.json", "'card.json', which the card does not list"),
        ("weights.data", r"'weights\.data', which the card does not list"),
    ],
)
def test_a_bundle_whose_graph_points_elsewhere_does_not_open(
    place: str, text: str, bundle: Path
) -> None:
    (bundle / "weights.data").write_bytes(WEIGHTS)
    write(bundle / "text.fp32.onnx", place)
    list_again(bundle, "text.fp32.onnx")
    with pytest.raises(BundleError, match=text):
        open_bundle(bundle)


def test_a_link_out_of_the_bundle_is_not_even_hashed(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "secret").write_bytes(WEIGHTS)
    (bundle / "a.data").symlink_to(tmp_path / "secret")
    write(bundle / "text.fp32.onnx", "a.data")
    list_again(bundle, "text.fp32.onnx", "a.data")
    hashed: list[str] = []

    def record(path: Path) -> str:
        hashed.append(path.name)
        return sha256_of(path)

    monkeypatch.setattr("cliprt._bundle.sha256_of", record)
    with pytest.raises(BundleError, match="a link to another folder"):
        open_bundle(bundle)
    assert "a.data" not in hashed


def test_a_hard_link_is_what_the_card_says_or_nothing(bundle: Path, tmp_path: Path) -> None:
    """It looks like any file; but whoever made the bundle would have to know what it holds."""
    (tmp_path / "secret").write_bytes(WEIGHTS)
    (bundle / "a.data").hardlink_to(tmp_path / "secret")
    write(bundle / "text.fp32.onnx", "a.data")
    list_again(bundle, "text.fp32.onnx", "a.data")
    open_bundle(bundle)
    (tmp_path / "secret").write_bytes(WEIGHTS[:-1] + b"?")
    with pytest.raises(BundleError, match=r"a\.data is not the file that was exported"):
        open_bundle(bundle)
