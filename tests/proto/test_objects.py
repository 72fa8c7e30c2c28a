"""The content objects, blob, manifest and patch: what survives their encoding, what is refused."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shardcast_proto.blob import Blob
from shardcast_proto.chunking import chunk_count
from shardcast_proto.codec import pack
from shardcast_proto.errors import LocalProtocolError, RemoteProtocolError
from shardcast_proto.hashing import digest_of
from shardcast_proto.limits import CHUNK_BYTES_MIN, FILE_TABLE_BYTES_MAX, FILES_MAX, KIB, MANIFEST_BYTES_MAX
from shardcast_proto.manifest import FileRow, Manifest
from shardcast_proto.patch import Patch

CHUNK = CHUNK_BYTES_MIN
DIGEST = digest_of(b"chunk")

sizes = st.one_of(st.integers(0, 5 * CHUNK), st.sampled_from([0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK]))
names = st.integers(0, 999).map(lambda number: f"{'sub/' * (number % 3)}file-{number}")
file_lists = st.dictionaries(names, sizes, min_size=1, max_size=8).map(lambda files: list(files.items()))
chunk_sizes = st.sampled_from([CHUNK, 2 * CHUNK])


def digests(count: int) -> bytes:
    return b"".join(digest_of(b"%d" % index) for index in range(count))


def build(files: list[tuple[str, int]], chunk_size: int = CHUNK) -> Manifest:
    return Manifest.build(files, chunk_size, digests(sum(chunk_count(size, chunk_size) for _, size in files)))


def blob(length: int, chunk_size: int = CHUNK) -> Blob:
    return Blob(length, chunk_size, digests(chunk_count(length, chunk_size)))


manifests = st.builds(build, file_lists, chunk_sizes)
blobs = st.builds(blob, st.integers(0, 9 * CHUNK), chunk_sizes)
patches = st.builds(
    lambda b, codec, segments: Patch(digest_of(b"base"), digest_of(b"target"), codec, segments, b),
    blobs,
    st.sampled_from(["xor-zstd", "x", "c" * 32]),
    st.binary(max_size=64),
)
DECODERS: dict[str, Callable[[bytes], Blob | Manifest | Patch]] = {
    "blob": Blob.decode,
    "manifest": Manifest.decode,
    "patch": Patch.decode,
}
SAMPLES: dict[str, Blob | Manifest | Patch] = {
    "blob": blob(3 * CHUNK + 5),
    "manifest": build([("a", CHUNK + 1), ("b", 0), ("c/d", 7)]),
    "patch": Patch(digest_of(b"base"), digest_of(b"target"), "xor-zstd", b"segments", blob(CHUNK)),
}


@given(blobs)
def test_a_blob_survives_its_encoding(value):
    assert Blob.decode(value.encoded) == value


@given(manifests)
def test_a_manifest_survives_its_encoding(value):
    assert Manifest.decode(value.encoded) == value


@given(patches)
def test_a_patch_survives_its_encoding(value):
    assert Patch.decode(value.encoded) == value


@pytest.mark.parametrize("kind", DECODERS)
@given(data=st.binary(max_size=300))
def test_any_bytes_only_ever_raise_the_error_of_a_remote_fault(kind, data):
    with pytest.raises(RemoteProtocolError):
        DECODERS[kind](data)


@pytest.mark.parametrize("kind", DECODERS)
@settings(max_examples=200)
@given(position=st.integers(0, 10**6), replacement=st.binary(max_size=3), drop=st.integers(0, 3))
def test_a_changed_encoding_is_refused_or_is_another_object(kind, position, replacement, drop):
    good = SAMPLES[kind].encoded
    position %= len(good)
    data = good[:position] + replacement + good[position + drop :]
    try:
        value = DECODERS[kind](data)
    except RemoteProtocolError:
        return
    assert value.encoded == data
    assert (value == SAMPLES[kind]) is (data == good)


@pytest.mark.parametrize("kind", DECODERS)
def test_every_beginning_of_an_encoding_is_refused(kind):
    good = SAMPLES[kind].encoded
    for length in range(len(good)):
        with pytest.raises(RemoteProtocolError):
            DECODERS[kind](good[:length])


@pytest.mark.parametrize("kind", DECODERS)
def test_trailing_bytes_are_refused(kind):
    with pytest.raises(RemoteProtocolError):
        DECODERS[kind](SAMPLES[kind].encoded + b"\0")


@pytest.mark.parametrize("kind", DECODERS)
@pytest.mark.parametrize("other", DECODERS)
def test_an_object_is_never_taken_for_one_of_another_kind(kind, other):
    if kind != other:
        with pytest.raises(RemoteProtocolError):
            DECODERS[kind](SAMPLES[other].encoded)


def test_the_same_value_in_a_longer_encoding_is_refused():
    longer = b"\x95" + pack("shardcast/blob") + b"\xcc\x01" + b"".join(map(pack, (CHUNK, CHUNK, bytes(DIGEST))))
    assert Blob.decode(pack(["shardcast/blob", 1, CHUNK, CHUNK, bytes(DIGEST)])).chunk_count == 1
    with pytest.raises(RemoteProtocolError, match="canonical"):
        Blob.decode(longer)


# --- blob ---


@pytest.mark.parametrize(
    ("length", "chunk_size", "count"),
    [
        (CHUNK + 1, CHUNK, 1),
        (1, CHUNK, 2),
        (1, CHUNK, 0),
        (0, CHUNK, 1),
        (CHUNK, CHUNK - 1, 1),
        (CHUNK, 3 * CHUNK, 1),
        (CHUNK, 0, 1),
        (CHUNK, 16 * 1024 * KIB, 1),
    ],
)
def test_a_blob_whose_numbers_do_not_fit_is_refused(length, chunk_size, count):
    with pytest.raises(RemoteProtocolError):
        Blob.decode(pack(["shardcast/blob", 1, length, chunk_size, digests(count)]))


@pytest.mark.parametrize("size", [1, 31, 33])
def test_a_blob_with_a_piece_of_a_digest_is_refused(size):
    with pytest.raises(RemoteProtocolError):
        Blob.decode(pack(["shardcast/blob", 1, CHUNK, CHUNK, b"x" * size]))


def test_a_blob_gives_the_digest_of_each_chunk():
    value = blob(3 * CHUNK)
    assert [value.digest(index) for index in range(3)] == [digest_of(b"%d" % index) for index in range(3)]
    for index in (-1, 3):
        with pytest.raises(LocalProtocolError):
            value.digest(index)


def test_equal_content_has_an_equal_name_and_other_content_another():
    assert blob(5).id == blob(5).id
    assert len({blob(5).id, blob(6).id, blob(5, 2 * CHUNK).id}) == 3


# --- manifest ---


@given(file_lists, chunk_sizes, st.randoms())
def test_the_order_in_which_files_are_named_does_not_matter(files, chunk_size, random):
    shuffled = list(files)
    random.shuffle(shuffled)
    assert build(shuffled, chunk_size).encoded == build(files, chunk_size).encoded


@given(manifests)
def test_chunk_spans_tile_every_file(manifest):
    covered = [0] * len(manifest.files)
    for index in range(manifest.blob.chunk_count):
        span = manifest.chunk_span(index)
        assert index in manifest.file_chunks(span.file_index)
        assert span.offset == covered[span.file_index]
        assert 0 < span.length <= manifest.blob.chunk_size
        covered[span.file_index] += span.length
    assert covered == [row.size for row in manifest.files]
    assert manifest.total_bytes == sum(covered)


@given(manifests)
def test_the_chunks_of_the_files_are_all_chunks_once(manifest):
    chunks = [index for number in range(len(manifest.files)) for index in manifest.file_chunks(number)]
    assert chunks == list(range(manifest.blob.chunk_count))


@pytest.mark.parametrize("index", [-1, 3])
def test_asking_for_a_chunk_that_does_not_exist_is_our_bug(index):
    with pytest.raises(LocalProtocolError):
        build([("a", 3 * CHUNK)]).chunk_span(index)


WRONG_TILINGS = {
    "a gap": [("a", CHUNK, 0), ("b", CHUNK, 2)],
    "an overlap": [("a", CHUNK, 0), ("b", CHUNK, 0)],
    "a start that is not 0": [("a", CHUNK, 1), ("b", CHUNK, 2)],
    "a chunk too few": [("a", CHUNK, 0)],
    "a chunk too many": [("a", 2 * CHUNK, 0), ("b", CHUNK, 2)],
    "a byte too few": [("a", CHUNK, 0), ("b", CHUNK - 1, 1)],
    "a byte too many": [("a", CHUNK, 0), ("b", CHUNK + 1, 1)],
    "an empty file with a chunk": [("a", CHUNK, 0), ("b", 0, 1), ("c", CHUNK, 2)],
    "files out of order": [("b", CHUNK, 0), ("a", CHUNK, 1)],
    "a file twice": [("a", CHUNK, 0), ("a", CHUNK, 1)],
    "a file in other case": [("A", CHUNK, 0), ("a", CHUNK, 1)],
    "a file that is a directory": [("a", CHUNK, 0), ("a/b", CHUNK, 1)],
    "a path that climbs": [("../a", CHUNK, 0), ("b", CHUNK, 1)],
    "an absolute path": [("/a", CHUNK, 0), ("b", CHUNK, 1)],
    "no files": [],
    "a row with a field too few": [("a", CHUNK), ("b", CHUNK, 1)],
    "a row with a field too many": [("a", CHUNK, 0, 0), ("b", CHUNK, 1)],
    "a negative size": [("a", -CHUNK, 0), ("b", 3 * CHUNK, 0)],
    "a size beyond 63 bits": [("a", 2**63, 0), ("b", CHUNK, 1)],
    "a size that is a boolean": [("a", True, 0), ("b", 2 * CHUNK - 1, 1)],
    "a path of bytes": [(b"a", CHUNK, 0), ("b", CHUNK, 1)],
    "rows of nothing": [None, None],
}


@pytest.mark.parametrize("rows", WRONG_TILINGS.values(), ids=WRONG_TILINGS.keys())
def test_a_manifest_whose_files_do_not_tile_the_blob_is_refused(rows):
    table = b"".join(pack(list(row) if isinstance(row, tuple) else row) for row in rows)
    with pytest.raises(RemoteProtocolError):
        Manifest.decode(pack(["shardcast/manifest", 1, table, blob(2 * CHUNK).encoded]))


def test_the_tiling_that_the_wrong_ones_are_made_from_is_taken():
    table = pack(["a", CHUNK, 0]) + pack(["b", CHUNK, 1])
    assert Manifest.decode(pack(["shardcast/manifest", 1, table, blob(2 * CHUNK).encoded])).total_bytes == 2 * CHUNK


def test_an_empty_file_shares_its_first_chunk_with_the_file_behind_it():
    manifest = build([("a", 0), ("b", 2 * CHUNK), ("c", 0)])
    assert [row.first_chunk for row in manifest.files] == [0, 0, 2]
    assert manifest.chunk_span(0).file_index == 1


def test_a_version_of_empty_files_has_no_chunks():
    manifest = build([("a", 0), ("b", 0)])
    assert Manifest.decode(manifest.encoded).blob.chunk_count == 0


def test_more_files_than_the_limit_are_refused():
    with pytest.raises(RemoteProtocolError):
        build([(f"f{number}", 0) for number in range(FILES_MAX + 1)])
    table = b"".join(pack([f"{number:05}", 0, 0]) for number in range(FILES_MAX + 1))
    with pytest.raises(RemoteProtocolError, match="too many"):
        Manifest.decode(pack(["shardcast/manifest", 1, table, blob(0).encoded]))


def test_a_file_table_over_its_limit_is_refused():
    with pytest.raises(RemoteProtocolError, match="file table"):
        Manifest.decode(pack(["shardcast/manifest", 1, b"\0" * (FILE_TABLE_BYTES_MAX + 1), blob(0).encoded]))


def test_a_manifest_over_its_limit_is_refused():
    with pytest.raises(RemoteProtocolError, match="the limit is"):
        Manifest.decode(pack(["shardcast/manifest", 1, b"\0" * MANIFEST_BYTES_MAX, blob(0).encoded]))


def test_a_manifest_is_named_by_the_digest_of_its_encoding():
    manifest = build([("a", 1)])
    assert manifest.digest == digest_of(manifest.encoded)
    assert manifest.files == (FileRow("a", 1, 0),)


# --- patch ---


def patch_of(**changed: object) -> Patch:
    values: dict[str, object] = {
        "base": bytes(digest_of(b"base")),
        "target": bytes(digest_of(b"target")),
        "codec": "xor-zstd",
        "segments": b"",
        "blob": blob(CHUNK).encoded,
    }
    return Patch.decode(pack(["shardcast/patch", 1, *(values | changed).values()]))


@pytest.mark.parametrize(
    "changed",
    [
        {"base": b"short"},
        {"target": b"x" * 33},
        {"target": bytes(digest_of(b"base"))},
        {"codec": ""},
        {"codec": "c" * 33},
        {"codec": "é"},
        {"codec": b"bytes"},
        {"segments": "text"},
        {"segments": b"\0" * (4 * 1024 * KIB + 1)},
        {"blob": b""},
        {"blob": pack([])},
        {"blob": Blob(CHUNK, CHUNK, digests(2)).encoded},
    ],
    ids=lambda changed: str(changed)[:40],
)
def test_a_patch_with_one_bad_field_is_refused(changed):
    assert patch_of().codec == "xor-zstd"
    with pytest.raises(RemoteProtocolError):
        patch_of(**changed)
