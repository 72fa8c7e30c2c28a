"""The trust room: which signed statement is accepted.

Bytes go in; a statement or a refusal comes out. Nothing here knows a clock, a disk or a peer. Start at `channel`.
"""

from .announce import Announce, gossip_topic
from .beacon import Beacon, Freshness, sign_beacon
from .binding import Binding, sign_binding
from .channel import BeaconVerdict, TrustedChannel
from .dsse import Envelope, Signature
from .head import FLAG_REWIND, KIND_CONTRIBUTION, KIND_WEIGHTS, STREAM_MAIN, Head, Position, Ref, sign_head
from .head_order import Accepted, Equivocation, HeadOrder, Known, SignedHead
from .keys import SEED_BYTES, SigningKey, VerifyKey
from .offer import PatchOffer, sign_offer
from .record import PEER_ROLES, RECORD_TTL_S_MAX, PeerRecord, check_address, open_record, sign_record
from .refusals import Reason
from .root import ROLE_CONTRIBUTOR, ROLE_ORIGIN, ROLE_ROOT, ROLE_VALIDATOR, Limits, Role, Root
from .root_chain import SignedRoot, open_next_root, open_root, sign_root
from .ticket import NONCE_BYTES, Ticket, open_ticket, sign_ticket

__all__ = [
    "TrustedChannel",
    "Accepted",
    "Known",
    "SignedHead",
    "Equivocation",
    "HeadOrder",
    "BeaconVerdict",
    "Freshness",
    "Reason",
    "SigningKey",
    "VerifyKey",
    "SEED_BYTES",
    "Envelope",
    "Signature",
    "Root",
    "Role",
    "Limits",
    "ROLE_ROOT",
    "ROLE_ORIGIN",
    "ROLE_CONTRIBUTOR",
    "ROLE_VALIDATOR",
    "SignedRoot",
    "sign_root",
    "open_root",
    "open_next_root",
    "Head",
    "Position",
    "Ref",
    "sign_head",
    "KIND_WEIGHTS",
    "KIND_CONTRIBUTION",
    "STREAM_MAIN",
    "FLAG_REWIND",
    "Beacon",
    "sign_beacon",
    "Binding",
    "sign_binding",
    "PatchOffer",
    "sign_offer",
    "PeerRecord",
    "sign_record",
    "open_record",
    "check_address",
    "PEER_ROLES",
    "RECORD_TTL_S_MAX",
    "Ticket",
    "sign_ticket",
    "open_ticket",
    "NONCE_BYTES",
    "Announce",
    "gossip_topic",
]
