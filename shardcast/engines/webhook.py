"""The adapter of a webhook: one signed POST for each activation.

    POST URL
    Content-Type: application/json
    Idempotency-Key: HEX                        equal in all posts for one activation
    X-Shardcast-Timestamp: 1790000000           unix seconds
    X-Shardcast-Signature: sha256=HEX           HMAC-SHA-256 over TIMESTAMP "." BODY, keyed with the secret

    {"action": "activate", "engine": …, "channel": …, "step": …, "seq": …, "manifest": "b3:…", "path": …, "previous_path": … or null}

A 2xx answer, which the receiver gives once the version serves: active. A status from 400 to 499: nothing was touched. 500 and above, or no
answer: unknown; after an answer the same is posted with `"action": "restore"` and what served before.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import time
from collections.abc import Callable

from shardcast.engine_specs import EngineSpec

from .calls import EngineHttp, refusal
from .pausing import commit_unpaused
from .port import Capabilities, Health, Outcome, StagedVersion


class WebhookEngine:
    """One receiver.

    Args:
        secret: What posts are signed with.
        clock: Unix seconds.
    """

    def __init__(
        self, spec: EngineSpec, http: EngineHttp, secret: bytes, *, clock: Callable[[], float] = time.time
    ) -> None:
        self._spec = spec
        self._http = http
        self._secret = secret
        self._clock = clock

    async def probe(self) -> Capabilities:
        """Ask nothing: a receiver is not made to answer anything but posts."""
        return Capabilities(way="webhook", tells_current=False)

    async def prepare(self, version: StagedVersion) -> None:
        """Do nothing."""

    async def commit(self, version: StagedVersion, *, fallback: StagedVersion | None, owns_pause: bool) -> Outcome:
        """Post the version; for a failure of unknown extent, what was before."""
        return await commit_unpaused(version, fallback, self._post)

    async def _post(self, action: str, version: StagedVersion, before: StagedVersion | None) -> None:
        document = {
            "action": action,
            "engine": self._spec.name,
            "channel": version.channel,
            "step": version.step,
            "seq": version.seq,
            "manifest": version.manifest,
            "path": str(version.path),
            "previous_path": None if before is None else str(before.path),
        }
        body = json.dumps(document).encode()
        stamp = str(int(self._clock()))
        key = hashlib.sha256(f"{version.activation} {action} {version.manifest}".encode()).hexdigest()
        headers = {
            "Content-Type": "application/json",
            "Idempotency-Key": key,
            "X-Shardcast-Timestamp": stamp,
            "X-Shardcast-Signature": f"sha256={signature(self._secret, stamp, body)}",
        }
        reply = await self._http.call("POST", "", body=body, headers=headers, timeout_s=self._spec.apply_timeout_s)
        if not 200 <= reply.status < 300:
            raise refusal(self._http.url, "", reply)

    async def resume(self) -> bool:
        """Do nothing: a receiver is not paused."""
        return True

    async def current(self) -> str | None:
        """Return None: a receiver does not tell."""
        return None

    async def health(self) -> Health:
        """Return that it is there: only a post will tell."""
        return Health.HEALTHY

    async def aclose(self) -> None:
        """Close the connections."""
        await self._http.aclose()


def signature(secret: bytes, stamp: str, body: bytes) -> str:
    """Return what a post is signed with, in hex."""
    return hmac.new(secret, stamp.encode() + b"." + body, hashlib.sha256).hexdigest()
