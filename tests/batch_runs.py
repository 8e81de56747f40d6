"""Runs of `cliprt embed` as processes of their own: started, killed, and what they leave."""

from __future__ import annotations

import contextlib
import hashlib
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

# The command itself; a line of progress after every window tells how far it was when it died.
_PROGRAM = (
    "import sys; import cliprt_batch._monitor as monitor; monitor._EVERY_S = 0.0; "
    "from cliprt._cli import main; main()"
)

_POLL_S = 0.001

# How long after the beginning of a phase a process is killed, at most.
_AFTER_S = {"anything": 2.5, "planning": 0.008, "parts": 0.1, "commit": 0.01, "finish": 0.005}

PHASES = ("planning", "parts", "commit", "finish")


def command(*arguments: object, chatty: bool = False) -> list[str]:
    """What starts `cliprt ARGUMENTS`."""
    program = _PROGRAM if chatty else "from cliprt._cli import main; main()"
    return [sys.executable, "-c", program, *map(str, arguments)]


def run(*arguments: object, **options: object) -> subprocess.CompletedProcess[str]:
    """Runs `cliprt ARGUMENTS` to its end."""
    return subprocess.run(
        command(*arguments),
        capture_output=True,
        text=True,
        timeout=120,
        **options,  # type: ignore[call-overload]
    )


def finished(*arguments: object, **options: object) -> None:
    """Runs `cliprt ARGUMENTS`, which must succeed."""
    done = run(*arguments, **options)
    assert done.returncode == 0, done.stderr


def output(out: Path) -> dict[str, str]:
    """The files of an output by name, with their hashes: all that must not depend on the run."""
    return {
        str(path.relative_to(out)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(out.rglob("*"))
        if path.is_file()
        and "_cliprt" not in path.relative_to(out).parts
        and not path.name.startswith("summary")
    }


def kept(out: Path) -> int:
    """Items in committed shards and in complete parts of the others."""
    import msgspec
    import pyarrow as pa

    folder, items, done = out / "_cliprt", 0, set()
    for path in (folder / "done").glob("*.json"):
        done.add(path.stem)
        items += msgspec.json.decode(path.read_bytes())["items"]
    for path in parts_of(out):
        if path.parent.name not in done:
            items += pa.ipc.open_stream(path.read_bytes()).read_all().num_rows
    return items


def parts_of(out: Path) -> list[Path]:
    """The parts that are kept now, while a run may be adding and removing some."""
    found: list[Path] = []
    work = out / "_cliprt" / "work"
    for unit in sorted(work.iterdir()) if work.exists() else []:
        with contextlib.suppress(FileNotFoundError):  # it was committed meanwhile
            found += unit.glob("*.arrow")
    return found


def planned(out: Path) -> bool:
    """Whether the plan of a run is there."""
    return (out / "_cliprt" / "plan.jsonl").exists()


def units(out: Path) -> int:
    """How many shards the plan has."""
    return len((out / "_cliprt" / "plan.jsonl").read_bytes().splitlines()) - 1


def phase(out: Path) -> str:
    """What a run was at when it died, by what it left; "end" where nothing was left to do."""
    folder = out / "_cliprt"
    if not planned(out) or b'plan_sha256":null' in (folder / "run.json").read_bytes().replace(
        b" ", b""
    ):
        return "planning"
    done = {path.stem for path in (folder / "done").glob("*.json")}
    if (out / "manifest.json").exists():
        return "end"
    if len(done) == units(out):
        return "finish"
    placed = {
        path.stem.rpartition("_")[2]
        for path in out.glob("*/*_*")
        if path.parent.name in ("img_emb", "text_emb", "metadata", "embeddings")
    }
    working = {path.name for path in (folder / "work").iterdir()}
    scratch = [path.read_bytes()[:6] for path in (folder / "tmp").glob("*/*")]
    # A shard's files under temporary names, or named and not recorded, or recorded with its parts.
    if any(head[:4] == b"PAR1" or head == b"\x93NUMPY" for head in scratch):
        return "commit"
    if placed - done or working & done or len(scratch) > 1:
        return "commit"
    return "parts"


@dataclass
class Kills:
    """What a run went through.

    Attributes:
        fell: by phase, how many kills fell into it.
        again: items that were embedded and not yet kept when a life ended.
        lives: processes that were started.
    """

    fell: dict[str, int] = field(default_factory=dict)
    again: int = 0
    lives: int = 0

    @property
    def kills(self) -> int:
        """How many times a process was killed."""
        return sum(self.fell.values())


def killed(
    arguments: Callable[[int], Sequence[object]],
    out: Path,
    *,
    kills: int,
    seed: int,
    plain: float = 0.25,
) -> Kills:
    """Starts a run again and again, kills each life at a moment that is drawn, and lets it end.

    Uniform moments would hardly meet the short phases. Most lives are therefore killed a drawn time
    after a phase that was drawn has begun, ``plain`` of them at any time.

    Args:
        arguments: of `cliprt`, by the number of the life.
        out: folder of the output.
        kills: how many lives are killed, if half of those that are begun live long enough.
        seed: of the draws.
        plain: part of the lives that are killed without looking at what they are at.
    """
    drawn = random.Random(seed)
    went = Kills()
    # A life that ends before its moment does not count; more lives than that are not begun.
    for life in range(2 * kills):
        if went.kills == kills:
            break
        log = out.with_name(f"{out.name}.log")
        with log.open("wb") as stderr:
            process = subprocess.Popen(
                command(*arguments(life), chatty=True),
                stdout=subprocess.DEVNULL,
                stderr=stderr,
                start_new_session=True,
            )
        went.lives += 1
        before = kept(out) if planned(out) else 0
        few = kills // 8 + 1
        wanted = drawn.choice(["parts", "commit"])
        if life < few and not planned(out):
            wanted = "planning"
        elif life >= kills - few:
            wanted = "finish"
        elif drawn.random() < plain:
            wanted = "anything"
        _until(wanted, out, process)
        time.sleep(drawn.uniform(0, _AFTER_S[wanted]))
        process.send_signal(signal.SIGKILL)
        code = process.wait()
        assert code in (-signal.SIGKILL, 0), log.read_text()
        if code == 0:
            continue  # it had ended before
        where = phase(out)
        went.fell[where] = went.fell.get(where, 0) + 1
        if planned(out):
            went.again += max(0, _told(log, before) - kept(out))
    finished(*arguments(went.lives))
    went.lives += 1
    return went


def _until(wanted: str, out: Path, process: subprocess.Popen[bytes]) -> None:
    """Waits for a phase to begin anew, at most until the process ends."""
    folder = out / "_cliprt"

    def parts() -> set[Path]:
        return set(parts_of(out))

    def shards() -> set[str]:
        return {path.name for path in (folder / "done").glob("*.json")}

    def opened() -> bool:
        scratch = next(iter((folder / "tmp").glob("*")), None)
        return scratch is not None and sum(1 for _ in scratch.iterdir()) > 1

    if wanted == "anything":
        return
    known, done = parts(), shards()
    while process.poll() is None:
        if wanted == "planning":
            begun = (folder / "run.json").exists()
        elif wanted == "parts":
            begun = bool(parts() - known)
        elif wanted == "commit":
            begun = opened() or bool(shards() - done)
        else:
            begun = planned(out) and len(shards()) == units(out)
        if begun:
            return
        time.sleep(_POLL_S)


def _told(log: Path, before: int) -> int:
    """How many items a life had done when it ended, by its last whole line."""
    lines = [line for line in log.read_text().split("\n")[:-1] if " items, " in line]
    return int(lines[-1].split()[0].replace(",", "")) if lines else before
