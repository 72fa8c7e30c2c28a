"""The store against a model of itself: any order of landing, flushing, killing, deleting."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from shardcast.store import Staging, Store
from shardcast_proto.errors import Conflict, IntegrityError, NotReady
from tests.shardcast.store.trees import (
    CHUNK,
    chunk_of,
    flipped,
    kill,
    manifest_of,
    noise,
    read_tree,
    served,
    wrong_bits,
)

#: Three versions: the second shares a file with the first under another name, the third all but one.
CONTENTS = [
    {"a": noise(1, 2 * CHUNK + 5), "b": noise(2, 300), "z": b""},
    {"a": noise(3, CHUNK), "moved/a": noise(1, 2 * CHUNK + 5)},
    {"a": noise(1, 2 * CHUNK + 5), "b": noise(2, 300), "c": noise(4, 2 * CHUNK)},
]
MANIFESTS = [manifest_of(contents) for contents in CONTENTS]
VERSIONS = st.integers(0, len(CONTENTS) - 1)


class StoreMachine(RuleBasedStateMachine):
    """The model of a version: the chunks that are held, those of them that are durable, whether it is complete."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.store = Store.open(self.folder / "data")
        self.held: dict[int, set[int]] = {}
        self.durable: dict[int, set[int]] = {}
        self.complete: set[int] = set()
        self.live: dict[int, Staging] = {}
        self.leases: dict[int, int] = {}

    def teardown(self) -> None:
        self.store.close()
        shutil.rmtree(self.folder)

    def known(self, version: int) -> set[int]:
        """Return the chunks of a version whose whole file lies in a complete one."""
        files = {data for done in self.complete for data in CONTENTS[done].values()}
        manifest = MANIFESTS[version]
        return {
            chunk
            for index, row in enumerate(manifest.files)
            if CONTENTS[version][row.path] in files
            for chunk in manifest.file_chunks(index)
        }

    @rule(version=VERSIONS)
    def begin(self, version):
        if version in self.complete:
            with pytest.raises(Conflict):
                self.store.begin(MANIFESTS[version])
            return
        if version not in self.live:
            known = self.known(version)
            self.held.setdefault(version, set()).update(known)
            self.durable.setdefault(version, set()).update(known)
        self.live[version] = self.store.begin(MANIFESTS[version])

    @precondition(lambda self: self.live)
    @rule(data=st.data(), is_bad=st.booleans())
    def land(self, data, is_bad):
        version = data.draw(st.sampled_from(sorted(self.live)))
        index = data.draw(st.integers(0, MANIFESTS[version].blob.chunk_count - 1))
        chunk = chunk_of(CONTENTS[version], MANIFESTS[version], index)
        if is_bad:
            with pytest.raises(IntegrityError):
                self.live[version].land(index, [flipped(chunk)])
            return
        assert self.live[version].land(index, [chunk[:100], chunk[100:]]) == (index not in self.held[version])
        self.held[version].add(index)

    @precondition(lambda self: self.live)
    @rule(data=st.data())
    def land_the_rest(self, data):
        version = data.draw(st.sampled_from(sorted(self.live)))
        for index in range(MANIFESTS[version].blob.chunk_count):
            self.live[version].land(index, [chunk_of(CONTENTS[version], MANIFESTS[version], index)])
            self.held[version].add(index)

    @precondition(lambda self: self.live)
    @rule(data=st.data())
    def flush(self, data):
        version = data.draw(st.sampled_from(sorted(self.live)))
        self.live[version].flush()
        self.durable[version] |= self.held[version]

    @precondition(lambda self: self.live)
    @rule(data=st.data())
    def adopt(self, data):
        version = data.draw(st.sampled_from(sorted(self.live)))
        added = {first + step for first, count in self.live[version].adopt_known_files() for step in range(count)}
        assert added == self.known(version) - self.held[version]
        self.held[version] |= added
        self.durable[version] |= added

    @precondition(lambda self: self.live)
    @rule(data=st.data())
    def finish(self, data):
        version = data.draw(st.sampled_from(sorted(self.live)))
        if len(self.held[version]) < MANIFESTS[version].blob.chunk_count:
            with pytest.raises(NotReady):
                self.live[version].complete()
            return
        self.live.pop(version).complete()
        self.complete.add(version)

    @rule(is_killed=st.booleans())
    def reopen(self, is_killed):
        if is_killed:
            kill(self.store)
        else:
            self.store.close()
            self.durable = {version: set(held) for version, held in self.held.items()}
        self.store = Store.open(self.folder / "data")
        assert self.store.was_killed == is_killed
        self.live.clear()
        for version in self.held.keys() - self.complete:
            self.held[version] = set(self.durable[version])

    @rule(version=VERSIONS)
    def delete(self, version):
        name = MANIFESTS[version].digest
        if version in self.leases:
            with pytest.raises(Conflict):
                self.store.delete(name)
            return
        self.store.delete(name)
        for group in (self.held, self.durable, self.live):
            group.pop(version, None)
        self.complete.discard(version)

    @precondition(lambda self: self.complete - self.leases.keys())
    @rule(data=st.data())
    def lease(self, data):
        version = data.draw(st.sampled_from(sorted(self.complete - self.leases.keys())))
        self.leases[version] = self.store.lease(MANIFESTS[version].digest, "reader")

    @precondition(lambda self: self.leases)
    @rule(data=st.data())
    def release(self, data):
        self.store.release(self.leases.pop(data.draw(st.sampled_from(sorted(self.leases)))))

    @invariant()
    def rows_say_what_the_model_says(self):
        rows = {row.manifest: row for row in self.store.versions()}
        assert rows.keys() == {MANIFESTS[version].digest for version in self.held}
        for version, held in self.held.items():
            row = rows[MANIFESTS[version].digest]
            assert row.state == ("complete" if version in self.complete else "staging")
            assert row.have_count == len(held)

    @invariant()
    def complete_versions_have_their_bytes(self):
        for version in self.complete:
            row = self.store.version(MANIFESTS[version].digest)
            assert row is not None
            assert read_tree(row.path) == CONTENTS[version]

    @invariant()
    def what_is_held_is_served_and_nothing_else(self):
        for version, manifest in enumerate(MANIFESTS):
            is_readable = version in self.live or version in self.complete
            held = self.held.get(version, set()) if is_readable else set()
            run = 0
            while run in held:
                run += 1
            expected = [chunk_of(CONTENTS[version], manifest, index) for index in range(run)]
            assert served(self.store, manifest.blob.id, 0, 8) == expected

    @invariant()
    def durable_bits_are_backed_by_bytes(self):
        for version, staged in self.live.items():
            manifest = MANIFESTS[version]
            bits = self.store._table.have(manifest.digest, manifest.blob.chunk_count)
            assert self.durable[version] <= set(bits) <= self.held[version]
            assert wrong_bits(manifest, staged.root, bits) == []


StoreMachine.TestCase.settings = settings(
    max_examples=30, stateful_step_count=30, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
TestStore = StoreMachine.TestCase
