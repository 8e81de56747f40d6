"""The process that talks to Ray for a job, and how the job talks to that process.

Ray's core ends the process that it runs in, with status 1 and no exception, where its node is lost
and now and then where a failed job is shut down. Nobody's own process shall end like that.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import sys
import tempfile
import threading
from collections.abc import Generator, Iterator
from contextlib import closing, contextmanager
from multiprocessing.connection import Connection

import msgspec

import cliprt
from cliprt._errors import CliprtError, DeploymentError
from cliprt._worker_process import WorkerProcess
from cliprt_batch._ray_cluster import Nodes, cluster
from cliprt_batch._ray_worker import Outcome, RayWorker, RemoteTraceback, pickled

# Ray takes a few seconds to end, and some more on a busy machine.
_TO_END_S = 60.0

# Kinds of messages: an outcome, an error that ends the job, and the end.
_OUTCOME, _ERROR, _END = b"o", b"e", b"."


class Task(msgspec.Struct, frozen=True):
    """What the process is told.

    Attributes:
        address: of the cluster; None starts a Ray on this machine.
        units: numbers of the units to do.
        order: a pickled ``Order`` for the actors.
    """

    address: str | None
    units: list[int]
    order: bytes


@contextmanager
def outcomes(task: Task) -> Iterator[Iterator[Outcome]]:
    """Lets actors do units; their outcomes in the order in which they end.

    The iterator raises what an actor met, and DeploymentError where Ray fails or its process ends.

    Raises:
        DeploymentError: the process cannot be started.
    """
    with tempfile.TemporaryFile() as log:
        try:
            driver = WorkerProcess("cliprt_batch._ray_driver:serve", log.fileno(), patience_s=None)
        except OSError as error:
            raise DeploymentError(
                f"no process that talks to Ray can be started: {error.strerror}"
            ) from None

        def arriving() -> Iterator[Outcome]:
            try:
                driver.tell(msgspec.msgpack.encode(task))
                while (message := driver.answer())[:1] != _END:
                    if message[:1] == _ERROR:
                        error, trace = pickle.loads(message[1:])
                        raise error from RemoteTraceback(trace)
                    yield msgspec.msgpack.decode(message[1:], type=Outcome)
            except (EOFError, ConnectionError):
                end = driver.end()
                log.seek(0)
                lines = log.read().decode(errors="replace").strip().splitlines()
                raise DeploymentError(
                    f"the process that talks to Ray ended {end}"
                    + (f" ({lines[-1]})" if lines else "")
                    + "; what is done is kept, run the same command again"
                ) from None

        try:
            yield arriving()
        finally:
            driver.dismiss(_TO_END_S)


def serve(descriptor: int, log: int) -> None:
    """Does one task: the program of the process.

    Args:
        descriptor: of the socket on which the task comes and the outcomes leave. The end of it ends
            the task.
        log: of a file for what Ray's core says; warnings of its Python part are heard.
    """
    sys.stderr = os.fdopen(os.dup(2), "w", buffering=1)
    os.dup2(log, 2)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with Connection(descriptor) as connection:
        task = msgspec.msgpack.decode(connection.recv_bytes(), type=Task)
        threading.Thread(target=_interrupt_at_end_of, args=(connection,), daemon=True).start()
        with contextlib.suppress(KeyboardInterrupt, ConnectionError):
            connection.send_bytes(_last_message(task, connection))
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # of the end of the socket, from now on


def _last_message(task: Task, connection: Connection) -> bytes:
    """Does a task and sends its outcomes; what is left to say afterwards, when Ray has ended."""
    try:
        with cluster(task.address) as nodes, closing(_done(task, nodes)) as done:
            # Closed whatever happens: its threads must end before Ray does.
            for outcome in done:
                connection.send_bytes(_OUTCOME + msgspec.msgpack.encode(outcome))
    except ConnectionError:
        raise  # nobody waits any more
    except Exception as error:  # noqa: BLE001 - it is raised where the job was started
        return _ERROR + pickled(error)
    return _END


def _interrupt_at_end_of(connection: Connection) -> None:
    """Ends the task as Ctrl-C would when nobody waits for it any more."""
    with contextlib.suppress(OSError):
        connection.poll(None)
    main = threading.main_thread().ident
    assert main is not None
    signal.pthread_kill(main, signal.SIGINT)


def _done(task: Task, nodes: Nodes) -> Generator[Outcome, None, None]:
    """Outcomes of units.

    Raises:
        CliprtError: what an actor met.
    """
    import ray
    import ray.data

    ray.data.DataContext.get_current().enable_progress_bars = False
    size = min(nodes.count, len(task.units))
    # One block, and so one task, for each unit.
    rows = ray.data.from_items(
        [{"unit": unit} for unit in task.units], override_num_blocks=len(task.units)
    ).map_batches(
        RayWorker,
        fn_constructor_args=(cliprt.__version__, task.order),
        batch_size=1,
        batch_format="numpy",
        # No unit waits for a busy actor while another has nothing to do.
        compute=ray.data.ActorPoolStrategy(
            # Those with nothing to do end: one whose node is lost may need their place.
            min_size=1,
            max_size=size,
            initial_size=size,
            max_tasks_in_flight_per_actor=1,
        ),
        # One on each node. Ray starts those anew that die, and gives them their unit again.
        num_cpus=nodes.cores,
    )
    try:
        for row in rows.iter_rows():
            outcome = msgspec.msgpack.decode(row["outcome"], type=Outcome)
            if outcome.error is not None:
                raise _error_of(outcome, nodes)
            yield outcome
    except (ray.exceptions.RayError, SystemError) as error:
        raise DeploymentError(_words(error)) from None


def _error_of(outcome: Outcome, nodes: Nodes) -> CliprtError:
    assert outcome.error is not None
    error: CliprtError
    error, trace = pickle.loads(outcome.error)
    if nodes.count > 1:
        error.args = (f"{error} (shard {outcome.unit}, on the node {outcome.node})",)
    error.__cause__ = RemoteTraceback(trace)
    return error


def _words(error: Exception) -> str:
    """An error of Ray's in one line."""
    text = str(error)
    if "No module named 'cliprt" in text:
        return (
            "a node of the Ray cluster has no cliprt; install cliprt "
            f"{cliprt.__version__} on every node: pip install 'cliprt[ray]=={cliprt.__version__}'"
        )
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    why = lines[-1] if lines else type(error).__name__
    return (
        f"Ray failed ({type(error).__name__}: {why}); what is done is kept, run the same command "
        "again"
    )
