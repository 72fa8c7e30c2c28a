"""The work of a load: plan, memory, new weights verified and staged, old weights kept.

It knows no versions that are current and no pause; `HotLoader` does. It writes no live tensor.
"""

from __future__ import annotations

from typing import Any

from shardcast_proto.errors import ConfigError, IntegrityError, StoreError

from .backend import Backend
from .buffers import Buffers
from .errors import DoesNotFit
from .layout import read_layout
from .memory import MemoryPlan, MemoryWish, choose_memory
from .plan import Piece, Plan, RenameFn, match
from .samples import Samples
from .slots import Slot, image_bytes, slots_of
from .swap import device_errors
from .twins import Twins
from .updates import FileUpdate, ImageUpdate, Update, comparing, image_sink, live_sink
from .verified import VerifiedFiles
from .versions import VersionOnDisk


class Stager:
    """Stages versions for one target, in memory that it holds from the first load on."""

    def __init__(self, target: object, backend: Backend, wish: MemoryWish, names: RenameFn | None) -> None:
        self._target = target
        self._backend = backend
        self._wish = wish
        self._names = names
        self._buffers: Buffers | None = None

    @property
    def memory(self) -> MemoryPlan | None:
        """What is held."""
        return None if self._buffers is None else self._buffers.memory

    def close(self) -> None:
        """Give the memory back; no update is used any more."""
        if self._buffers is not None:
            buffers, self._buffers = self._buffers, None
            buffers.close()

    def files_of(self, version: VersionOnDisk) -> VerifiedFiles:
        """Return the files of a version, to be closed by the caller."""
        return VerifiedFiles(version.path, version.manifest, self._backend.read)

    def slots(self) -> list[Slot]:
        """Return the live tensors as they are now."""
        return slots_of(self._target)

    def plan(self, version: VersionOnDisk, files: VerifiedFiles, slots: list[Slot] | None = None) -> Plan:
        """Decide what is read and where it goes, and which memory that takes."""
        chunk_size = version.manifest.blob.chunk_size
        if chunk_size > self._wish.slab_bytes:
            raise ConfigError(
                f"a chunk of this version has {chunk_size} bytes, a slab {self._wish.slab_bytes}",
                hint=f"give slab_bytes={chunk_size} or more",
            )
        slots = self.slots() if slots is None else slots
        with device_errors("reading headers"):
            transfers = match(read_layout(files), slots, self._names)
            memory = self._memory_for(slots)
        return Plan(version, slots, transfers, memory, sum(slot.size_bytes for slot in slots))

    def has_memory_for(self, plan: Plan) -> bool:
        """Whether the memory that is held is the plan's, so that what lies in it can stay."""
        return self.memory == plan.memory

    def stage(self, plan: Plan, files: VerifiedFiles) -> Update:
        """Bring the new weights as near as the plan wants, verified. The update may keep the files."""
        with device_errors("staging"):
            buffers = self._buffers_for(plan)
            samples, twins = Samples(plan.slots, plan.version.manifest.digest), Twins(plan)
            in_place = plan.memory.staging == "inplace"
            sink = None if in_place else image_sink(self._backend, buffers.staged)

            def take(piece: Piece, source: Any) -> None:
                samples.collect(piece, source)
                twins.see(piece, source)
                if sink is not None:
                    sink(piece, source)

            buffers.ring.pass_through(plan, files, take)
            twins.check()
            if in_place:
                return self._from_files(plan, files, samples)
            pairs = [(slot.tensor, slot.view_in(buffers.staged)) for slot in plan.slots]
            return ImageUpdate(self._backend, buffers.ring.stream, pairs, digest=plan.version.digest, samples=samples)

    def keep_old(self, plan: Plan, current: VersionOnDisk | None) -> Update | None:
        """Return what writes the live weights back as they are now; None when nothing can.

        Args:
            plan: What was staged.
            current: The version that is live, if one is known; where no copy is kept in memory its files are opened.
        """
        buffers = self._buffers_for(plan)
        samples = Samples(plan.slots, plan.version.manifest.digest)
        with device_errors("keeping the old weights"):
            samples.collect_live()
            if buffers.old is not None:
                buffers.save(plan.slots)
                pairs = [(slot.tensor, slot.view_in(buffers.old)) for slot in plan.slots]
                digest = None if current is None else current.digest
                return ImageUpdate(self._backend, buffers.ring.stream, pairs, digest=digest, samples=samples)
        if current is None or not all(slot.is_contiguous for slot in plan.slots):
            return None
        files = self.files_of(current)
        try:
            old = self.plan(current, files, plan.slots)
            for transfer in old.transfers:
                files.open(transfer.span.file_index)
            return self._from_files(old, files, samples)
        except (StoreError, IntegrityError, DoesNotFit):
            # its directory is gone, or not what it was: the caller is told by `can_restore`
            files.close()
            return None
        except BaseException:
            files.close()
            raise

    def compare(self, plan: Plan, files: VerifiedFiles) -> int:
        """Compare the live tensors with a version's files, and return how many bytes that were."""
        with device_errors("comparing"):
            buffers = self._buffers or self._buffers_for(plan)
            buffers.ring.pass_through(plan, files, comparing())
        return sum(transfer.span.length for transfer in plan.transfers)

    def _from_files(self, plan: Plan, files: VerifiedFiles, samples: Samples) -> FileUpdate:
        ring = self._buffers_for(plan).ring
        return FileUpdate(ring, plan, files, live_sink(self._backend), samples=samples)

    def _memory_for(self, slots: list[Slot]) -> MemoryPlan:
        size, held = image_bytes(slots), self.memory
        can_stream = all(slot.is_contiguous for slot in slots)
        if held is not None and held.image_bytes == size and (can_stream or held.staging != "inplace"):
            return held
        device, host = self._backend.free_bytes()
        if held is not None:
            device, host = device + held.device_bytes, host + held.host_bytes
        return choose_memory(
            self._wish, size, (device, host), shares_memory=self._backend.shares_memory, can_stream=can_stream
        )

    def _buffers_for(self, plan: Plan) -> Buffers:
        if self._buffers is not None and self._buffers.memory is not plan.memory:
            self.close()
        if self._buffers is None:
            self._buffers = Buffers(self._backend, plan.memory)
        return self._buffers
