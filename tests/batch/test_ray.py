"""Ray's actors write what one process would have written, whatever happens to them."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec
import numpy as np
import psutil
import pytest
from cases import demo_pictures
from patience import until

import cliprt
from cliprt import Bundle, BundleError, DeploymentError, MissingExtra
from cliprt_batch import JobOptions, embed
from cliprt_batch._guest_folder import GuestFolder
from cliprt_batch._job import config_of
from cliprt_batch._kinds import Source
from cliprt_batch._models import Local
from cliprt_batch._monitor import Monitor
from cliprt_batch._output_errors import OutputError
from cliprt_batch._ray import embed_on_ray
from cliprt_batch._ray_driver import _TO_END_S
from cliprt_batch._ray_worker import Order, Outcome, RayWorker
from cliprt_batch._run_folder import RunFolder
from cliprt_batch._source import make_plan, open_plan
from cliprt_batch._summary import Summary

pytestmark = [
    # Ray 2.60 tells of its own old options while it copies them.
    pytest.mark.filterwarnings("ignore::DeprecationWarning:ray.data.context"),
    # Processes and files of the cluster, which Ray itself never waits for or closes.
    pytest.mark.filterwarnings("ignore:subprocess .* is still running:ResourceWarning"),
    pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning"),
]

SHARD = 8


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """Of a cluster of two nodes on this machine."""
    from ray.cluster_utils import Cluster

    folder = tempfile.mkdtemp(prefix="cliprt-test-", dir="/tmp")
    node = {"num_cpus": 1, "num_gpus": 0, "object_store_memory": 80 * 2**20}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_TMPDIR", folder)
        cluster = Cluster(initialize_head=True, head_node_args={**node, "include_dashboard": False})
        cluster.add_node(**node)
        yield cluster.address
        cluster.shutdown()
    shutil.rmtree(folder)


@dataclass(frozen=True)
class Job:
    """A source with a broken picture, and what one process makes of it."""

    source: Source
    where: Local
    options: JobOptions
    expected: dict[str, bytes]

    def on_ray(
        self,
        out: Path,
        address: str | None,
        monitor: Monitor | None = None,
        retry_failed: bool = False,
    ) -> Summary:
        return embed_on_ray(
            self.source, out, self.where, self.options,
            address=address, workers=1, retry_failed=retry_failed, monitor=monitor or Monitor(),
        )  # fmt: skip

    def here(self, out: Path, monitor: Monitor | None = None) -> Summary:
        with self.where.encoder(self.options, self.where.settings_in(out)) as encoder:
            return embed(self.source, out, encoder, self.options, workers=1, monitor=monitor)


@pytest.fixture
def job(demo_bundle: Bundle, tmp_path: Path) -> Callable[..., Job]:
    def made(pictures: int = 28, **options: object) -> Job:
        broken = tmp_path / "broken.jpg"
        broken.write_bytes(b"no picture")
        files = demo_pictures()
        lines = [files[number % len(files)] for number in range(pictures)]
        listing = tmp_path / "list.txt"
        listing.write_text("\n".join(map(str, [*lines[:3], broken, *lines[3:]])))
        one = Job(
            Source(str(listing)),
            Local(demo_bundle.path),
            JobOptions(**{"shard_size": SHARD, **options}),  # type: ignore[arg-type]
            {},
        )
        one.here(tmp_path / "expected")
        one.expected.update(output(tmp_path / "expected"))
        return one

    return made


def output(out: Path) -> dict[str, bytes]:
    """What must not depend on how a run went: all but its figures and its lock."""
    files = [path for path in out.rglob("*") if path.is_file()]
    names = {str(path.relative_to(out)): path for path in files}
    return {
        name: path.read_bytes()
        for name, path in names.items()
        if not name.startswith(("summary.", "_cliprt/lock"))
    }


class Stopped(Exception):
    pass


class Stopping(Monitor):
    """Ends a run with an error once some items are done."""

    def __init__(self, after: int) -> None:
        super().__init__()
        self._after = after

    def advance(self, items: int, failed: int) -> None:
        super().advance(items, failed)
        if self._done >= self._after:
            raise Stopped


def test_two_nodes_write_what_one_process_writes(
    job: Callable[..., Job], address: str, tmp_path: Path
) -> None:
    one, out = job(), tmp_path / "out"
    summary = one.on_ray(out, address)
    assert output(out) == one.expected
    assert (summary.items, summary.embedded, summary.failed) == (29, 28, 1)
    assert summary.computed == 29
    assert {"read", "decode", "encode", "write"} <= set(summary.stages)
    # And what failed is tried again as one process does it.
    shutil.copy(demo_pictures()[0], tmp_path / "broken.jpg")
    one.here(tmp_path / "mended")
    summary = one.on_ray(out, address, retry_failed=True)
    assert output(out) == output(tmp_path / "mended")
    assert (summary.failed, summary.computed) == (0, 1)


def test_each_goes_on_where_the_other_was(
    job: Callable[..., Job], address: str, tmp_path: Path
) -> None:
    one, out = job(layout="parquet"), tmp_path / "out"
    with pytest.raises(Stopped):
        one.here(out, Stopping(SHARD + 1))
    assert 0 < len(list(out.glob("_cliprt/done/*"))) < 4
    with pytest.raises(Stopped):
        one.on_ray(out, address, Stopping(2 * SHARD + 1))
    done = len(list(out.glob("_cliprt/done/*")))
    summary = one.here(out)
    assert output(out) == one.expected
    assert summary.computed <= 29 - SHARD * (done - 1)


def actors() -> list[int]:
    """Processes that do units, of this module's cluster and no other."""
    found = subprocess.run(
        ["ps", "axeww", "-o", "pid,args"], capture_output=True, text=True, check=True
    )
    ours = f"RAY_TMPDIR={os.environ['RAY_TMPDIR']}"
    lines = (line for line in found.stdout.splitlines() if ours in line.split())
    return [int(line.split()[0]) for line in lines if "ray::MapWorker" in line]


class Killing(Monitor):
    """Kills all actors when the first part has appeared."""

    killed = 0

    def advance(self, items: int, failed: int) -> None:
        super().advance(items, failed)
        if not self.killed:
            self.killed = self._done
            for process in actors():
                os.kill(process, signal.SIGKILL)


def test_a_killed_actor_is_replaced_and_goes_on_at_its_last_part(
    job: Callable[..., Job], address: str, tmp_path: Path
) -> None:
    one = job(pictures=2000, shard_size=10_000)
    monitor = Killing()
    summary = one.on_ray(tmp_path / "out", address, monitor)
    assert 512 <= monitor.killed < 2001
    assert output(tmp_path / "out") == one.expected
    assert 0 < summary.computed <= 2001 - 512


class Removing(Monitor):
    """Removes a folder when the driver has read it and no actor has."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._folder = folder

    def kept(self, items: int, failed: int) -> None:
        shutil.rmtree(self._folder)


def test_a_node_without_the_bundle_is_told_in_a_line(
    job: Callable[..., Job], address: str, tmp_path: Path
) -> None:
    one = job()
    copy = tmp_path / "bundle"
    shutil.copytree(one.where.bundle, copy)
    one = replace(one, where=Local(copy))
    with pytest.raises(BundleError, match=r"bundle.*on the node") as caught:
        one.on_ray(tmp_path / "out", address, Removing(copy))
    assert "\n" not in str(caught.value)


def drivers() -> list[psutil.Process]:
    """Processes of this one that talk to Ray."""
    children = psutil.Process().children()
    return [child for child in children if "_ray_driver" in " ".join(child.cmdline())]


class KillingTheDriver(Monitor):
    """Kills the process that talks to Ray when the first part has appeared."""

    def advance(self, items: int, failed: int) -> None:
        super().advance(items, failed)
        for process in drivers():
            process.kill()


def test_rays_end_is_told_and_loses_nothing(
    job: Callable[..., Job], address: str, tmp_path: Path
) -> None:
    one, out = job(pictures=1500, shard_size=10_000), tmp_path / "out"
    with pytest.raises(DeploymentError, match="talks to Ray ended by signal 9.*done is kept"):
        one.on_ray(out, address, KillingTheDriver())
    summary = one.on_ray(out, address)
    assert output(out) == one.expected
    assert summary.computed <= 1501 - 512
    assert not drivers()


def test_the_command_line_alone_and_ctrl_c(job: Callable[..., Job], tmp_path: Path) -> None:
    one, out = job(pictures=1500, shard_size=10_000), tmp_path / "out"
    folder = tempfile.mkdtemp(prefix="c-", dir="/tmp")  # short enough for Ray's sockets
    command = [
        *(sys.executable, "-m", "cliprt", "embed", one.source.address, "--out", str(out)),
        *("--bundle", str(one.where.bundle), "--engine", "ray", "--shard-size", "10000"),
    ]
    environment = {**os.environ, "TMPDIR": folder, "PYTHONPATH": os.pathsep.join(sys.path)}
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        start_new_session=True,
    )  # fmt: skip
    while not list(out.glob("_cliprt/work/*/0000.arrow")):
        assert process.poll() is None
        time.sleep(0.05)
    # As a terminal does it.
    os.killpg(process.pid, signal.SIGINT)
    # Longer than the program waits for Ray.
    printed, told = process.communicate(timeout=_TO_END_S + 60)
    assert process.returncode == 130, told
    assert printed == ""
    *lines, last = told.splitlines()
    assert last.startswith("stopped; what is done is kept in ")
    assert all(" of 1,501 items, " in line for line in lines), told
    assert not list(Path(folder).glob("cliprt-ray-*"))
    until(lambda: folder not in subprocess.check_output(["ps", "axeww"], text=True))
    summary = one.here(out)
    assert output(out) == one.expected
    assert summary.computed <= 1501 - 512
    shutil.rmtree(folder)


OPENED = """
import json, os
import psutil
from cliprt_batch._ray_cluster import cluster
with cluster(None):
    import ray
    me = psutil.Process()
    listening = [
        [process.name(), one.laddr.ip]
        for process in [me, *me.children(recursive=True)]
        for one in process.net_connections("inet")
        if one.status == psutil.CONN_LISTEN
    ]
    folder = ray._private.worker._global_node.get_temp_dir_path()
    print(json.dumps([listening, os.stat(os.path.dirname(folder)).st_mode & 0o777]))
"""


def test_a_ray_of_this_machine_is_closed_to_others() -> None:
    run = subprocess.run([sys.executable, "-c", OPENED], capture_output=True, text=True, check=True)
    listening, mode = json.loads(run.stdout.splitlines()[-1])
    assert {"raylet", "gcs_server"} <= {name for name, _ in listening}
    assert {address for _, address in listening} <= {"127.0.0.1", "::ffff:127.0.0.1", "::1"}, (
        listening
    )
    assert mode == 0o700


def test_without_ray_the_extra_is_named(
    job: Callable[..., Job], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtra, match=r"pip install 'cliprt\[ray\]'"):
        job().on_ray(tmp_path / "out", None)


def test_an_address_of_rays_client_is_refused(job: Callable[..., Job], tmp_path: Path) -> None:
    with pytest.raises(DeploymentError, match="run this on a node of it"):
        job().on_ray(tmp_path / "out", "ray://localhost:10001")


def test_an_address_where_nothing_listens_is_told(job: Callable[..., Job], tmp_path: Path) -> None:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{held.getsockname()[1]}"
        with pytest.raises(
            DeploymentError, match=f"no Ray cluster answers at {address}: .*refused"
        ):
            job().on_ray(tmp_path / "out", address)


def test_no_ray_is_started_for_a_finished_run(job: Callable[..., Job], tmp_path: Path) -> None:
    one = job()
    shutil.copytree(tmp_path / "expected", tmp_path / "out")
    assert one.on_ray(tmp_path / "out", "nowhere:1").computed == 0


@pytest.fixture
def order(job: Callable[..., Job], tmp_path: Path) -> Iterator[Order]:
    """What actors are told of a run that this process has opened."""
    one, out = job(), tmp_path / "out"
    with one.where.encoder(one.options, {}) as encoder:
        config = config_of(one.source.describe(), encoder, one.options)
    with RunFolder.open(out, config) as folder:
        make_plan(
            one.source, folder.plan_folder,
            towers=one.options.towers, shard_size=SHARD, advance=lambda items: None,
        )  # fmt: skip
        folder.note_plan(open_plan(folder.plan_folder).sha256)
        yield Order(out, config, folder.invite(), one.where, one.options, {}, 1, False, False)


def asked(order: Order, unit: int, version: str = cliprt.__version__) -> Outcome:
    """What an actor that has just been started answers."""
    worker = RayWorker(version, pickle.dumps(order))
    [answer] = worker({"unit": np.array([unit])})["outcome"]
    return msgspec.msgpack.decode(answer, type=Outcome)


def error_of(outcome: Outcome) -> Exception:
    assert outcome.error is not None
    error, _ = pickle.loads(outcome.error)
    assert isinstance(error, Exception)
    return error


def test_another_version_is_refused(order: Order) -> None:
    error = error_of(asked(order, 0, version="0.0.0"))
    assert isinstance(error, DeploymentError)
    assert f"cliprt {cliprt.__version__} is installed, the job was started with 0.0.0" in str(error)


def test_a_unit_that_another_actor_did_is_not_done_again(order: Order) -> None:
    first, second = asked(order, 1), asked(order, 1)
    assert (first.error, second.error) == (None, None)
    assert (first.computed, second.computed) == (SHARD, 0)


def test_a_unit_that_gets_nowhere_is_given_up(order: Order) -> None:
    folder = GuestFolder.join(order.out, order.config, order.token)
    # As often as actors that died at it would have begun it.
    assert [folder.attempts(2) for _ in range(4)] == [1, 2, 3, 4]
    error = error_of(asked(order, 2))
    assert isinstance(error, DeploymentError)
    assert "ended 4 times" in str(error)


def test_what_is_left_of_an_earlier_run_cannot_write(order: Order) -> None:
    asked(order, 0)
    left = RayWorker(cliprt.__version__, pickle.dumps(order))
    # The driver was killed, another one took its place.
    lock = order.out / "_cliprt" / "lock-1-of-1"
    lock.unlink()
    with RunFolder.open(order.out, order.config) as folder:
        [answer] = left({"unit": np.array([1])})["outcome"]
        assert isinstance(error_of(msgspec.msgpack.decode(answer, type=Outcome)), OutputError)
        assert sorted(folder.done()) == [0]
    assert not list(order.out.glob("_cliprt/done/000001.json"))
