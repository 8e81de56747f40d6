"""Faults, injected for real: signals, broken connections, full queues and disks, reloads."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from faults import models_of
from faulty_proxy import FaultyProxy
from small_disks import fill
from wire import load_anew

from chaos.golden import Golden
from chaos.tally import Tally
from chaos.traffic import flood
from cliprt_triton import TritonServer

# Asks without a pause until it is killed; says when it begins.
_CALLER = """
import sys
from cliprt import Client
with Client(sys.argv[1]) as client:
    texts = [f"a picture of {number}" for number in range(64)]
    client.encode_text(texts)
    print("asking", flush=True)
    while True:
        client.encode_text(texts)
"""


class Failed(Exception):
    """A fault did not go as it must."""


@dataclass(frozen=True)
class World:
    """What faults are injected into.

    Attributes:
        server: a supervised Triton whose models may be loaded again.
        secret: for who may load them.
        repository: its models, a copy that may be damaged.
        proxy: the way of most callers.
        texts: texts with known answers.
        tally: where further requests are counted.
        disk: the small disk with the server's log; None where mounting is not permitted.
    """

    server: TritonServer
    secret: str
    repository: Path
    proxy: FaultyProxy
    texts: Golden[str]
    tally: Tally
    disk: Path | None

    @property
    def models(self) -> dict[int, str]:
        """The processes of the server's models."""
        found: dict[int, str] = models_of(self.server)
        return found


After: TypeAlias = "Callable[[], object] | None"
"""What is left to do once the world has recovered."""

Fault: TypeAlias = Callable[[World, random.Random], After]


def server_killed(world: World, choose: random.Random) -> After:
    """As by the kernel, for memory."""
    os.kill(world.server.pid, signal.SIGKILL)
    return None


def model_killed(world: World, choose: random.Random) -> After:
    """The process of one model, any."""
    os.kill(choose.choice(sorted(world.models)), signal.SIGKILL)
    return None


def server_frozen(world: World, choose: random.Random) -> After:
    """It stands still for some seconds."""
    _freeze(world.server.pid, choose.uniform(1, 4))
    return None


def model_frozen(world: World, choose: random.Random) -> After:
    """One model stands still for some seconds."""
    _freeze(choose.choice(sorted(world.models)), choose.uniform(1, 4))
    return None


def _freeze(pid: int, seconds: float) -> None:
    os.kill(pid, signal.SIGSTOP)
    time.sleep(seconds)
    with suppress(ProcessLookupError):  # it was killed meanwhile
        os.kill(pid, signal.SIGCONT)


def client_killed(world: World, choose: random.Random) -> After:
    """A caller ends in the middle of its requests, and cannot say so."""
    command = [sys.executable, "-W", "ignore", "-c", _CALLER, world.server.address]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as caller:
        assert caller.stdout is not None
        caller.stdout.readline()
        time.sleep(choose.uniform(0, 1))
        caller.kill()
    return None


def connections_cut(world: World, choose: random.Random) -> After:
    """All connections are reset at once."""
    world.proxy.cut()
    return None


def connections_held(world: World, choose: random.Random) -> After:
    """Connections stay open and nothing passes, as with a cable that was pulled."""
    return _hold(world, choose, questions=True)


def answers_held(world: World, choose: random.Random) -> After:
    """Questions arrive, answers do not."""
    return _hold(world, choose, questions=False)


def _hold(world: World, choose: random.Random, *, questions: bool) -> After:
    world.proxy.hold(questions=questions)
    time.sleep(choose.uniform(1, 8))
    world.proxy.heal()
    return None


def connections_slow(world: World, choose: random.Random) -> After:
    """A few bytes a second pass, either way."""
    world.proxy.dawdle(choose.uniform(1, 2000), answers=choose.random() < 0.5)
    time.sleep(choose.uniform(1, 4))
    world.proxy.heal()
    return None


def proxy_restarted(world: World, choose: random.Random) -> After:
    """What stands before the server is gone for some seconds."""
    world.proxy.leave()
    time.sleep(choose.uniform(0.5, 3))
    world.proxy.heal()
    return None


def queue_flooded(world: World, choose: random.Random) -> After:
    """Many times more requests at once than the queues hold."""
    flood(world.server.address, world.texts, choose.randint(300, 1000), world.tally)
    return None


def reloaded(world: World, choose: random.Random) -> After:
    """A tower is loaded again."""
    graph = _graph(world, choose)
    os.utime(graph)
    if refused := _load(world, graph):
        raise Failed(f"a good model was not loaded: {refused}")
    return None


def reloaded_damaged(world: World, choose: random.Random) -> After:
    """A tower is loaded again, and its graph is cut off."""
    graph = _graph(world, choose)
    whole = graph.with_suffix(".whole")
    graph.rename(whole)
    try:
        graph.write_bytes(whole.read_bytes()[:1000])
        refused = _load(world, graph)
    finally:
        whole.replace(graph)
    if not refused:
        raise Failed("a damaged model was loaded")
    return None


def log_full(world: World, choose: random.Random) -> After:
    """The disk of the log is full, and the server must be started again."""
    assert world.disk is not None
    ballast: Path = fill(world.disk)
    try:
        os.kill(world.server.pid, signal.SIGKILL)
    except BaseException:
        ballast.unlink()
        raise
    return ballast.unlink


def _graph(world: World, choose: random.Random) -> Path:
    tower = choose.choice(["clip_image", "clip_text"])
    (graph,) = (world.repository / tower).glob("*/model.onnx")
    return graph


def _load(world: World, graph: Path) -> str | None:
    """Loads the model of a graph; says why it is not loaded, if it is not."""
    model = graph.parent.parent.name
    address, secret = world.server.address, world.secret
    refused: str | None = load_anew(address, model, secret=secret, timeout_s=120)
    return refused


def faults(*, disk: bool) -> dict[str, Fault]:
    """All kinds by name; without a small disk none that needs it."""
    kinds = [
        server_killed,
        model_killed,
        server_frozen,
        model_frozen,
        client_killed,
        connections_cut,
        connections_held,
        answers_held,
        connections_slow,
        proxy_restarted,
        queue_flooded,
        reloaded,
        reloaded_damaged,
        *([log_full] if disk else []),
    ]
    return {each.__name__.replace("_", " "): each for each in kinds}
