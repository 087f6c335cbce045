"""What the kernel tells about TCP sockets of this machine: who owns one, who listens on a port. Linux only.

A connection's owner is asked for by its addresses over netlink (sock_diag(7): one lookup) and, where that gives no
answer, read from /proc/net/tcp and tcp6 (5-15 ms: the kernel walks its whole table). Only an established socket that
still belongs to a file counts, because orphaned and waiting ones are listed as user 0.

Invariant: both ways give the same answer (tests/tavern/test_credentials.py).
"""

from __future__ import annotations

import ipaddress
import os
import socket
import struct
import sys
from pathlib import Path

Address = tuple[str, int]
_ESTABLISHED = 1
_NETLINK_SOCK_DIAG, _SOCK_DIAG_BY_FAMILY, _NLM_F_REQUEST = 4, 20, 1
_HEADER = struct.Struct("=IHHII")
_REQUEST = struct.Struct("=BBBxI")
_PORTS = struct.Struct("!HH")
_TAIL = struct.Struct("=III")
_ANSWER = struct.Struct("=BBBB48xIIIII")


def is_loopback(host: str) -> bool:
    address = _address(host)
    return address is not None and address.is_loopback


def socket_owner(client: Address, server: Address) -> int | None:
    """Return the user id that owns the client's end of this connection, or None when it cannot be told."""
    owner = owner_by_netlink(client, server)
    return owner if owner is not None else owner_by_table(client, server)


def owner_by_netlink(client: Address, server: Address) -> int | None:
    """Ask the kernel for one socket by its addresses."""
    source, target = _address(client[0]), _address(server[0])
    if source is None or target is None or source.version != target.version:
        return None
    family = socket.AF_INET if source.version == 4 else socket.AF_INET6
    request = _REQUEST.pack(family, socket.IPPROTO_TCP, 0, 1 << _ESTABLISHED) + _PORTS.pack(client[1], server[1])
    request += source.packed.ljust(16, b"\0") + target.packed.ljust(16, b"\0")
    request += _TAIL.pack(0, 0xFFFFFFFF, 0xFFFFFFFF)  # any interface, no cookie
    header = _HEADER.pack(_HEADER.size + len(request), _SOCK_DIAG_BY_FAMILY, _NLM_F_REQUEST, 1, 0)
    try:
        with socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM, _NETLINK_SOCK_DIAG) as kernel:
            kernel.settimeout(1.0)
            kernel.send(header + request)
            answer = kernel.recv(4096)
    except (OSError, AttributeError):
        return None
    if len(answer) < _HEADER.size + _ANSWER.size or _HEADER.unpack_from(answer)[1] != _SOCK_DIAG_BY_FAMILY:
        return None
    _, state, _, _, _, _, _, uid, inode = _ANSWER.unpack_from(answer, _HEADER.size)
    return int(uid) if state == _ESTABLISHED and inode else None


def owner_by_table(client: Address, server: Address) -> int | None:
    """Look for one socket in the kernel's printed tables."""
    for table, family in (("tcp", 4), ("tcp6", 6)):
        local, remote = _hexadecimal(client, family), _hexadecimal(server, family)
        if local is None or remote is None:
            continue
        try:
            text = Path(f"/proc/net/{table}").read_text()
        except OSError:
            continue
        at = text.find(f" {local} {remote} {_ESTABLISHED:02X} ")
        if at < 0:
            continue
        fields = text[at:].split("\n", 1)[0].split()  # local remote state queues timer retransmits uid timeout inode
        if len(fields) > 8 and fields[8] != "0":
            return int(fields[6])
    return None


def listener(address: Address) -> tuple[int, str] | None:
    """Return (process id, command) of who listens at an address, as far as we may see it."""
    inodes = set()
    for table in ("tcp", "tcp6"):
        try:
            lines = Path(f"/proc/net/{table}").read_text().splitlines()[1:]
        except OSError:
            continue
        for line in lines:
            fields = line.split()
            if fields[3] == "0A" and int(fields[1].rpartition(":")[2], 16) == address[1]:
                inodes.add(f"socket:[{fields[9]}]")
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            held = any(os.readlink(entry) in inodes for entry in (folder / "fd").iterdir())
            if held:
                words = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace").strip()
                return int(folder.name), words[:80]
        except OSError:
            continue
    return None


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return None
    mapped = getattr(address, "ipv4_mapped", None)
    return mapped or address


def _hexadecimal(address: Address, family: int) -> str | None:
    """Return an address as the kernel prints it: 32-bit words in the machine's own byte order."""
    host = _address(address[0])
    if host is None or (family == 4 and host.version == 6):
        return None
    text = str(host) if host.version == family else f"::ffff:{host}"
    packed = socket.inet_pton(socket.AF_INET if family == 4 else socket.AF_INET6, text)
    words = (int.from_bytes(packed[i : i + 4], sys.byteorder) for i in range(0, len(packed), 4))
    return "".join(f"{word:08X}" for word in words) + f":{address[1]:04X}"


def overflow_uid() -> int:
    """The user as whom the kernel shows users of another namespace: it proves nothing."""
    try:
        return int(Path("/proc/sys/kernel/overflowuid").read_text())
    except (OSError, ValueError):
        return 65534
