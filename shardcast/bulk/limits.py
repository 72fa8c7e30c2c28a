"""The limits of one bulk link, each with its reason."""

from __future__ import annotations

from dataclasses import dataclass

from shardcast_proto.limits import KIB, MIB


@dataclass(frozen=True, kw_only=True, slots=True)
class LinkLimits:
    """What a link puts up with. Times in seconds, sizes in bytes."""

    #: Kept unsent in the kernel: what is "sent" beyond this says nothing about the wire, and cannot be overtaken by a message.
    not_sent_bytes: int = 128 * KIB
    #: Received and not yet landed, over one link; beyond it nothing more is read. A larger chunk comes alone.
    waiting_bytes_max: int = 4 * MIB
    #: A reader that takes nothing for so long is gone, or of no use to anybody.
    stall_timeout_s: float = 15.0
    #: Answers under way on one link; a machine asks for four.
    answers_max: int = 8
    #: Chunks are added to an answer while it is shorter than this, as over HTTP.
    answer_bytes_aim: int = 8 * MIB
    #: Chunks found in their files ahead of being sent: enough that the wire never waits for a look-up, few enough that few files are open.
    located_max: int = 16
    #: Control messages that wait for room on one link; what does not fit goes by libp2p.
    messages_bytes_max: int = 256 * KIB
    #: What one turn of the loop may move for one link, so that the others have their turns.
    turn_bytes_max: int = 1 * MIB
    #: Two ends that open the same link within so long of each other have crossed; later, the newer replaces the older.
    crossing_s: float = 10.0
