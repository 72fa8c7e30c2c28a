"""The memory that a hot-load takes beside the live tensors, chosen by what is free.

Three things are kept: a ring of slabs that bytes are read into; an *image* of the new weights until they are committed, unless they are
written in place; and an image of the old ones, for a commit that fails and for a rollback. On a device that has memory of its own:

    staging   new weights wait                    the pause is                     extra memory of the device    of the host
    device    on the device                       one copy there                   W                             slabs
    host      page-locked on the host             one copy over the bus            0                             slabs + W
    inplace   on the disk, verified once before   a second reading, with hashing   0                             slabs

with W the weights; the old ones take another W, on the host where there is room. On a CPU all of it is host memory, and `device` and
`host` are the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Final, Literal

from shardcast_proto.errors import HotLoadError

Staging = Literal["device", "host", "inplace"]
Place = Literal["device", "host", "none"]

#: What must stay free beside what is taken: allocators round up, and others want something too.
_MARGIN: Final = 1.05
_CGROUP: Final = Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class MemoryPlan:
    """What a loader takes, and what was free when it was decided. All figures are bytes.

    Attributes:
        staging: Where the new weights wait.
        rollback: Where the old ones are kept; `none` leaves them to the previous version's directory.
        image_bytes: One image of all tensors, W above.
        slab_bytes: One slab.
        slabs: How many there are.
        shares_memory: Whether the device's memory is the host's.
        device_free_bytes: Free on the device, before.
        host_free_bytes: Free on the host, before.
    """

    staging: Staging
    rollback: Place
    image_bytes: int
    slab_bytes: int
    slabs: int
    shares_memory: bool
    device_free_bytes: int
    host_free_bytes: int

    @property
    def device_bytes(self) -> int:
        """What is taken of the device's own memory, beside the live tensors."""
        return 0 if self.shares_memory else self._images("device")

    @property
    def host_bytes(self) -> int:
        """What is taken of the host's memory, beside the live tensors; on a device other than the CPU it is page-locked."""
        own = self._images("host") + (self._images("device") if self.shares_memory else 0)
        return self.slabs * self.slab_bytes + own

    @property
    def fits(self) -> bool:
        """Whether as much is free."""
        return (
            self.device_bytes * _MARGIN <= self.device_free_bytes and self.host_bytes * _MARGIN <= self.host_free_bytes
        )

    def describe(self) -> str:
        """Return one line for a log."""
        return (
            f"staging {self.staging}, old weights {self.rollback}: {_mib(self.device_bytes)} of the device's memory, "
            f"{_mib(self.host_bytes)} of the host's ({self.slabs} slabs of {_mib(self.slab_bytes)})"
        )

    def _images(self, place: str) -> int:
        return self.image_bytes * ((self.staging == place) + (self.rollback == place))


@dataclass(frozen=True)
class MemoryWish:
    """What the caller wants: how new weights are staged, how many copies of old ones are kept (0 or 1), and the ring."""

    staging: Literal["auto", "device", "host", "inplace"]
    rollback_copies: int
    slab_bytes: int
    slabs: int


def choose_memory(
    wish: MemoryWish, image_bytes: int, free: tuple[int, int], *, shares_memory: bool, can_stream: bool
) -> MemoryPlan:
    """Return the fastest plan that fits.

    Args:
        wish: What was asked for.
        image_bytes: W.
        free: Free bytes of the device and of the host.
        shares_memory: Whether these are the same.
        can_stream: Whether all live tensors can be written piece by piece, as in-place staging does.

    Raises:
        HotLoadError: Nothing that was asked for fits; says what it needs.
    """
    stagings: tuple[Staging, ...] = ("device", "host", "inplace") if wish.staging == "auto" else (wish.staging,)
    places: tuple[Place, ...] = ("host", "device") if wish.rollback_copies else ("none",)
    plans = [
        MemoryPlan(staging, rollback, image_bytes, wish.slab_bytes, wish.slabs, shares_memory, *free)
        for staging, rollback in product(stagings, places)
        if can_stream or staging != "inplace"
    ]
    for plan in plans:
        if plan.fits:
            return plan
    if not plans:
        raise HotLoadError(
            "tensors that are not contiguous cannot be staged in place",
            hint="stage them on the device or the host, or make them contiguous",
        )
    least = min(plans, key=lambda plan: plan.device_bytes + plan.host_bytes)
    raise HotLoadError(
        f"no memory to stage the weights in: {least.describe()} is needed at least, "
        f"and {_mib(free[0])} of the device's and {_mib(free[1])} of the host's are free",
        hint="free some, stage in place, or keep no copy of the old weights (rollback_copies=0)",
        device_free_bytes=free[0],
        host_free_bytes=free[1],
        needed_bytes=least.device_bytes + least.host_bytes,
    )


def host_free_bytes() -> int:
    """Return the host memory that this process may still take, as the kernel and its control group see it."""
    lines = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
    free = int(lines["MemAvailable"].split()[0]) * 1024
    try:
        limit = (_CGROUP / "memory.max").read_text().strip()
        used = int((_CGROUP / "memory.current").read_text())
        stats = dict(line.split() for line in (_CGROUP / "memory.stat").read_text().splitlines())
    except OSError:
        return free
    # the page cache is given back when memory is asked for
    return free if limit == "max" else min(free, int(limit) - used + int(stats.get("inactive_file", 0)))


def _mib(size_bytes: int) -> str:
    return f"{size_bytes / 2**20:.0f} MiB"
