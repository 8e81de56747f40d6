"""Tars whose headers no writer makes: each ends with an item that says so, soon and in little room.

tarfile, on which the reader stands, believes what headers say of sizes and numbers.
"""

from __future__ import annotations

import gzip
import io
import tracemalloc

import pytest
from batch_sources import samples, tar
from fuzz.tar_forms import described, header, number, pax, resummed

from cliprt_batch._fields import Wanted
from cliprt_batch._items import Item, Unit
from cliprt_batch._tars import MAX_HEADER, read_tar

UNIT = Unit(number=0, address="/folder/a.tar", stamp="", items=None)
GOOD = tar(samples(1))


def items_of(data: bytes) -> list[Item]:
    stream = io.BufferedReader(io.BytesIO(data))
    return list(read_tar(stream, UNIT, "a.tar", Wanted(("image", "text")), 0))


def sized(size: int, kind: bytes = b"0") -> bytes:
    """A header of a member of that size, and no content."""
    block = bytearray(header(b"x.jpg", 0, kind))
    block[124:136] = number(size)
    return resummed(bytes(block))


def sparse(value: str) -> bytes:
    """A sparse member whose map, which precedes its content, begins with a value."""
    names = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": "9"}
    return b"".join(pax(names)) + header(b"x.jpg", 512, b"0") + value.encode().ljust(512, b"\n")


HOSTILE = {
    **{f"a member of {size} bytes": sized(size) for size in (2**44, 2**63, 2**80, -1, -1024)},
    **{f"a name of {size} bytes": sized(size, b"L") for size in (2**33, 2**63, 2**80, -1, -512)},
    **{f"records of {size} bytes": sized(size, b"x") for size in (2**33, 2**63, 2**80, -1, -512)},
    **{
        f"a record of the size {value[:9]}": b"".join(pax({"size": value}))
        for value in ("-1", "-1024", "9" * 30)
    },
    **{
        f"{name} = {value[:9]!r}": b"".join(pax({name: value}))
        for name in ("GNU.sparse.size", "GNU.sparse.realsize", "GNU.sparse.map")
        for value in ("x", "", "9" * 5000)
    },
    **{f"a sparse map of {value[:9]!r}": sparse(value) for value in ("x", "", "9" * 5000)},
    "a sparse member that goes on and ends": sized(0, b"S")[:482] + b"\1" + bytes(29),
    "names upon names": b"".join(described(b"x\0", b"L")) * 5000,
    "records upon records": b"".join(pax({"a": "b"})) * 5000,
}


@pytest.mark.parametrize("what", HOSTILE)
@pytest.mark.parametrize("packed", [False, True])
def test_a_hostile_header_is_damage(what: str, packed: bool) -> None:
    start = GOOD.rstrip(b"\0")
    start += bytes(-len(start) % 512)
    data = start + HOSTILE[what] + header(b"y.jpg", 0, b"0") + bytes(1024)
    if what.startswith("a sparse member"):
        data = start + resummed(HOSTILE[what])
    *_, last = items_of(gzip.compress(data) if packed else data)
    assert "damaged or cut off at byte" in (last.fault or ""), last
    assert (last.fault or "").isprintable()


def test_a_size_that_leads_back_does_not_read_for_ever() -> None:
    member = b"".join(header(f"{n}.jpg".encode(), 0, b"0") for n in range(4))
    (item,) = [item for item in items_of(member + sized(-2048) + bytes(1024)) if item.fault]
    assert "a member has a size that no file has" in (item.fault or "")


def test_a_packed_name_of_gigabytes_is_not_unpacked() -> None:
    bomb = gzip.compress(sized(64 * 2**20, b"L") + bytes(64 * 2**20), 1)
    tracemalloc.start()
    try:
        (item,) = items_of(bomb)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert "more describes a member" in (item.fault or "")
    assert peak < 20 * MAX_HEADER


def test_records_for_all_members_are_few() -> None:
    some = b"".join(pax({"comment": "a" * 1000}, b"g"))
    member = header(b"a.jpg", 0, b"0") + header(b"b.jpg", 0, b"0")
    assert len(items_of(some + member + bytes(1024))) == 2
    *_, last = items_of((some + member) * 100 + bytes(1024))
    assert "more describes a member" in (last.fault or "")
