"""The reasons for which a signed statement is refused.

A reason is the fact `reason` of the `TrustError` that refuses a statement. Logs, metrics and the rules of blame match on it, so a
slug is never renamed and never reused.
"""

from __future__ import annotations

from enum import StrEnum

from ..errors import TrustError


class Reason(StrEnum):
    """Why a signed statement was refused."""

    #: The bytes are not the statement they should be. The sender is at fault.
    MALFORMED = "malformed"
    #: A well-formed envelope holds another kind of statement.
    WRONG_TYPE = "wrong_type"
    #: No signature is by a key that the root lists for the role.
    UNLISTED_KEY = "unlisted_key"
    #: A signature that claims to be by a listed key is not.
    BAD_SIGNATURE = "bad_signature"
    #: Good signatures, but by fewer distinct keys than the root demands.
    THRESHOLD_NOT_MET = "threshold_not_met"
    #: Properly signed, for another channel.
    WRONG_CHANNEL = "wrong_channel"
    #: A head of a kind that this program does not follow.
    UNSUPPORTED_KIND = "unsupported_kind"
    #: Larger than the root's limits allow.
    OVER_LIMIT = "over_limit"
    #: Older than what is already held. A peer that lags is no attacker.
    ROLLBACK = "rollback"
    #: Of an epoch whose root is not known here yet. Ask for the root.
    EPOCH_AHEAD = "epoch_ahead"
    #: Two statements for one place in the order. The origin, or a thief of its key, is at fault, never the sender.
    EQUIVOCATION = "equivocation"
    #: A root more than one version ahead. Ask for the ones between.
    ROOT_GAP = "root_gap"
    #: A beacon for a head that is not held. Ask for the head.
    UNKNOWN_HEAD = "unknown_head"
    #: A ticket or record that names other peers.
    WRONG_PEER = "wrong_peer"
    #: A short-lived statement past its end.
    EXPIRED = "expired"


def refusal(reason: Reason, message: str, *, hint: str | None = None, **facts: object) -> TrustError:
    """Return the error that refuses a statement.

    Args:
        reason: The slug that becomes the fact `reason`.
        message: What happened, to what, with the numbers.
        hint: What the operator can do, if anything.
        facts: Further facts for the log line.
    """
    return TrustError(message, hint=hint, reason=str(reason), **facts)
