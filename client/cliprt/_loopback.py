"""Addresses that only this machine reaches."""

from __future__ import annotations


def is_loopback(host: str) -> bool:
    """Whether a host is this machine as seen from itself, whoever answers for names.

    Args:
        host: an IP address without brackets, or a name; of names only ``localhost`` is one.
    """
    from ipaddress import ip_address

    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False
