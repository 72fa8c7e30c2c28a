"""The user at the other end of a loopback connection, as the kernel knows it.

A TCP port on loopback is open to every user of the host. Both ends of such a connection are sockets of this kernel, which lists them
with their owners; a socket that its program has closed has no owner any more and counts as nobody's.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path
from typing import Final

_TABLES: Final = (Path("/proc/net/tcp"), Path("/proc/net/tcp6"))
_ESTABLISHED: Final = "01"
_NO_INODE: Final = "0"
_ROOT: Final = 0

_Endpoint = tuple[str, int]


async def is_own_user(transport: asyncio.BaseTransport | None) -> bool:
    """Say whether a loopback connection comes from the user that this process runs as, or from root.

    Where the kernel's list cannot be read the answer is no.
    """
    peer = transport and transport.get_extra_info("peername")
    own = transport and transport.get_extra_info("sockname")
    if not peer or not own or not ip_address(peer[0]).is_loopback:
        return False
    user = await asyncio.to_thread(user_of, (peer[0], peer[1]), (own[0], own[1]))
    return user in (_ROOT, os.geteuid())


def user_of(local: _Endpoint, remote: _Endpoint) -> int | None:
    """Return the user id that owns the established connection from `local` to `remote`; None when there is no such owner.

    Args:
        local: Address and port of the end that is asked about.
        remote: Those of its other end.
    """
    wanted = {(_encoded(local, mapped=mapped), _encoded(remote, mapped=mapped)) for mapped in (False, True)}
    for fields in _rows():
        if (fields[1], fields[2]) in wanted and fields[3] == _ESTABLISHED and fields[9] != _NO_INODE:
            return int(fields[7])
    return None


def _rows() -> Iterator[list[str]]:
    for table in _TABLES:
        try:
            text = table.read_text(encoding="ascii")
        except OSError:
            continue
        for line in text.splitlines()[1:]:
            fields = line.split()
            if len(fields) > 9:
                yield fields


def _encoded(endpoint: _Endpoint, *, mapped: bool) -> str:
    """Return an endpoint as the kernel writes it: words of the address in host order, the port in network order."""
    address: IPv4Address | IPv6Address = ip_address(endpoint[0])
    if mapped and isinstance(address, IPv4Address):
        address = IPv6Address(f"::ffff:{address}")
    packed = address.packed
    words = (packed[start : start + 4] for start in range(0, len(packed), 4))
    return "".join(f"{int.from_bytes(word, sys.byteorder):08X}" for word in words) + f":{endpoint[1]:04X}"
