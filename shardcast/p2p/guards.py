"""The guards on libp2p's host.

Each is one shim round one trap of libp2p 0.8.1, applied to one host. `tests/shardcast/p2p` holds a test for each that
fails when the trapped code upstream changes.

| trap | without the guard | guard |
|---|---|---|
| a raising stream handler ends the swarm service | one stream disturbs all | `guard_streams` |
| a raising task of a service ends the service | one task disturbs all | `contain_tasks` |
| no cap on the streams that a peer opens | memory and tasks without bound | `guard_streams` |
| an inbound place is kept until the host ends | after 64 visitors nobody gets in | `release_inbound_places` |
| an inbound place is kept while nothing is said | 64 silent visitors keep everybody out for 5 s | `release_inbound_places` |
| the swarm dials known peers by itself | a tree overlay is wrecked; peers choose what we dial | `refuse_own_dials` |
| every connection asks for, stores and pushes identities | peers fill our address book | `stop_identify` |
| closing a connection writes to it first | a peer that stopped reading holds up the close | `sever` |
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Awaitable, Callable
from ipaddress import ip_address
from typing import Any, Final

import trio
from libp2p.identity.identify_push.identify_push import ID_PUSH
from libp2p.network.connection.raw_connection import RawConnection
from libp2p.network.exceptions import SwarmException

from .limits import P2pLimits

log: Final = logging.getLogger("shardcast.p2p")

#: Time for a close to be polite in (GO_AWAY, end of streams) before the socket is closed under it.
CLOSE_GRACE_S: Final = 0.4


def guard_streams(network: Any, streams_max: int) -> None:
    """Contain what stream handlers raise, and cap the streams that one connection may have opened at once."""
    inner: Callable[[Any], Awaitable[None]] = network.common_stream_handler
    open_count: Counter[int] = Counter()

    async def guarded(stream: Any) -> None:
        connection = id(stream.muxed_conn)
        if open_count[connection] >= streams_max:
            log.debug("refusing a stream of %s: it has %d", stream.muxed_conn.peer_id, streams_max)
            await reset_quietly(stream)
            return
        open_count[connection] += 1
        try:
            await inner(stream)
        except Exception:
            log.debug("a stream of %s failed", stream.muxed_conn.peer_id, exc_info=True)
            await reset_quietly(stream)
        finally:
            open_count[connection] -= 1
            if not open_count[connection]:
                del open_count[connection]

    network.set_stream_handler(guarded)


def contain_tasks(manager: Any) -> None:
    """Keep a failing task of a service from ending the service; what owned the task (a connection) is closed.

    Daemon tasks stay as they are: the service is of no use without them, so their failure must surface.
    """
    run_task = manager.run_task

    def contained(afn: Callable[..., Awaitable[None]], *args: Any, daemon: bool = False, **options: Any) -> None:
        async def guarded(*inner_args: Any) -> None:
            try:
                await afn(*inner_args)
            except Exception:
                log.debug("a task of libp2p failed: %s", getattr(afn, "__qualname__", afn), exc_info=True)
                owner = getattr(afn, "__self__", None)
                if hasattr(owner, "muxed_conn") or hasattr(owner, "secured_conn"):
                    await sever(owner)

        run_task(afn if daemon else guarded, *args, daemon=daemon, **options)

    manager.run_task = contained


def release_inbound_places(network: Any, limits: P2pLimits) -> None:
    """Give an inbound place back when its connection closes, and cap the places of all and of one address.

    A place in a handshake goes to the next newcomer when there is no other: whoever connects and says nothing keeps nobody out.
    """
    places = _Places(limits)
    # twice as many: whoever makes room is still being closed when the newcomer is here
    network._inbound_limiter = trio.CapacityLimiter(2 * limits.inbound_max)

    async def handle(stream: Any, listen_address: Any, _failure_event: Any) -> None:
        remote = stream.get_remote_address()
        ip = remote[0] if remote is not None else ""
        scope = trio.CancelScope()
        if not places.enter(scope, ip):
            log.debug("refusing a connection from %s: no place", ip)
            await stream.close()
            return
        muxed: Any = None
        try:
            with scope:
                muxed = await network.upgrade_inbound_raw_conn(RawConnection(stream, False), listen_address)
            if muxed is None:
                log.debug("a handshake with %s made room for another", ip)
                await stream.close()
            else:
                places.settle(scope, ip)
                await muxed.event_closed.wait()
        except Exception as error:  # noqa: BLE001 - a libp2p guard: a failed handshake is the other side's affair
            log.debug("a connection from %s failed: %s", ip, error)
        finally:
            places.leave(scope)

    network._do_handle_inbound_connection = handle


class _Places:
    """The inbound places of one host, each in a handshake or settled."""

    def __init__(self, limits: P2pLimits) -> None:
        self._limits = limits
        #: Addresses by the scope of their handshake, the oldest first, with when they came.
        self._handshakes: dict[trio.CancelScope, tuple[str, float]] = {}
        self._settled: dict[trio.CancelScope, str] = {}

    def enter(self, scope: trio.CancelScope, ip: str) -> bool:
        """Let a handshake begin, and return False when there is no place for it."""
        places = [*self._settled.values(), *(other for other, _ in self._handshakes.values())]
        is_crowded = places.count(ip) >= self._limits.inbound_per_ip_max and not _is_loopback(ip)
        if (is_crowded or len(places) >= self._limits.inbound_max) and not self._make_room(ip if is_crowded else None):
            return False
        self._handshakes[scope] = (ip, trio.current_time())
        return True

    def _make_room(self, ip: str | None) -> bool:
        """End the oldest handshake, of one address or of all, if it has had its time."""
        for scope, (other, came_s) in self._handshakes.items():
            if ip in (None, other):
                if trio.current_time() - came_s < self._limits.handshake_fair_s:
                    return False
                del self._handshakes[scope]
                scope.cancel()
                return True
        return False

    def settle(self, scope: trio.CancelScope, ip: str) -> None:
        """Note that a handshake has become a connection."""
        self._handshakes.pop(scope, None)
        self._settled[scope] = ip

    def leave(self, scope: trio.CancelScope) -> None:
        """Give a place back."""
        self._handshakes.pop(scope, None)
        self._settled.pop(scope, None)


def refuse_own_dials(network: Any) -> None:
    """Leave all dialling to us: `dial_addr` with an address of our choice is the only way out."""

    async def refuse(peer_id: Any) -> Any:
        raise SwarmException(f"not connected to {peer_id}, and only the application dials")

    async def no_connect() -> None:
        await trio.lowlevel.checkpoint()

    network.dial_peer = refuse
    network.auto_connector.maybe_connect = no_connect


def stop_identify(host: Any) -> None:
    """Answer identify, but neither ask for it, accept pushes, nor push."""

    async def no_push() -> None:
        await trio.lowlevel.checkpoint()

    host._schedule_identify = lambda peer_id, *, reason: None
    host._push_identify_to_all_peers = no_push
    host.remove_stream_handler(ID_PUSH)


async def sever(connection: Any) -> None:
    """Close a connection (of the swarm, or the muxed one below it): politely for a moment, then its socket.

    Cancellation: the socket is closed all the same.
    """
    muxed = getattr(connection, "muxed_conn", connection)

    async def close_politely() -> None:
        try:
            await connection.close()
        except Exception:
            log.debug("closing a connection failed", exc_info=True)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(_close_socket_after, muxed, CLOSE_GRACE_S, nursery.cancel_scope)
        await close_politely()
        nursery.cancel_scope.cancel()


async def reset_quietly(stream: Any) -> None:
    """Reset a stream whose connection may be gone."""
    try:
        await stream.reset()
    except Exception:
        log.debug("resetting a stream failed", exc_info=True)


def socket_of(muxed: Any) -> trio.SocketStream:
    """Return the TCP socket below a Noise/yamux connection."""
    stream = muxed.secured_conn.conn.read_writer.read_write_closer.stream.stream
    if not isinstance(stream, trio.SocketStream):
        raise TypeError(f"no socket below the connection but a {type(stream).__name__}")
    return stream


async def _close_socket_after(muxed: Any, grace_s: float, scope: trio.CancelScope) -> None:
    try:
        await trio.sleep(grace_s)
    finally:
        # Closing a socket wakes whoever is blocked on it, shielded or not.
        if not muxed.is_closed or not scope.cancel_called:
            await trio.aclose_forcefully(socket_of(muxed))


def _is_loopback(ip: str) -> bool:
    try:
        return ip_address(ip).is_loopback
    except ValueError:
        return False
