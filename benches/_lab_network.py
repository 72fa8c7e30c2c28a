"""The lab's network: a namespace for each host, one bridge between them, a shaped link for each.

The bridge lives in a namespace of its own, so nothing of it is seen from outside. Every name begins with `sc-` and the number of the
process that made it; what is removed is exactly what was made. A link is a pair of interfaces: the one inside the host lets the
uplink's rate out, the one at the bridge the downlink's.

What a rate means here: `tbf` counts whole Ethernet frames. Of 1514 bytes of a full one, 1448 are payload of TCP, so that one flow that
keeps a link full takes 1.046 times as long as the payload's bits divided by the rate.
"""

from __future__ import annotations

import ctypes
import json
import os
import subprocess
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self, TypeVar

T = TypeVar("T")

_SUBNET: Final = "10.213.77"
_INSIDE: Final = "sc-link"
_BRIDGE: Final = "sc-bridge"
#: Two of the largest packets that TCP hands down; at 256 MiB that head start is 0.05 %.
_BURST_BYTES_MIN: Final = 128 * 1024
#: A timer that fires late must find enough tokens: 2 ms of the rate.
_BURST_S: Final = 0.002
#: The queue before packets are dropped, as home routers have it. There is no delay besides.
_QUEUE_MS: Final = 50
_CLONE_NEWNET: Final = 0x40000000
#: Calls at a time inside one host.
_CALLS_MAX: Final = 4


class LabUnavailable(Exception):
    """The lab cannot be built on this machine; the message says why."""


@dataclass(frozen=True)
class Link:
    """One host's line, in Mbit/s."""

    name: str
    up_mbps: float
    down_mbps: float


class Network:
    """The namespaces of some hosts, from `__enter__` to `__exit__`.

    Args:
        links: One for each host.

    Raises:
        LabUnavailable: On entering: this user, or this kernel, cannot have it.
    """

    def __init__(self, links: Sequence[Link]) -> None:
        self._prefix = f"sc-{os.getpid()}"
        self._links = {link.name: (number, link) for number, link in enumerate(links, 1)}
        self._made: list[str] = []
        self._callers: dict[str, ThreadPoolExecutor] = {}

    def __enter__(self) -> Self:
        if why := why_not():
            raise LabUnavailable(why)
        try:
            self._build()
        except BaseException:
            self.remove()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.remove()

    def address(self, host: str) -> str:
        """Return a host's IP address."""
        return f"{_SUBNET}.{self._links[host][0]}"

    def command(self, host: str) -> list[str]:
        """Return the words that make a command run inside a host."""
        return ["ip", "netns", "exec", self._namespace(host)]

    def call(self, host: str, function: Callable[[], T]) -> Future[T]:
        """Call a function on a thread whose sockets are those of a host."""
        if host not in self._callers:
            self._callers[host] = ThreadPoolExecutor(_CALLS_MAX, initializer=_enter, initargs=(self._namespace(host),))
        return self._callers[host].submit(function)

    def cut(self, host: str) -> None:
        """Set a host's link down where it meets the bridge: packets vanish, and nobody is told."""
        _run("ip", "-n", self._hub, "link", "set", self._outside(host), "down")

    def mend(self, host: str) -> None:
        """Set a host's link up again."""
        _run("ip", "-n", self._hub, "link", "set", self._outside(host), "up")

    def sent_bytes(self, host: str) -> int:
        """Return the bytes of all frames that have left a host, headers included."""
        return int(self._queue(self._namespace(host), _INSIDE)["bytes"])

    def dropped_packets(self, host: str) -> int:
        """Return the packets that found a host's uplink or downlink queue full."""
        up, down = self._queue(self._namespace(host), _INSIDE), self._queue(self._hub, self._outside(host))
        return int(up["drops"]) + int(down["drops"])

    def remove(self) -> None:
        """Remove what was made. Called again, it finds nothing to do."""
        for caller in self._callers.values():
            caller.shutdown(wait=True, cancel_futures=True)
        self._callers.clear()
        while self._made:
            _run("ip", "netns", "delete", self._made.pop())

    @property
    def _hub(self) -> str:
        return f"{self._prefix}-hub"

    def _namespace(self, host: str) -> str:
        return f"{self._prefix}-{self._links[host][0]}"

    def _outside(self, host: str) -> str:
        return f"sc-{self._links[host][0]}"

    def _build(self) -> None:
        self._make(self._hub)
        _batch(self._hub, [f"link add {_BRIDGE} type bridge forward_delay 0", f"link set {_BRIDGE} up"])
        for host, (number, link) in self._links.items():
            inside, outside = self._namespace(host), self._outside(host)
            self._make(inside)
            peer = f"peer name {outside} netns {self._hub}"
            lines = [f"link add {_INSIDE} type veth {peer}", f"address add {_SUBNET}.{number}/24 dev {_INSIDE}"]
            _batch(inside, [*lines, "link set lo up", f"link set {_INSIDE} up"])
            _batch(self._hub, [f"link set {outside} master {_BRIDGE}", f"link set {outside} up"])
            _shape(inside, _INSIDE, link.up_mbps)
            _shape(self._hub, outside, link.down_mbps)

    def _make(self, namespace: str) -> None:
        _run("ip", "netns", "add", namespace)
        self._made.append(namespace)
        # neighbour discovery of IPv6 would be counted as bytes of the systems under test
        _run("ip", "netns", "exec", namespace, "sysctl", "-qw", "net.ipv6.conf.all.disable_ipv6=1")

    @staticmethod
    def _queue(namespace: str, interface: str) -> dict[str, Any]:
        queues = json.loads(_run("tc", "-n", namespace, "-s", "-j", "qdisc", "show", "dev", interface))
        return dict(next(queue for queue in queues if queue["kind"] == "tbf"))


def why_not() -> str | None:
    """Return why there can be no lab here, or None."""
    if os.geteuid() != 0:
        return "the lab needs root: it makes network namespaces and shapes links"
    namespace = f"sc-{os.getpid()}-probe"
    try:
        _run("ip", "netns", "add", namespace)
    except (OSError, LabUnavailable) as error:
        return f"the lab needs network namespaces: {error}"
    try:
        _batch(namespace, [f"link add {_INSIDE} type veth peer name sc-other"])
        _shape(namespace, _INSIDE, 1)
        _batch(namespace, [f"link add {_BRIDGE} type bridge"])
    except (OSError, LabUnavailable) as error:
        return f"the lab needs veth, bridge and tbf of the kernel: {error}"
    finally:
        _run("ip", "netns", "delete", namespace)
    return None


def namespaces() -> list[str]:
    """Return the namespaces of this process's lab that exist now."""
    lines = _run("ip", "netns", "list").splitlines()
    return [line.split()[0] for line in lines if line.startswith(f"sc-{os.getpid()}-")]


def _shape(namespace: str, interface: str, mbps: float) -> None:
    burst = max(_BURST_BYTES_MIN, int(mbps * 125_000 * _BURST_S))
    rate = ["rate", f"{int(mbps * 1e6)}bit", "burst", str(burst), "latency", f"{_QUEUE_MS}ms"]
    _run("tc", "-n", namespace, "qdisc", "replace", "dev", interface, "root", "tbf", *rate)


def _enter(namespace: str) -> None:
    """Move this thread, and no other one, into a namespace."""
    descriptor = os.open(Path("/run/netns") / namespace, os.O_RDONLY)
    try:
        if ctypes.CDLL(None, use_errno=True).setns(descriptor, _CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), f"cannot enter the namespace {namespace}")
    finally:
        os.close(descriptor)


def _batch(namespace: str, lines: Sequence[str]) -> None:
    _run("ip", "-n", namespace, "-batch", "-", text="\n".join(lines))


def _run(*command: str, text: str | None = None) -> str:
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=False, process_group=0)
    if done.returncode:
        raise LabUnavailable(f"{' '.join(command)}: {done.stderr.strip() or f'exit code {done.returncode}'}")
    return done.stdout
