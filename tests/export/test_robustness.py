"""Exports that go wrong: it is said what, nothing half-done stays, an earlier bundle survives.

``tests/export/test_checkpoint.py`` has what the reader alone refuses; here it is the whole export.
"""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from broken_checkpoints import BROKEN, PROJECTION, edit, file_of
from checkpoints import SMALL, write_checkpoint
from patience import until

from cliprt import Bundle, BundleError, CheckpointError, open_bundle
from cliprt_export import export_checkpoint

INDEX = "model.safetensors.index.json"
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
    # Both got to their last step.
    until(lambda: all((folder / f"ready{number}").exists() for number in range(2)), 100)
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


def test_a_file_of_the_user_in_a_bundle_is_not_deleted(
    small_checkpoint: Path, tmp_path: Path
) -> None:
    export_checkpoint(small_checkpoint, tmp_path / "bundle", samples=2)
    (tmp_path / "bundle" / "thesis.tex").write_text("years of work")
    with pytest.raises(BundleError, match="holds thesis.tex, which is no part of the bundle"):
        export_checkpoint(small_checkpoint, tmp_path / "bundle", samples=2, overwrite=True)
    assert (tmp_path / "bundle" / "thesis.tex").read_text() == "years of work"


def test_a_folder_with_another_kind_of_card_is_not_overwritten(
    small_checkpoint: Path, tmp_path: Path
) -> None:
    (tmp_path / "card.json").write_text('{"title": "my business card"}')
    with pytest.raises(BundleError, match="is no bundle; it is not overwritten"):
        export_checkpoint(small_checkpoint, tmp_path, overwrite=True)
    assert (tmp_path / "card.json").is_file()


def test_more_layers_than_the_config_says(small_checkpoint: Path, tmp_path: Path) -> None:
    """What is cut off must not get a perfect certificate."""
    folder = tmp_path / "checkpoint"
    shutil.copytree(small_checkpoint, folder)
    config = json.loads((folder / "config.json").read_text())
    config["vision_config"]["num_hidden_layers"] -= 1
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=r"layers\.1\..* its config calls for 1 layers"):
        export_checkpoint(folder, tmp_path / "bundle")


def test_another_image_processor_is_refused(small_checkpoint: Path, tmp_path: Path) -> None:
    folder = tmp_path / "checkpoint"
    shutil.copytree(small_checkpoint, folder)
    path = folder / "preprocessor_config.json"
    content = {**json.loads(path.read_text()), "image_processor_type": "ViTImageProcessor"}
    path.write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match="has a ViTImageProcessor; supported is CLIPImage"):
        export_checkpoint(folder, tmp_path / "bundle")
