"""Targets: what batch jobs read. Their sources, and the folders that they write."""

from __future__ import annotations

import functools
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fuzz import samples
from fuzz.harness import refusing, scratch, target, written
from fuzz.mutation import in_json, in_json_lines, in_parquet
from fuzz.tar_forms import in_tar

from cliprt import DeploymentError, InvalidInput
from cliprt_batch._addresses import open_stream
from cliprt_batch._fields import Wanted
from cliprt_batch._items import Item, Ref, Unit
from cliprt_batch._lines import Form, Lines, LineUnit, read_lines
from cliprt_batch._locks import Share
from cliprt_batch._manifest import Manifest, UnitRecord, decoded, sizes_agree
from cliprt_batch._output_errors import OutputError
from cliprt_batch._parquet import parquet_units, read_parquet
from cliprt_batch._plan import SourceChanged, open_plan
from cliprt_batch._run_config import differences
from cliprt_batch._run_records import read_intent, read_record, read_run, read_shares
from cliprt_batch._run_state import RunState
from cliprt_batch._tars import read_tar

BOTH = ("image", "text")


@target(in_json, most=8192)
def batch_manifest(data: bytes) -> None:
    """Any bytes are a manifest of files inside its folder, or refused."""
    folder = scratch() / "output"
    with refusing(OutputError) as read:
        found: Manifest = decoded(data, folder / "manifest.json")
    if not read.accepted:
        return
    for shard in found.shards:
        assert sizes_agree(folder, shard) == (not shard.files)
        _check_inside(folder, shard)
    with refusing(OutputError):
        found.check(folder)


def _check_inside(folder: Path, record: UnitRecord) -> None:
    for name in record.files:
        assert folder.resolve() in (folder / name).resolve().parents, name


@functools.cache
def _state() -> RunState:
    folder = scratch() / "run"
    state = RunState(folder, samples.run_config())
    for name in ("done", "failed", "intent", "share", "tmp", "work"):
        (state.folder / name).mkdir(parents=True)
    return state


@target(in_json_lines, most=8192)
def run_record(data: bytes) -> None:
    """Any bytes are a record of a run, or refused by the reader of each kind of them."""
    state = _state()
    paths = {
        "run": state.folder / "run.json",
        "done": state.folder / "done" / "000000.json",
        "share": state.folder / "share" / "1-of-2.json",
        "failed": state.failures_path(0),
        "intent": state.intent_path(0),
    }
    for path in paths.values():
        path.write_bytes(data)
    with refusing(OutputError):
        differences(read_run(state.out).config, state.config)
    with refusing(OutputError):
        shares: list[tuple[Share, int]] = [(one.share, one.units) for one in read_shares(state.out)]
        assert len(shares) == 1
    record = read_record(paths["done"])
    if record is not None:
        _check_inside(state.out, record)
    with refusing(OutputError):
        read_intent(paths["intent"])
    with refusing(OutputError):
        state.failures(samples.unit_record())
    for path in paths.values():
        path.unlink(missing_ok=True)


@target(in_json_lines, most=8192)
def plan(data: bytes) -> None:
    """Any bytes are a plan whose units are numbered, or refused; a foreign one reads no source."""
    folder = written("plan/plan.jsonl", data).parent
    with refusing(DeploymentError) as read:
        found = open_plan(folder)
    if not read.accepted:
        return
    assert [unit.number for unit in found.units] == list(range(len(found.units)))
    for unit in found.units[:2]:
        if unit.address.startswith("/items"):
            with refusing(SourceChanged):
                list(found.read(unit))
                raise AssertionError("a file that there is not was read")


def _items(make: Callable[[int], Any], most: int) -> list[Item]:
    """What a reader gives, the same from any place on; it comes to an end."""
    found: list[Item] = []
    for item in make(0):
        found.append(item)
        assert len(found) <= most, "it does not end"
    for start in {1, len(found) // 2, len(found), len(found) + 3}:
        assert list(make(start)) == found[start:], f"from {start} on there are others"
    for item in found:
        assert item.key.encode() is not None
        if item.fault is None:
            assert item.image is not None or item.caption is not None
            assert item.caption is None or item.caption.encode() is not None
        else:
            assert len(item.fault) < 3000
            assert " object at 0x" not in item.fault
    return found


@target(in_tar, most=2**15)
def tar(data: bytes) -> None:
    """Any bytes give samples, and at their end at most one item that says what is damaged."""
    unit = Unit(number=0, address="/folder/a.tar", stamp="", items=None)
    for towers in (BOTH, ("image",)):

        def make(start: int, towers: tuple[str, ...] = towers) -> Any:
            stream = io.BufferedReader(io.BytesIO(data))
            return read_tar(stream, unit, "a.tar", Wanted(towers), start)

        for item in _items(make, most=len(data) // 512 + 2 if data[:1] != b"\x1f" else 2**17):
            assert item.fault is None or item.fault.isprintable()
            if isinstance(item.image, Ref):
                assert item.image.length is not None
                assert item.image.offset >= 0
                assert item.image.length >= 0
                assert item.image.offset + item.image.length <= len(data)


FORMS: tuple[Form, ...] = ("objects", "texts", "paths")


@target(in_json_lines, most=8192)
def lines(data: bytes) -> None:
    """Any bytes are lines, each an item or a reason why it is none; a listing is also refused."""
    base = str(scratch() / "lines")
    unit = LineUnit(
        number=0, address=f"{base}/a.jsonl", stamp="", items=None, start=0, end=len(data)
    )
    most = data.count(b"\n") + 1
    for form in FORMS:
        # Texts beside pictures would be looked for on this machine, and in stores.
        for towers in (("image",),) if form == "paths" else (BOTH, ("image",), ("text",)):
            asked = Lines(form=form, wanted=Wanted(towers), base=base)

            def make(start: int, asked: Lines = asked) -> Any:
                return read_lines(io.BufferedReader(io.BytesIO(data)), unit, asked, start)

            _items(make, most)
    listing = Lines(form="paths", wanted=Wanted(("image",)), base=base, quoted=True)
    with refusing(DeploymentError):
        list(read_lines(io.BufferedReader(io.BytesIO(data)), unit, listing, 0))


@target(in_json, most=4096)
def settings(data: bytes) -> None:
    """Any bytes are the settings of an earlier run, or refused."""
    from cliprt_batch._options import read_settings

    path = written("settings.json", data)
    with refusing(OutputError):
        assert isinstance(read_settings(path), dict)


@target(in_parquet, most=8192)
def parquet(data: bytes) -> None:
    """Any bytes are rows, each an item or a reason why it is none, or refused as no Parquet."""
    path = written("parquet/a.parquet", data)
    for towers in (BOTH, ("image",)):
        wanted = Wanted(towers)
        with refusing(InvalidInput, DeploymentError) as read:
            units = parquet_units(str(path), wanted, 3)
        for unit in units[:3] if read.accepted else ():

            def make(start: int, unit: Unit = unit, wanted: Wanted = wanted) -> Any:
                stream, _ = open_stream(str(path))
                with stream:
                    yield from read_parquet(
                        stream, unit, "a.parquet", str(path.parent), wanted, start
                    )

            with refusing(InvalidInput, DeploymentError):
                _items(make, most=3)
