"""A Ray to work on: a running cluster, or one of this machine alone that ends with the job."""

from __future__ import annotations

import logging
import os
import secrets
import shutil
import signal
import socket
import tempfile
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from cliprt._errors import DeploymentError
from cliprt._extras import require

# Loggers of Ray, and from which level on they are heard: what says that something is as it was
# asked for is no warning, and errors of Ray Data are raised as well.
_LEVELS = {
    "ray": logging.WARNING,
    "ray._private.authentication.authentication_token_setup": logging.ERROR,
    "ray.data": logging.WARNING,
    "ray.data._internal.progress": logging.ERROR,
}

_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    # Actors that ask for no GPU keep what they see.
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    # Read when Ray is imported. A thread of Ray Data that a job left behind must not start another
    # Ray, of its own accord, in place of the one that has ended.
    "RAY_ENABLE_AUTO_CONNECT": "0",
    # Else each actor that may be restarted gives a line of warning.
    "RAY_BACKEND_LOG_LEVEL": "fatal",
}

# To answer at all, in seconds.
_PATIENCE_S = 10.0

# Sockets lie in the folder, and their paths must stay below 108 bytes.
_LONGEST_FOLDER = 30

# Only numbers and names of units pass through it; the least that Ray takes is 75 MB.
_STORE_BYTES = 80 * 2**20


@dataclass(frozen=True)
class Nodes:
    """The machines to work on.

    Attributes:
        count: how many.
        cores: of the smallest one, as Ray counts them.
    """

    count: int
    cores: float


@contextmanager
def cluster(address: str | None) -> Iterator[Nodes]:
    """Connects to a cluster, or starts one of this machine alone; ends that when the block does.

    Where this process is connected already, that is used and kept.

    Args:
        address: of the cluster, ``host:port`` or ``auto``; None starts one.

    Raises:
        MissingExtra: Ray is not installed.
        DeploymentError: there is no such cluster, or it has no processors.
    """
    with _environment():
        ray: Any = require("ray", extra="ray")
        require("ray.data", extra="ray")  # it sets its levels when it is imported
        levels = _levels()
    with _environment(), levels:
        if ray.is_initialized():
            yield _nodes(ray)
            return
        with _local_folder() if address is None else _nothing() as folder:
            handler = signal.getsignal(signal.SIGTERM)
            try:
                with warnings.catch_warnings(), _no_standard_error():
                    warnings.simplefilter("ignore")
                    if folder is None:
                        _connect(ray, str(address))
                    else:
                        _start(ray, folder)
                # Ray puts its own in place, which knows nothing of whoever called this.
                if threading.current_thread() is threading.main_thread():
                    signal.signal(signal.SIGTERM, handler)
                yield _nodes(ray)
            finally:
                ray.shutdown()


def _start(ray: Any, folder: str) -> None:
    with _told_of("no Ray can be started on this machine", ""):
        ray.init(
            address="local",
            # One actor has the machine: as many processes start beforehand as are counted here.
            num_cpus=1,
            num_gpus=0,
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.WARNING,
            object_store_memory=_STORE_BYTES,
            _temp_dir=folder,
            _node_ip_address="127.0.0.1",
        )


def _connect(ray: Any, address: str) -> None:
    if address.startswith("ray://"):
        raise DeploymentError(
            f"{address} is for clients outside of a cluster; run this on a node of it, with the "
            "address host:6379 or auto"
        )
    host, _, port = address.rpartition(":")
    if port.isdecimal():
        # Ray itself would try for more than a minute.
        try:
            socket.create_connection((host.strip("[]"), int(port)), _PATIENCE_S).close()
        except (OSError, OverflowError) as error:
            raise DeploymentError(f"no Ray cluster answers at {address}: {error}") from None
    with _told_of(
        f"no Ray cluster can be used at {address}",
        "; this must be a node of it, with the same versions of Ray and Python",
    ):
        ray.init(address=address, log_to_driver=False, logging_level=logging.WARNING)


@contextmanager
def _told_of(what: str, way_out: str) -> Iterator[None]:
    """Says in one line why Ray did not come up; it raises many types, and says much."""
    try:
        yield
    except Exception as error:  # noqa: BLE001
        why = next(iter(str(error).strip().splitlines()), type(error).__name__).rstrip(".")
        raise DeploymentError(f"{what}: {why}{way_out}") from None


def _nodes(ray: Any) -> Nodes:
    cores = [node["Resources"].get("CPU", 0.0) for node in ray.nodes() if node["Alive"]]
    cores = [count for count in cores if count >= 1]
    if not cores:
        raise DeploymentError("no node of the Ray cluster has a processor to work with")
    return Nodes(len(cores), min(cores))


@contextmanager
def _no_standard_error() -> Iterator[None]:
    """Nobody sees what is written to it in the block; Ray's core logs there whatever it is told."""
    kept = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


@contextmanager
def _nothing() -> Iterator[None]:
    yield None


@contextmanager
def _local_folder() -> Iterator[str]:
    """Where a Ray of this machine alone keeps its sockets and logs; it goes with it."""
    base = tempfile.gettempdir()
    folder = tempfile.mkdtemp(
        prefix="cliprt-ray-", dir=base if len(base) <= _LONGEST_FOLDER else "/tmp"
    )
    # Nobody else on this machine may use it, and no token is left in the home folder.
    token = {} if "RAY_AUTH_MODE" in os.environ else {"RAY_AUTH_TOKEN": secrets.token_hex(32)}
    try:
        with _set(token, touched=["RAY_AUTH_MODE"]):
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _environment() -> Iterator[None]:
    with _set({name: value for name, value in _ENVIRONMENT.items() if name not in os.environ}):
        yield


@contextmanager
def _set(variables: dict[str, str], touched: Sequence[str] = ()) -> Iterator[None]:
    """Environment variables that hold within the block; others that it touches are put back."""
    before = {name: os.environ.get(name) for name in (*variables, *touched)}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextmanager
def _levels() -> Iterator[None]:
    """Levels of Ray's loggers that hold within the block."""
    before = {name: logging.getLogger(name).level for name in _LEVELS}
    for name, level in _LEVELS.items():
        logging.getLogger(name).setLevel(level)
    try:
        yield
    finally:
        for name, level in before.items():
            logging.getLogger(name).setLevel(level)
