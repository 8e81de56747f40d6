"""Names that cannot be looked up for a while, and certificates that expire and are renewed."""

from __future__ import annotations

import datetime
import os
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest
import trustme
from faults import LIMIT_S, hasty, known_answer, once_it_answers
from faulty_proxy import FaultyProxy
from mounts import apart
from patience import until
from wire_models import ONE, write_wire_repository

from cliprt import ServerError, Tls
from cliprt._grpc import TritonChannel
from cliprt_triton import ServerTls, TritonServer

# Asks over a name whenever it gets a line, and says how that ended.
ASKING = """
import sys
from cliprt import Connection, CliprtError
from cliprt._grpc import TritonChannel
from wire_models import ONE
channel = TritonChannel(Connection(sys.argv[1], retry=None))
for line in sys.stdin:
    try:
        right = (channel.infer("echo", ONE, "value", 5).result() == ONE["value"]).all()
        print("right" if right else "wrong", flush=True)
    except CliprtError as error:
        print(type(error).__name__, error, flush=True)
"""


def test_a_name_that_is_lost_and_found_elsewhere(wire_server: TritonServer, tmp_path: Path) -> None:
    hosts, resolv = tmp_path / "hosts", tmp_path / "resolv.conf"
    hosts.write_text("127.0.0.1 localhost clip.example\n")
    resolv.write_text("nameserver 127.0.0.1\noptions attempts:1 timeout:1\n")
    mounts = f"mount --bind {hosts} /etc/hosts && mount --bind {resolv} /etc/resolv.conf"
    alone = apart(mounts)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with ExitStack() as stack:
        first = stack.enter_context(FaultyProxy(wire_server.address))
        port = first.address.rpartition(":")[2]
        asking = subprocess.Popen(
            [*alone, sys.executable, "-c", ASKING, f"dns:///clip.example:{port}"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        stack.enter_context(asking)
        stack.callback(asking.kill)

        def asked() -> str:
            assert asking.stdin is not None
            assert asking.stdout is not None
            asking.stdin.write("\n")
            asking.stdin.flush()
            return asking.stdout.readline().strip()

        assert asked() == "right"
        hosts.write_text("127.0.0.1 localhost\n")
        # An open connection needs no name, nor does one to the address that was known.
        assert asked() == "right"
        first.cut()
        until(lambda: asked() == "right")
        first.leave()
        assert asked().startswith("ServerUnavailable ")
        stack.enter_context(FaultyProxy(wire_server.address, host="127.0.0.2", port=int(port)))
        hosts.write_text("127.0.0.1 localhost\n127.0.0.2 clip.example\n")
        until(lambda: asked() == "right")


PAST = {
    "not_before": datetime.datetime(2019, 1, 1, tzinfo=datetime.timezone.utc),
    "not_after": datetime.datetime(2020, 1, 1, tzinfo=datetime.timezone.utc),
}


def test_a_client_outlives_a_certificate_that_expired_and_was_renewed(tmp_path: Path) -> None:
    repository = write_wire_repository(tmp_path / "models")
    authority = trustme.CA()

    def files(name: str, **validity: datetime.datetime) -> ServerTls:
        issued = authority.issue_cert("localhost", "127.0.0.1", **validity)
        issued.private_key_pem.write_to_path(tmp_path / f"{name}.key")
        issued.cert_chain_pems[0].write_to_path(tmp_path / f"{name}.pem")
        return ServerTls(tmp_path / f"{name}.pem", tmp_path / f"{name}.key")

    with TritonServer(repository, tls=files("first")) as server:
        channel = hasty(server.address, tls=Tls(ca=authority.cert_pem.bytes()))
        known_answer(channel)
        port = int(server.address.rpartition(":")[2])
    with (
        TritonServer(repository, grpc_port=port, tls=files("expired", **PAST)),
        pytest.raises(ServerError, match="certificate has expired; renew it"),
    ):
        once_it_is_back(channel)
    with TritonServer(repository, grpc_port=port, tls=files("renewed")):
        until(lambda: renewed(channel))
        known_answer(channel)
    channel.close()


def once_it_is_back(channel: TritonChannel) -> None:
    """Asks until the server is noticed to be there again."""
    once_it_answers(lambda: channel.infer("echo", ONE, "value", LIMIT_S).result())


def renewed(channel: TritonChannel) -> bool:
    """Whether the handshake succeeds; gRPC may still tell of an attempt before."""
    try:
        once_it_is_back(channel)
    except ServerError:
        return False
    return True
