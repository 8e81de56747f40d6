"""Exports that go wrong: it is said what, nothing half-done stays, an earlier bundle survives.

``tests/export/test_checkpoint.py`` has what the reader alone refuses; here it is the whole export.
"""

from __future__ import annotations

import json
import shutil
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkpoints import SMALL, Tensors, draw_tensors, write_checkpoint
from safetensors.numpy import save_file

from cliprt import Bundle, BundleError, CheckpointError, open_bundle
from cliprt_export import export_checkpoint

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
SHARD = "model-00002-of-00002.safetensors"

# Exports with a limit on a resource and a signal to itself as a step begins.
CHILD = """
import os, resource, signal, sys
from cliprt import CliprtError
from cliprt_export import export_checkpoint
source, out, limit, most, at, number = sys.argv[1:]
if limit:
    resource.setrlimit(getattr(resource, limit), (int(most), int(most)))
def step(name):
    if name == at:
        os.kill(os.getpid(), int(number))
try:
    export_checkpoint(source, out, overwrite=True, on_step=step)
except CliprtError as error:
    sys.exit(f"{type(error).__name__}: {error}")
"""


def child(
    source: Path, out: Path, *, limit: str = "", most: int = 0, at: str = "", number: int = 0
) -> subprocess.CompletedProcess[str]:
    arguments = [str(source), str(out), limit, str(most), at, str(number)]
    command = [sys.executable, "-c", CHILD, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)


@pytest.fixture
def earlier(small_bundle: Bundle, tmp_path: Path) -> Bundle:
    """A bundle that an export is to replace, alone in its folder."""
    return open_bundle(shutil.copytree(small_bundle.path, tmp_path / "out" / "bundle"))


def assert_only(bundle: Bundle) -> None:
    """The bundle is whole and nothing lies beside it."""
    assert open_bundle(bundle.path).card == bundle.card
    assert [path.name for path in bundle.path.parent.iterdir()] == [bundle.path.name]


def edit(folder: Path, name: str, change: Callable[[Any], object]) -> None:
    """Changes a JSON file: the content in place, or by what the function returns."""
    content = json.loads((folder / name).read_text(encoding="utf-8"))
    replaced = change(content)
    content = content if replaced is None else replaced
    (folder / name).write_text(json.dumps(content), encoding="utf-8")


def in_vision(**values: object) -> Callable[[Path], None]:
    return lambda folder: edit(folder, "config.json", lambda c: c["vision_config"].update(values))


def in_text(**values: object) -> Callable[[Path], None]:
    return lambda folder: edit(folder, "config.json", lambda c: c["text_config"].update(values))


def in_config(**values: object) -> Callable[[Path], None]:
    return lambda folder: edit(folder, "config.json", lambda c: c.update(values))


def in_processor(**values: object) -> Callable[[Path], None]:
    return lambda folder: edit(folder, "preprocessor_config.json", lambda c: c.update(values))


def file_of(name: str, content: bytes) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        (folder / name).write_bytes(content)

    return write


def tensors(change: Callable[[Tensors], object]) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        drawn = draw_tensors(SMALL)
        change(drawn)
        save_file(drawn, folder / WEIGHTS)

    return write


def put(name: str, value: float) -> Callable[[Path], None]:
    """One component of a tensor gets a value."""
    return tensors(lambda drawn: drawn[name].reshape(-1).__setitem__(0, value))


def cut(keep: Callable[[int], int]) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        content = (folder / WEIGHTS).read_bytes()
        (folder / WEIGHTS).write_bytes(content[: keep(len(content))])

    return write


def header(changes: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    """Rewrites the header of the tensor file and leaves the data as they are."""

    def write(folder: Path) -> None:
        content = (folder / WEIGHTS).read_bytes()
        (length,) = struct.unpack("<Q", content[:8])
        entries = json.loads(content[8 : 8 + length])
        changes(entries)
        packed = json.dumps(entries).encode()
        data = content[8 + length :]
        (folder / WEIGHTS).write_bytes(struct.pack("<Q", len(packed)) + packed + data)

    return write


def more_merges_than_rows(folder: Path) -> None:
    """A word with an id far beyond the embedding table."""
    edit(folder, "vocab.json", lambda words: words.update({"beyond</w>": 60000}))


PROJECTION = "visual_projection.weight"
TOKENS = "text_model.embeddings.token_embedding.weight"
MANY = 10**9

# What is done to a good checkpoint, and what the message says.
BROKEN: dict[str, tuple[Callable[[Path], object], str]] = {
    "empty weights": (cut(lambda size: 0), r"model\.safetensors of broken cannot be read"),
    "half the header": (cut(lambda size: 100), r"model\.safetensors of broken cannot be read"),
    "last byte missing": (cut(lambda size: size - 1), r"model\.safetensors of broken cannot be"),
    "garbage": (file_of(WEIGHTS, bytes(range(256)) * 9), r"model\.safetensors of broken cannot"),
    "header no JSON": (
        file_of(WEIGHTS, struct.pack("<Q", 8) + b"{{{{{{{{"),
        r"model\.safetensors of broken cannot be read",
    ),
    "tensor beyond the file": (
        header(lambda entries: entries[PROJECTION].update(data_offsets=[0, 10**12])),
        r"model\.safetensors of broken cannot be read",
    ),
    "tensor of a type that nothing has": (
        header(lambda entries: entries[PROJECTION].update(dtype="Q4")),
        r"model\.safetensors of broken cannot be read",
    ),
    "transposed tensor": (
        tensors(lambda t: t.update({PROJECTION: t[PROJECTION].T.copy()})),
        r"'visual_projection\.weight' of broken has shape \[48, 24\].*\[24, 48\]",
    ),
    "missing tensor of the last layer": (
        tensors(lambda t: t.pop("text_model.encoder.layers.2.mlp.fc2.bias")),
        r"no tensor 'text_model\.encoder\.layers\.2\.mlp\.fc2\.bias'",
    ),
    "no tensors": (tensors(lambda t: t.clear()), "broken has no tensor "),
    "NaN": (
        put("text_projection.weight", np.nan),
        r"'text_projection\.weight' of broken holds NaN",
    ),
    "infinity": (
        put(PROJECTION, np.inf),
        r"'visual_projection\.weight' of broken holds NaN or inf",
    ),
    "infinite logit scale": (
        put("logit_scale", np.inf),
        "'logit_scale' of broken holds NaN or inf",
    ),
    "huge logit scale": (put("logit_scale", 800), "logit_scale of broken is 800"),
    "integers": (
        tensors(lambda t: t.update({PROJECTION: t[PROJECTION].astype(np.int32)})),
        r"'visual_projection\.weight' of broken is I32; supported are F32, F16, F64 and BF16",
    ),
    "config no JSON": (file_of("config.json", b"{"), r"config\.json of broken cannot be read"),
    "config no text": (file_of("config.json", b"\xff\xfe{"), r"config\.json of broken cannot be"),
    "config a list": (file_of("config.json", b"[]"), r"config\.json of broken is no JSON object"),
    "config without end": (
        file_of("config.json", b"[" * 100_000),
        r"config\.json of broken cannot be read",
    ),
    "config with NaN": (
        file_of("preprocessor_config.json", b'{"rescale_factor": NaN}'),
        r"preprocessor_config\.json of broken cannot be read: it holds NaN",
    ),
    "model type a list": (in_config(model_type=["clip"]), r"model_type \['clip'\]"),
    "section a list": (in_config(vision_config=[1]), r"vision_config must be an object, got \[1\]"),
    "projection a string": (
        in_config(projection_dim="24"),
        "projection_dim must be a whole number",
    ),
    "projection null": (in_config(projection_dim=None), "projection_dim must be a whole number"),
    "width a string": (in_vision(hidden_size="48"), "hidden_size must be a whole .*got '48'"),
    "width a fraction": (in_vision(hidden_size=48.0), r"hidden_size must be a whole .*got 48\.0"),
    "width true": (in_vision(hidden_size=True), "hidden_size must be a whole number.*got True"),
    "width null": (in_text(hidden_size=None), "hidden_size must be a whole number.*got None"),
    "layers zero": (in_text(num_hidden_layers=0), "num_hidden_layers must be a whole .*got 0"),
    "layers negative": (in_text(num_hidden_layers=-3), "num_hidden_layers must be .*got -3"),
    "heads zero": (in_text(num_attention_heads=0), "num_attention_heads must be .*got 0"),
    "patch zero": (in_vision(patch_size=0), "patch_size must be a whole number.*got 0"),
    "patch beyond the picture": (in_vision(patch_size=33), "32 x 32 holds no patch of side 33"),
    "epsilon a string": (in_text(layer_norm_eps="1e-5"), "layer_norm_eps must be a number above 0"),
    "epsilon negative": (in_text(layer_norm_eps=-1e-5), "layer_norm_eps must be a number above 0"),
    "other width": (
        in_vision(hidden_size=51),
        r"has shape \[48, 3, 8, 8\], its config calls for \[51, 3, 8, 8\]",
    ),
    "heads that do not divide": (
        in_vision(num_attention_heads=5),
        "width 48 is not divisible by 5",
    ),
    "picture other than the positions": (
        lambda folder: (
            in_vision(image_size=64)(folder),
            in_processor(size={"shortest_edge": 64}, crop_size={"height": 64, "width": 64})(folder),
        ),
        r"vision_model\.embeddings\.position_embedding\.weight' .* \[17, 48\].*\[65, 48\]",
    ),
    "context other than the positions": (
        in_text(max_position_embeddings=78),
        r"text_model\.embeddings\.position_embedding\.weight' .* \[77, 32\].*\[78, 32\]",
    ),
    "end token beyond the vocabulary": (in_text(eos_token_id=49408), "end_id 49408 lies outside"),
    "layers beyond reason": (in_text(num_hidden_layers=MANY), "1000000000 layers are beyond"),
    "vocabulary beyond reason": (
        in_text(vocab_size=MANY),
        r"token_embedding\.weight' of broken has shape \[49408, 32\].*\[1000000000, 32\]",
    ),
    "context beyond reason": (
        in_text(max_position_embeddings=MANY),
        r"has shape \[77, 32\], its config calls for \[1000000000, 32\]",
    ),
    "picture beyond reason": (
        lambda folder: (
            in_vision(image_size=MANY)(folder),
            in_processor(size={"shortest_edge": MANY}, crop_size={"height": MANY, "width": MANY})(
                folder
            ),
        ),
        r"has shape \[17, 48\], its config calls for",
    ),
    "number beyond numbers": (in_vision(hidden_size=10**400), "hidden_size must be a whole number"),
    "smaller vocabulary than the tokenizer's": (
        lambda folder: (
            tensors(lambda t: t.update({TOKENS: t[TOKENS][:1000]}))(folder),
            in_text(vocab_size=1000, eos_token_id=999)(folder),
        ),
        "the tokenizer of broken makes ids up to 49407, its text tower knows 1000",
    ),
    "an id beyond the embedding table": (
        more_merges_than_rows,
        "the tokenizer of broken makes ids up to 60000, its text tower knows 49408",
    ),
    "a merge of unknown words": (
        file_of("merges.txt", b"#version: 0.2\nqqqq zzzz\n"),
        "the tokenizer of broken cannot be built",
    ),
    "vocabulary no JSON": (file_of("vocab.json", b"{"), "the tokenizer of broken cannot be built"),
    "mean of two": (in_processor(image_mean=[0.5, 0.5]), r"image_mean must be three numbers"),
    "mean of strings": (
        in_processor(image_mean=["a", "b", "c"]),
        "image_mean must be three numbers",
    ),
    "deviation of zero": (
        in_processor(image_std=[0.5, 0.5, 0]),
        "std and rescale must be positive",
    ),
    "rescale a string": (
        in_processor(rescale_factor="x"),
        "rescale_factor must be a number above 0",
    ),
    "size a string": (in_processor(size="32"), "size must be a number or an object, got '32'"),
    "size of nothing": (in_processor(size={}), "'height' is missing"),
    "filter that nobody has": (in_processor(resample=99), "99 is not a valid Resampling"),
}


@pytest.mark.parametrize("what", BROKEN)
def test_a_broken_checkpoint_is_named_and_changes_nothing(
    what: str, earlier: Bundle, tmp_path: Path
) -> None:
    damage, text = BROKEN[what]
    folder = write_checkpoint(tmp_path / "broken", SMALL)
    damage(folder)
    with pytest.raises(CheckpointError, match=text) as caught:
        export_checkpoint(folder, earlier.path, overwrite=True)
    # A message is for people elsewhere too: no path of this machine.
    assert str(tmp_path) not in str(caught.value)
    assert_only(earlier)


def sharded(tmp_path: Path) -> Path:
    return write_checkpoint(tmp_path / "broken", SMALL, shards=2)


def without_a_shard(folder: Path) -> None:
    (folder / SHARD).unlink()


def shard_cut_off(folder: Path) -> None:
    (folder / SHARD).write_bytes((folder / SHARD).read_bytes()[:-1])


@pytest.mark.parametrize(
    ("damage", "text"),
    [
        (without_a_shard, r"incomplete: its shard model-00002-of-00002\.safetensors is missing"),
        (shard_cut_off, r"model-00002-of-00002\.safetensors of broken cannot be read"),
        (
            lambda folder: edit(folder, INDEX, lambda index: {"weight_map": {"x": "../x"}}),
            r"model\.safetensors\.index\.json of broken names a file outside it: '\.\./x'",
        ),
        (
            lambda folder: edit(folder, INDEX, lambda index: {"weight_map": {"x": "/etc/passwd"}}),
            r"names a file outside it: '/etc/passwd'",
        ),
        (
            lambda folder: edit(folder, INDEX, lambda index: {"weight_map": {"x": 1}}),
            r"model\.safetensors\.index\.json of broken has no usable weight_map",
        ),
        (
            lambda folder: edit(folder, INDEX, lambda index: {}),
            r"model\.safetensors\.index\.json of broken has no usable weight_map",
        ),
        (file_of(INDEX, b"{"), r"model\.safetensors\.index\.json of broken cannot be read"),
    ],
)
def test_broken_shards_are_named_and_change_nothing(
    damage: Callable[[Path], object], text: str, earlier: Bundle, tmp_path: Path
) -> None:
    folder = sharded(tmp_path)
    damage(folder)
    with pytest.raises(CheckpointError, match=text):
        export_checkpoint(folder, earlier.path, overwrite=True)
    assert_only(earlier)


def test_an_index_that_names_the_wrong_shard(earlier: Bundle, tmp_path: Path) -> None:
    folder = sharded(tmp_path)

    def swap(index: dict[str, dict[str, str]]) -> None:
        shards = sorted(set(index["weight_map"].values()))
        at = shards.index(index["weight_map"][PROJECTION])
        index["weight_map"][PROJECTION] = shards[1 - at]

    edit(folder, INDEX, swap)
    with pytest.raises(CheckpointError, match=r"has no tensor 'visual_projection\.weight', which"):
        export_checkpoint(folder, earlier.path, overwrite=True)
    assert_only(earlier)


@pytest.mark.parametrize(
    "what", ["layers beyond reason", "vocabulary beyond reason", "picture beyond reason"]
)
def test_numbers_beyond_reason_take_no_memory(what: str, tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "broken", SMALL)
    BROKEN[what][0](folder)
    done = child(folder, tmp_path / "bundle", limit="RLIMIT_AS", most=3 * 2**30)
    assert done.stderr.startswith("CheckpointError: ")


def sizes(bundle: Bundle) -> dict[str, int]:
    return {name: entry.size for name, entry in bundle.card.files.items()}


@pytest.mark.parametrize("name", ["golden.npz", "image.fp32.onnx", "text.fp32.onnx"])
def test_a_full_disk_is_said_and_changes_nothing(
    name: str, small_checkpoint: Path, earlier: Bundle
) -> None:
    """No file may grow beyond a byte less than this one has, so that its last write fails."""
    done = child(
        small_checkpoint, earlier.path, limit="RLIMIT_FSIZE", most=sizes(earlier)[name] - 1
    )
    assert done.returncode == 1
    assert done.stderr == f"BundleError: {earlier.path} cannot be written: File too large\n"
    assert_only(earlier)


@pytest.mark.parametrize("step", ["known answers", "text tower", "certificate", "identity"])
def test_an_interrupt_cleans_up(step: str, small_checkpoint: Path, earlier: Bundle) -> None:
    done = child(small_checkpoint, earlier.path, at=step, number=signal.SIGINT)
    assert "KeyboardInterrupt" in done.stderr
    assert_only(earlier)


@pytest.mark.parametrize("step", ["image tower", "identity"])
def test_a_killed_export_leaves_the_earlier_bundle(
    step: str, small_checkpoint: Path, earlier: Bundle
) -> None:
    done = child(small_checkpoint, earlier.path, at=step, number=signal.SIGKILL)
    assert done.returncode == -signal.SIGKILL
    assert open_bundle(earlier.path).card == earlier.card
    (left,) = (path for path in earlier.path.parent.iterdir() if path != earlier.path)
    assert left.name.startswith(".bundle.")
    # What is left is no bundle, and in nobody's way.
    with pytest.raises(BundleError, match="is no bundle"):
        open_bundle(left)
    again = export_checkpoint(small_checkpoint, earlier.path, overwrite=True)
    assert again.card == earlier.card


WAITING = """
import sys, time
from pathlib import Path
from cliprt import CliprtError
from cliprt_export import export_checkpoint
source, out, gate, ready, overwrite = sys.argv[1:]
def step(name):
    if name == "identity":
        Path(ready).touch()
        while not Path(gate).exists():
            time.sleep(0.001)
try:
    export_checkpoint(source, out, overwrite=bool(overwrite), on_step=step)
except CliprtError as error:
    sys.exit(f"{type(error).__name__}: {error}")
"""


def at_once(source: Path, out: Path, folder: Path, overwrite: bool) -> list[str]:
    """Two exports that end together; what each says, empty if it succeeded."""
    gate = folder / "gate"
    children = []
    for number in range(2):
        arguments = [str(source), str(out), str(gate), str(folder / f"ready{number}")]
        command = [sys.executable, "-c", WAITING, *arguments, "yes" if overwrite else ""]
        children.append(subprocess.Popen(command, stderr=subprocess.PIPE, text=True))
    end = time.monotonic() + 100
    while not all((folder / f"ready{number}").exists() for number in range(2)):
        assert time.monotonic() < end, "an export did not get to its last step"
        time.sleep(0.01)
    gate.touch()
    return [child.communicate(timeout=100)[1] for child in children]


def test_of_two_exports_at_once_one_makes_the_bundle(
    small_checkpoint: Path, small_bundle: Bundle, tmp_path: Path
) -> None:
    said = at_once(small_checkpoint, tmp_path / "out" / "bundle", tmp_path, overwrite=False)
    assert sorted(map(bool, said)) == [False, True]
    assert "".join(said).startswith("BundleError: ")
    assert open_bundle(tmp_path / "out" / "bundle").card == small_bundle.card
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["bundle"]


def test_two_exports_that_overwrite_at_once_leave_one_bundle(
    small_checkpoint: Path, earlier: Bundle, tmp_path: Path
) -> None:
    said = at_once(small_checkpoint, earlier.path, tmp_path, overwrite=True)
    assert "" in said
    assert all(text == "" or text.startswith("BundleError: ") for text in said)
    assert_only(earlier)


def test_a_folder_that_cannot_be_written_is_said(small_checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(BundleError, match="cannot be written"):
        export_checkpoint(small_checkpoint, tmp_path / "file" / "bundle")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
