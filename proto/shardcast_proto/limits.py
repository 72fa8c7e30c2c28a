"""Every limit of the protocol, each with its reason.

All caps on what others may send stand here, so that one page answers "how much can a stranger make me hold?". A cap is checked on
the encoded bytes first and on decoded values second.
"""

from __future__ import annotations

from typing import Final

KIB: Final = 1024
MIB: Final = 1024 * KIB

#: BLAKE3-256, Ed25519 public key, Ed25519 signature.
DIGEST_BYTES: Final = 32
KEY_BYTES: Final = 32
SIGNATURE_BYTES: Final = 64

# --- chunks -------------------------------------------------------------------------------------------------------------
#: Below this, per-chunk costs (a frame, a hash call, a bit) outweigh the pipelining that small chunks buy.
CHUNK_BYTES_MIN: Final = 256 * KIB
#: Above this, a relay waits too long before it may forward: verification granularity is forwarding granularity.
CHUNK_BYTES_MAX: Final = 8 * MIB
#: A publisher aims at about this many chunks: rarest-first is within 4 % of ideal from 256 on.
CHUNKS_AIM: Final = 1024
#: 2 TiB in chunks of 8 MiB: the largest version; its digests are 8 MiB, its have-bitmap 32 KiB.
CHUNKS_MAX: Final = 262_144

# --- content objects ----------------------------------------------------------------------------------------------------
#: Digests of CHUNKS_MAX chunks (8 MiB) and FILE_TABLE_BYTES_MAX fit with room to spare.
MANIFEST_BYTES_MAX: Final = 32 * MIB
#: A sharded 1T checkpoint has some hundred files; a repository with tokenizers and code some thousand.
FILES_MAX: Final = 65_536
FILE_TABLE_BYTES_MAX: Final = 4 * MIB
#: ext4, xfs and btrfs all refuse longer names.
PATH_COMPONENT_BYTES_MAX: Final = 255
PATH_BYTES_MAX: Final = 1024
PATH_LEVELS_MAX: Final = 16
#: The segment index of a patch: 16 bytes for each chunk of the largest target.
PATCH_SEGMENTS_BYTES_MAX: Final = 4 * MIB
PATCH_BYTES_MAX: Final = 16 * MIB

# --- signed objects -----------------------------------------------------------------------------------------------------
#: A root lists keys for four roles; 64 KiB holds over a thousand of them.
ROOT_BYTES_MAX: Final = 64 * KIB
#: A head must travel inside one gossip message together with its beacon.
HEAD_BYTES_MAX: Final = 2 * KIB
BEACON_BYTES_MAX: Final = 1 * KIB
OFFER_BYTES_MAX: Final = 1 * KIB
RECORD_BYTES_MAX: Final = 2 * KIB
TICKET_BYTES_MAX: Final = 1 * KIB
BINDING_BYTES_MAX: Final = 1 * KIB
#: k-of-n with n above this is ceremony, not security; each signature costs 80 µs to check.
SIGNATURES_MAX: Final = 16
ROLE_KEYS_MAX: Final = 64
CHANNEL_NAME_BYTES_MAX: Final = 64
HEAD_REFS_MAX: Final = 4
#: A beacon is re-signed every minute; ten missed ones mean that nobody with a key speaks.
BEACON_TTL_S: Final = 600
BEACON_INTERVAL_S: Final = 60
#: Ordinary clock error between hosts that run no NTP; beyond it the clock is wrong.
CLOCK_SKEW_MAX_S: Final = 120
#: Root rotations walked in one update: years of monthly rotation.
ROOT_STEPS_MAX: Final = 64
RECORD_ADDRESSES_MAX: Final = 8
ADDRESS_BYTES_MAX: Final = 256

# --- the wire -----------------------------------------------------------------------------------------------------------
#: One control frame. Runs for the worst have-bitmap (every second chunk of CHUNKS_MAX) need 786 KiB.
CONTROL_FRAME_BYTES_MAX: Final = 1 * MIB
#: gossip implementations keep whole messages for duplicate detection; small ones keep that cheap.
GOSSIP_BYTES_MAX: Final = 4 * KIB
CODEC_DEPTH_MAX: Final = 8
#: Elements of one array: the flat runs list of the worst have-bitmap.
CODEC_ARRAY_MAX: Final = 2 * CHUNKS_MAX
#: Lists in one value: the file table, decoded row by row, has the most (a row for each file).
CODEC_LISTS_MAX: Final = FILES_MAX + 1
#: Signed peer records in one `peers` message: a shuffle sample.
PEERS_PER_MESSAGE_MAX: Final = 16
#: Channels that one peer may name in its hello.
CHANNELS_PER_HELLO_MAX: Final = 64
#: Bindings that one peer may show in its hello; each costs 80 µs to check.
BINDINGS_PER_HELLO_MAX: Final = 16
#: A request or an answer of the carriage protocol: a digest and two numbers, with room to grow.
CARRIED_FRAME_BYTES_MAX: Final = 128
#: Chunks of one carried run, as of one run over HTTP.
CARRIED_CHUNKS_MAX: Final = 64
#: Chunks of one answer over a bulk link, as of one run over HTTP.
LINK_RUN_CHUNKS_MAX: Final = 64
#: A control message on a bulk link waits for no chunk to be cut: it must be short beside one.
LINK_MESSAGE_BYTES_MAX: Final = 64 * KIB
LINK_NONCE_BYTES: Final = 32
REASON_BYTES_MAX: Final = 200
