"""A gRPC channel made as a `Connection` says."""

from __future__ import annotations

import ipaddress
import json
import socket
from typing import Any

import grpc

from cliprt._connection import Connection, Retry
from cliprt._errors import ServerUnavailable

_BASE_OPTIONS = (
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    # Proxies that the environment names are for HTTP; they would break even loopback.
    ("grpc.enable_http_proxy", 0),
    # After a restart of the server a client is back within a second, not within two minutes.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
    # A name is looked up again as soon as its address is lost; gRPC would wait for half a minute.
    ("grpc.dns_min_time_between_resolutions_ms", 1000),
    # gRPC keeps what it sends for a further attempt, up to a bound of 256 KiB: two pictures. Beyond
    # it silently gives up trying again. It keeps a reference, no copy, so the bound may go.
    ("grpc.per_rpc_retry_buffer_size", 2**31 - 1),
    # Channels of one process share connections otherwise, and so does a channel that a forked
    # child makes with those of its parent, which breaks the child's requests.
    ("grpc.use_local_subchannel_pool", 1),
)

_KEEPALIVE_TIMEOUT_MS = 10_000

# Pings beyond this, with no data in between, are rationed to one a minute. A server hangs up at the
# fourth that comes within five minutes of the one before, unless it was told to permit them.
_PINGS_WITHOUT_DATA = 2

_PAUSE_FACTOR = 4


def open_channel(connection: Connection) -> Any:
    """Makes the channel; it connects when it is first used.

    Raises:
        ServerUnavailable: a name in a list of endpoints cannot be looked up.
        ValueError: a TLS file cannot be read any more.
    """
    options = [*_BASE_OPTIONS, ("grpc.service_config", json.dumps(_service_config(connection)))]
    if connection.keepalive_s is not None:
        options += [
            ("grpc.keepalive_time_ms", round(connection.keepalive_s * 1000)),
            ("grpc.keepalive_timeout_ms", _KEEPALIVE_TIMEOUT_MS),
            # gRPC has other pings, for which it would wait a minute, and sends none meanwhile.
            ("grpc.http2.ping_timeout_ms", _KEEPALIVE_TIMEOUT_MS),
            # Idle connections cost nothing and are made anew; servers take their pings amiss.
            ("grpc.keepalive_permit_without_calls", 0),
            ("grpc.http2.max_pings_without_data", _PINGS_WITHOUT_DATA),
        ]
    target = _target(connection)
    if connection.tls is None:
        return grpc.insecure_channel(target, options=options)
    ca, key, certificate = connection.tls.read()
    credentials = grpc.ssl_channel_credentials(ca, key, certificate)
    name = connection.tls.server_name
    if not isinstance(connection.endpoints, str):
        name = name or connection.hosts[0]
    if name:
        options.append(("grpc.ssl_target_name_override", name))
    return grpc.secure_channel(target, credentials, options=options)


def _service_config(connection: Connection) -> dict[str, Any]:
    """The settings of gRPC for balancing and retries.

    Only inference is tried again: whether a server is there at all must show at once.
    """
    policy = "round_robin" if connection.several else "pick_first"
    config: dict[str, Any] = {"loadBalancingConfig": [{policy: {}}]}
    if connection.retry is not None:
        name = {"service": "inference.GRPCInferenceService", "method": "ModelInfer"}
        config["methodConfig"] = [{"name": [name], "retryPolicy": _policy(connection.retry)}]
    return config


def _policy(retry: Retry) -> dict[str, Any]:
    # A server that shuts down unloads its models first, and for seconds knows none.
    gone = ["UNAVAILABLE", "NOT_FOUND"] if retry.wait_for_server else ["UNAVAILABLE"]
    return {
        "maxAttempts": retry.attempts,
        "initialBackoff": f"{retry.first_pause_s:.3f}s",
        "maxBackoff": f"{retry.greatest_pause_s:.3f}s",
        "backoffMultiplier": _PAUSE_FACTOR,
        "retryableStatusCodes": gone,
    }


def _target(connection: Connection) -> str:
    """What gRPC connects to."""
    if isinstance(connection.endpoints, str):
        return connection.endpoints
    found = [_look_up(endpoint) for endpoint in connection.endpoints]
    if all(address.version == 4 for address, _ in found):
        return "ipv4:" + ",".join(f"{address}:{port}" for address, port in found)
    # A target has one family; IPv6 can express IPv4.
    return "ipv6:" + ",".join(f"[{_as_ipv6(address)}]:{port}" for address, port in found)


def _look_up(endpoint: str) -> tuple[ipaddress.IPv4Address | ipaddress.IPv6Address, int]:
    host, _, port = endpoint.rpartition(":")
    try:
        answers = socket.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_STREAM)
    except OSError as error:
        raise ServerUnavailable(
            f"the name of the endpoint {endpoint} cannot be looked up ({error.strerror}); check "
            "its spelling and the name service"
        ) from None
    addresses = [ipaddress.ip_address(answer[4][0]) for answer in answers]
    return min(addresses, key=lambda address: address.version), int(port)


def _as_ipv6(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> str:
    return str(address) if address.version == 6 else f"::ffff:{address}"
