"""A Ray to work on: a running cluster, or one of this machine alone that ends with the job."""

from __future__ import annotations

import logging
import os
import secrets
import shutil
import socket
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

from cliprt._errors import DeploymentError

# Loggers of Ray, and from which level on they are heard: what says that something is as it was
# asked for is no warning, and errors of Ray Data are raised as well.
_LEVELS = {
    "ray": logging.WARNING,
    "ray._private.authentication.authentication_token_setup": logging.ERROR,
    "ray.data": logging.WARNING,
    "ray.data._internal.progress": logging.ERROR,
    # That a pool of one actor for each node does not grow is as it was asked for.
    "ray.data._internal.actor_autoscaler": logging.ERROR,
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

# A Ray of this machine alone listens where no other machine comes. Whatever address Ray is told, it
# takes that of the network instead, unless it believes to be where it cannot form a cluster.
_ALONE = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}

# To answer at all, in seconds.
_PATIENCE_S = 10.0

# Sockets lie in the folder, and their paths must stay below 108 bytes.
_LONGEST_FOLDER = 20

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

    Sets environment variables and levels of loggers for good: for a process that does nothing else.

    Args:
        address: of the cluster, ``host:port`` or ``auto``; None starts one.

    Raises:
        DeploymentError: there is no such cluster, or it has no processors.
    """
    os.environ.update(
        {name: _ENVIRONMENT[name] for name in _ENVIRONMENT.keys() - os.environ.keys()}
    )
    if address is None:
        os.environ.update(_ALONE)
    import ray
    import ray.data  # it sets its levels when it is imported

    for name, level in _LEVELS.items():
        logging.getLogger(name).setLevel(level)
    with _local_folder() if address is None else nullcontext() as folder:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                if folder is None:
                    _connect(ray, str(address))
                else:
                    _start(ray, folder)
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
def _local_folder() -> Iterator[str]:
    """Where a Ray of this machine alone keeps its sockets and logs; it goes with it."""
    base = tempfile.gettempdir()
    folder = tempfile.mkdtemp(
        prefix="cliprt-ray-", dir=base if len(base) <= _LONGEST_FOLDER else "/tmp"
    )
    # It does nothing but the job, which is to have what a job without Ray has: Ray's 15 would leave
    # the cores to whatever else runs here.
    os.environ.setdefault("RAY_worker_niceness", "0")
    # Nobody else on this machine may use it, and no token is left in the home folder.
    if "RAY_AUTH_MODE" not in os.environ:
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
    try:
        # Ray opens its own folder to everybody; the one around it is closed.
        yield f"{folder}/r"
    finally:
        shutil.rmtree(folder, ignore_errors=True)
