"""Who gives up a place at the gate when there is none left."""

from __future__ import annotations

import asyncio

import pytest

from shardcast.http.gate import Door, DoorState, Gate, GateLimits


class Wire(asyncio.Transport):
    """A connection from one address, with what of the last answer the kernel has not taken."""

    def __init__(self, address: str) -> None:
        super().__init__({"peername": (address, 1024)})
        self.is_open = True
        self.refusal = b""
        self.unsent_bytes = 0

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.refusal += data

    def get_write_buffer_size(self) -> int:
        return self.unsent_bytes

    def close(self) -> None:
        self.is_open = False

    def abort(self) -> None:
        self.is_open = False


class Street:
    """A gate, and those who come to it one after the other."""

    def __init__(self, **limits: int) -> None:
        self.gate = Gate(asyncio.Protocol, GateLimits(**limits))
        self._came_count = 0

    def come(self, state: DoorState, *, address: str = "10.0.0.1") -> tuple[Door, Wire]:
        door, wire = self.gate(), Wire(address)
        door.connection_made(wire)
        door.state, door.since_s = state, float(self._came_count)
        self._came_count += 1
        return door, wire


async def test_who_owes_a_header_goes_before_who_is_idle() -> None:
    street = Street(connections_per_address_max=3)
    wires = [street.come(state)[1] for state in (DoorState.IDLE, DoorState.READING, DoorState.NEW)]
    for expected in ([True, False, True], [True, False, False], [False, False, False]):
        _, newcomer = street.come(DoorState.BUSY)
        assert newcomer.is_open and [wire.is_open for wire in wires] == expected


async def test_who_has_been_idle_for_the_longest_goes_first() -> None:
    street = Street(connections_max=3)
    doors = [street.come(DoorState.IDLE) for _ in range(3)]
    doors[0][0].since_s = 99.0
    street.come(DoorState.BUSY)
    assert [wire.is_open for _, wire in doors] == [True, False, True]
    assert (street.gate.connection_count, street.gate.swept_count, street.gate.refused_count) == (3, 1, 0)


@pytest.mark.parametrize("limit", ["connections_max", "connections_per_address_max"])
async def test_who_is_being_answered_stays_and_the_newcomer_is_refused(limit: str) -> None:
    street = Street(**{limit: 2})
    _, busy = street.come(DoorState.BUSY)
    _, unread = street.come(DoorState.IDLE)
    unread.unsent_bytes = 1
    _, newcomer = street.come(DoorState.NEW)
    assert busy.is_open and unread.is_open and not newcomer.is_open
    assert newcomer.refusal.startswith(b"HTTP/1.1 503 ") and street.gate.refused_count == 1
    unread.unsent_bytes = 0
    assert street.come(DoorState.NEW)[1].is_open and not unread.is_open


async def test_an_address_that_has_all_its_places_takes_none_from_another() -> None:
    street = Street(connections_per_address_max=1)
    _, other = street.come(DoorState.IDLE, address="10.0.0.2")
    _, first = street.come(DoorState.IDLE)
    _, second = street.come(DoorState.IDLE)
    assert other.is_open and second.is_open and not first.is_open
