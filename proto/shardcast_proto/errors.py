"""The error families of SHARDCAST, sorted by who has to act.

Every error of ours descends from `ShardcastError`. Its class says who acts (and so the exit code and the HTTP status), its fields
say what happened to what, and its hint says what to do. Nothing here formats for a terminal or for HTTP: `shardcast.cli` and
`shardcast.http.problems` do.
"""

from __future__ import annotations

from typing import ClassVar


class ShardcastError(Exception):
    """Anything that SHARDCAST refuses or fails to do.

    Attributes:
        message: One sentence with the numbers in it, without the hint.
        hint: What the reader can do about it, or None.
        facts: Named values (`peer`, `chunk_index`, `expected`, `actual`, …) for programs and logs.
    """

    #: The process exit code of a command that ends with this error.
    exit_code: ClassVar[int] = 1
    #: The HTTP status of a response that carries this error.
    http_status: ClassVar[int] = 500
    #: A stable slug for programs.
    code: ClassVar[str] = "error"

    def __init__(self, message: str, *, hint: str | None = None, **facts: object) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.facts = facts

    def describe(self) -> str:
        """Return the message, followed by the hint when there is one."""
        return f"{self.message} ({self.hint})" if self.hint else self.message


class LocalProtocolError(ShardcastError):
    """We were about to send or build something the protocol forbids: our bug."""

    exit_code, http_status, code = 70, 500, "local_protocol"


class InvariantViolated(ShardcastError):
    """A rule that our own state must keep is broken: our bug."""

    exit_code, http_status, code = 70, 500, "invariant"


class RemoteProtocolError(ShardcastError):
    """A peer sent bytes that the protocol does not allow. The peer is dropped."""

    exit_code, http_status, code = 1, 502, "remote_protocol"


class IntegrityError(ShardcastError):
    """Bytes do not have the digest they were promised to have. They are discarded and fetched elsewhere."""

    exit_code, http_status, code = 5, 502, "integrity"


class TrustError(ShardcastError):
    """A signature, a key or an order of versions is not acceptable. The operator decides."""

    exit_code, http_status, code = 10, 403, "trust"


class NotFound(ShardcastError):
    """The caller named something that does not exist here."""

    exit_code, http_status, code = 4, 404, "not_found"


class Conflict(ShardcastError):
    """The caller asks for something that contradicts what exists."""

    exit_code, http_status, code = 6, 409, "conflict"


class TransferError(ShardcastError):
    """A transfer did not happen, or not in time. It may work later or elsewhere."""

    exit_code, http_status, code = 7, 503, "transfer"


class NotReady(TransferError):
    """The version exists, but this node does not hold all of it yet."""

    exit_code, http_status, code = 7, 409, "version_not_ready"


class StoreError(ShardcastError):
    """The disk is full, unreadable, or not what it was. The operator acts."""

    exit_code, http_status, code = 8, 507, "store"


class HotLoadError(ShardcastError):
    """New weights could not be loaded; the old ones still serve."""

    exit_code, http_status, code = 9, 409, "hot_load"


class ConfigError(ShardcastError):
    """A flag, a file or an argument is wrong. The operator corrects it."""

    exit_code, http_status, code = 2, 400, "config"


class DaemonUnreachable(ShardcastError):
    """No `shardcast-node` answers where the command looked for it."""

    exit_code, http_status, code = 3, 503, "daemon_unreachable"
