"""The manifest: what it says, and what is said where it is missing or damaged."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from run_folders import PLAN, config, do_unit

from cliprt_batch._manifest import Manifest, read_manifest
from cliprt_batch._output_errors import OutputError, OutputUnfinished
from cliprt_batch._run_folder import RunFolder


@pytest.fixture
def made(tmp_path: Path) -> Manifest:
    settings = config()
    with RunFolder.open(tmp_path, settings) as run:
        run.note_plan(PLAN)
        do_unit(run, settings, 0, bad=(3,))
        do_unit(run, settings, 1, items=5)
        manifest = run.finish(2)
    assert manifest is not None
    return manifest


def test_it_is_read_as_it_was_written(tmp_path: Path, made: Manifest) -> None:
    read = read_manifest(tmp_path)
    assert read == made
    assert (read.items, read.embedded, read.failed) == (25, 24, {"read": 1})
    assert (read.model, read.dim, read.plan_sha256) == ("demo", 4, PLAN)
    assert read.options == config().options
    read.check(tmp_path)


@pytest.mark.parametrize("name", ["img_emb/img_emb_000001.npy", "metadata/metadata_000000.parquet"])
def test_a_check_reads_every_byte(tmp_path: Path, made: Manifest, name: str) -> None:
    content = bytearray((tmp_path / name).read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / name).write_bytes(content)
    with pytest.raises(OutputError, match=f"{name} is not what the run wrote"):
        made.check(tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(OutputError, match=f"{name} cannot be read: No such file"):
        made.check(tmp_path)


def test_an_unfinished_run_has_none(tmp_path: Path, made: Manifest) -> None:
    (tmp_path / "manifest.json").unlink()
    with pytest.raises(OutputUnfinished, match="is unfinished: .*; run the same command again"):
        read_manifest(tmp_path)


def test_another_folder_has_none(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="is no output of cliprt embed"):
        read_manifest(tmp_path)


def test_damage_is_said(tmp_path: Path, made: Manifest) -> None:
    path = tmp_path / "manifest.json"
    whole = path.read_bytes()
    fewer = msgspec.structs.replace(made, shards=made.shards[1:])
    for content, reason in (
        (whole[:-20], "is damaged"),
        (whole.replace(b'"npy"', b'"csv"'), "is damaged.*csv"),
        (whole.replace(b'"version": 1', b'"version": 2'), "is of version 2, this cliprt reads 1"),
        (msgspec.json.encode(fewer), "its shards do not add up"),
    ):
        path.write_bytes(content)
        with pytest.raises(OutputError, match=reason):
            read_manifest(tmp_path)


@pytest.mark.parametrize("name", ["/etc/passwd", "../a.npy", "a/../../b", ".", "", "a//b", "a\x1b"])
def test_it_names_files_of_its_own_folder_alone(tmp_path: Path, made: Manifest, name: str) -> None:
    path = tmp_path / "manifest.json"
    content = msgspec.json.decode(path.read_bytes())
    files = content["shards"][0]["files"]
    files[name] = files.pop(next(iter(files)))
    path.write_bytes(msgspec.json.encode(content))
    with pytest.raises(OutputError, match="is no path within the output"):
        read_manifest(tmp_path)


@pytest.mark.parametrize("content", [b'{"version": 1, "x": ' + b"[" * 100_000, b'{"\xff": 1}'])
def test_damage_that_no_decoder_expects_is_said(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "manifest.json").write_bytes(content)
    with pytest.raises(OutputError, match=r"manifest\.json is damaged"):
        read_manifest(tmp_path)


@pytest.mark.parametrize(
    ("field", "value"), [("items", 2**63), ("embedded", 2**63), ("embedded", -1), ("number", -1)]
)
def test_counts_that_no_shard_has_are_damage(
    tmp_path: Path, made: Manifest, field: str, value: int
) -> None:
    path = tmp_path / "manifest.json"
    content = msgspec.json.decode(path.read_bytes())
    content["shards"][0][field] = value
    path.write_bytes(msgspec.json.encode(content))
    with pytest.raises(OutputError, match="its counts do not add up"):
        read_manifest(tmp_path)
