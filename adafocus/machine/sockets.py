"""Whether processes of this machine can reach each other, which some would try without end."""

from __future__ import annotations

import re
import socket
from multiprocessing.connection import Listener
from tempfile import gettempdir

PATIENCE = 10
"""Seconds to wait for an answer."""


def no_socket() -> str | None:
    """Where a process cannot make a socket among the temporary files, and why; None where it
    can."""
    try:
        folder = gettempdir()
    except OSError as error:  # none can be written
        return str(error)
    try:
        Listener(family="AF_UNIX").close()
    except OSError as error:
        return f"{folder} ({error.strerror or error})"
    return None


def no_loopback() -> str | None:
    """Why a process cannot reach another by the machine's address for itself; None where it can."""
    try:
        with socket.create_server(("127.0.0.1", 0)) as server:
            socket.create_connection(server.getsockname(), PATIENCE).close()
    except OSError as error:
        return (
            f"this machine cannot reach itself at 127.0.0.1 ({error.strerror or error}): switch its"
            " loopback device on (ip link set lo up), or let the container have a network"
        )
    return None


def no_server(address: str) -> str | None:
    """Why nothing can be reached at an address that ends in ``host:port``; None where something
    can, or where the address tells no port."""
    found = re.fullmatch(r"(?:\w+://)?\[?([^/\s]+?)\]?:(\d{1,5})", address)
    if not found:
        return None
    try:
        socket.create_connection((found[1], int(found[2])), PATIENCE).close()
    except (OSError, OverflowError) as error:
        return getattr(error, "strerror", None) or str(error)
    return None
