"""The processes of a tritonserver: itself, and those in which the Python backend runs models.

Triton does not start a model's process again that died: the model refuses everything from then on,
while the server calls itself ready.
"""

from __future__ import annotations

import os
import resource
import select
import signal
import time
from collections.abc import Callable, Mapping, Set
from contextlib import ExitStack, suppress
from pathlib import Path

from cliprt._errors import ServerStartError

# Triton's threads, libraries and models take some thirty; each connection takes one.
_LEAST_FILES = 64

_STUB = b"triton_python_backend_stub"

# The kernel keeps fifteen characters of a name; of a dead process it keeps no more than that.
_STUB_NAME = "triton_python_b"

# Triton buries the processes that it ends itself at once, and those that die while they load when
# it looks for them, each second.
_BURIAL_S = 0.5
_LOADING_BURIAL_S = 3.0

# So often is looked for processes of models that were loaded meanwhile.
_LOOK_MS = 2_000


def check_open_files() -> None:
    """Refuses to start a server that could open next to no files; Triton names other reasons.

    Raises:
        ServerStartError: the hard limit is too low.
    """
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if most < _LEAST_FILES:
        raise ServerStartError(
            f"a process may open {most} files here, tritonserver needs {_LEAST_FILES} and one for "
            "each connection; raise the hard limit (ulimit -Hn)"
        )


def model_processes(regions: str) -> dict[int, str]:
    """Numbers of the running processes of a server's models, each with the model's name.

    Args:
        regions: what names of the server's shared memory begin with; command lines hold it.
    """
    found = {}
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):  # it has ended meanwhile
            stub, *words = path.read_bytes().split(b"\0")
            if stub.endswith(_STUB) and any(each.startswith(regions.encode()) for each in words):
                # .../models/clip_text/1/model.py
                found[int(path.parent.name)] = Path(os.fsdecode(words[0])).parent.parent.name
    return found


def wait_for_end(pid: int, models: Callable[[], Mapping[int, str]]) -> str | None:
    """Waits until a server has ended, or one of its models' processes has died.

    Args:
        pid: the server, a child of this process; its status is left for others to ask for.
        models: gives what ``model_processes`` does. Those that the server itself ends do not count.

    Returns:
        None if the server has ended, else which process died and of what.
    """
    with ExitStack() as stack:
        try:
            server = os.pidfd_open(pid)
        except OSError:  # somebody else has asked for its status, or a kernel before 5.3
            with suppress(ChildProcessError):
                os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
            return None
        stack.callback(os.close, server)
        ends = select.poll()
        ends.register(server, select.POLLIN)
        watched: dict[int, tuple[int, str]] = {}
        stack.callback(_close_all, watched)
        while True:
            for each, model in models().items():
                if (each, model) not in watched.values():
                    with suppress(ProcessLookupError):  # the server has ended it
                        end = os.pidfd_open(each)
                        ends.register(end, select.POLLIN)
                        watched[end] = each, model
            if status := _died_unseen(pid, {each for each, _ in watched.values()}):
                return f"the end of a process of a model ({_words(status)})"
            ended = [number for number, _ in ends.poll(_LOOK_MS)]
            if server in ended:
                return None
            for end in ended:
                each, model = watched.pop(end)
                ends.unregister(end)
                os.close(end)
                if status := _left_lying(each, _BURIAL_S):
                    return f"the end of a process of {model} ({_words(status)})"


def _close_all(descriptors: Mapping[int, object]) -> None:
    for each in descriptors:
        os.close(each)


def _died_unseen(server: int, watched: Set[int]) -> int:
    """With what status a model's process died before anybody looked; 0 if there is none such.

    Args:
        server: number of their parent.
        watched: numbers of those whose end is noticed anyway.
    """
    for path in Path("/proc").glob("[0-9]*"):
        pid = int(path.name)
        name, state = _stat(pid)
        unseen = name == _STUB_NAME and state[:2] == ["Z", str(server)] and pid not in watched
        if unseen and (status := _left_lying(pid, _LOADING_BURIAL_S)):
            return status
    return 0


def _left_lying(pid: int, burial_s: float) -> int:
    """With what status a process died that its parent did not end; 0 if there is none such."""
    ends = time.monotonic() + burial_s
    while (status := _status_of_dead(pid)) and time.monotonic() < ends:
        time.sleep(0.02)
    return status


def _status_of_dead(pid: int) -> int:
    """Status of a process that is dead and not buried, as ``os.waitpid`` gives it, else 0."""
    _, fields = _stat(pid)
    return int(fields[-1]) if fields and fields[0] in "ZX" else 0


def _stat(pid: int) -> tuple[str, list[str]]:
    """Name of a process, and what the kernel tells of it: state, parent, and so on to its status.

    Nothing if there is none of that number.
    """
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return "", []
    name, _, rest = text.rpartition(")")
    return name.partition("(")[2], rest.split()


def _words(status: int) -> str:
    if os.WIFSIGNALED(status):
        return signal.Signals(os.WTERMSIG(status)).name
    return f"status {os.waitstatus_to_exitcode(status)}"
