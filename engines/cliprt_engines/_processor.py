"""The processor at hand."""

from __future__ import annotations

import contextlib
import hashlib
import platform
from pathlib import Path

_CPUINFO = Path("/proc/cpuinfo")


def processor() -> str:
    """Name and instruction set of the processor, the latter as a hash."""
    name, flags = platform.processor() or platform.machine(), ""
    with contextlib.suppress(OSError):
        first = _CPUINFO.read_text().split("\n\n")[0]
        rows = (line.partition(":") for line in first.splitlines())
        fields = {key.strip(): value.strip() for key, _, value in rows}
        name = fields.get("model name", name)
        model = "/".join(fields.get(key, "") for key in ("cpu family", "model", "stepping"))
        flags = f"{model} {fields.get('flags', fields.get('Features', ''))}"
    return f"{name} {hashlib.sha256(flags.encode()).hexdigest()[:16]}"
