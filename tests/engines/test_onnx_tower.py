"""A tower in process."""

from __future__ import annotations

import gc
import importlib.util
import os
import subprocess
import sys
import weakref
from pathlib import Path

import numpy as np
import onnx.numpy_helper
import onnx.parser
import pytest

from cliprt import Bundle, BundleError, ClosedError
from cliprt_engines import OnnxTower, OpenVinoTower


def test_it_loads_from_a_file_and_from_bytes(small_bundle: Bundle) -> None:
    path = small_bundle.file("text.fp32.onnx")
    tokens = np.array([[49406, 320, 49407]], dtype=np.int32)
    from_file = OnnxTower(path, threads=1).run(tokens)
    from_bytes = OnnxTower(path.read_bytes(), threads=1).run(tokens)
    assert from_file.shape == (1, 24)
    assert from_file.dtype == np.float32
    np.testing.assert_array_equal(from_file, from_bytes)


def test_garbage_is_a_bundle_error(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"garbage")
    with pytest.raises(BundleError, match="no readable ONNX graph"):
        OnnxTower(tmp_path / "model.onnx")


def test_a_graph_without_content_is_a_bundle_error(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"")
    with pytest.raises(BundleError, match="ONNX Runtime cannot load the tower"):
        OnnxTower(tmp_path / "model.onnx")


def test_a_missing_file_is_a_bundle_error(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"model\.onnx cannot be read: No such file"):
        OnnxTower(tmp_path / "model.onnx")


def test_says_what_it_takes_and_gives(small_bundle: Bundle) -> None:
    image = OnnxTower(small_bundle.file("image.fp32.onnx")).info
    text = OnnxTower(small_bundle.file("text.fp32.onnx")).info
    spec, dim = small_bundle.card.image, small_bundle.card.dim
    assert spec is not None
    assert (image.input, image.dtype, image.dim) == ("pixels", "uint8", dim)
    assert image.shape == (spec.height, spec.width, 3)
    assert (text.input, text.dtype, text.shape, text.dim) == ("tokens", "int32", (None,), dim)


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_a_closed_tower_gives_back_its_memory(small_bundle: Bundle, runtime: str) -> None:
    if importlib.util.find_spec(runtime) is None:
        pytest.skip(f"{runtime} is not installed")
    path = small_bundle.file("text.fp32.onnx")
    tokens = np.array([[49406, 320, 49407]], dtype=np.int32)
    tower: OnnxTower | OpenVinoTower
    if runtime == "onnxruntime":
        tower = OnnxTower(path, threads=1)
        held = weakref.ref(tower._session)
    else:
        tower = OpenVinoTower(path, threads=1)
        request = tower._requests.get()
        held = weakref.ref(request)
        tower._requests.put(request)
        del request
    info = tower.info
    tower.run(tokens)
    tower.close()
    tower.close()
    gc.collect()
    assert held() is None
    assert tower.info == info
    for _ in range(2):
        with pytest.raises(ClosedError, match="the tower is closed"):
            tower.run(tokens)


def test_products_of_bytes_do_not_saturate(tmp_path: Path) -> None:
    """Two products of the greatest bytes exceed 16 bits, in which older processors add them."""
    graph = onnx.parser.parse_model("""
        <ir_version: 10, opset_import: ["" : 19]>
        tower (uint8[batch, 64] pixels) => (float[batch, 1] embedding)
        <float scale = {1}, uint8 zero = {0}, float[1] scales = {1}, int8[1] zeros = {0}>
        {
            x = DequantizeLinear (pixels, scale, zero)
            w = DequantizeLinear <axis = 1> (weight, scales, zeros)
            embedding = MatMul (x, w)
        }
    """)
    weight = np.full((64, 1), 127, dtype=np.int8)
    graph.graph.initializer.append(onnx.numpy_helper.from_array(weight, "weight"))
    onnx.save(graph, str(tmp_path / "model.onnx"))
    answer = OnnxTower(tmp_path / "model.onnx").run(np.full((2, 64), 255, dtype=np.uint8))
    np.testing.assert_array_equal(answer, np.full((2, 1), 64 * 255 * 127, dtype=np.float32))


def test_onnx_runtime_keeps_no_id_and_tells_nobody(small_bundle: Bundle, tmp_path: Path) -> None:
    """Its builds for Linux report to their maker, and leave files where they keep what to send."""
    program = (
        "import sys; from cliprt_engines import LocalClip; "
        "LocalClip(sys.argv[1]).encode_text('a'); print('done')"
    )
    folders = {name: str(tmp_path / name) for name in ("HOME", "TMPDIR", "CLIPRT_HOME")}
    for folder in folders.values():
        Path(folder).mkdir()
    unset = ("ORT_DISABLE_TELEMETRY", "XDG_CACHE_HOME")
    done = subprocess.run(
        [sys.executable, "-c", program, str(small_bundle.path)],
        env={key: value for key, value in os.environ.items() if key not in unset} | folders,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "done\n"
    kept = [path.name for name in ("HOME", "TMPDIR") for path in (tmp_path / name).rglob("*")]
    assert not {".ses", "deviceid", ".onnxruntime"} & set(kept)
