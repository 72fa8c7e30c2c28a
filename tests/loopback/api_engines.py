"""The engines of the small node that the tests of the API ask: they take whatever they are given."""

from __future__ import annotations

from dataclasses import dataclass, field

from shardcast.http.facade import EnginesView, EngineVersion, EngineView, VersionView
from shardcast_proto.errors import NotFound
from shardcast_proto.hashing import digest_of
from shardcast_proto.ids import format_digest

CHANNEL = "qwen"
CHANNEL_ID = format_digest(digest_of(b"a root"))


@dataclass(kw_only=True)
class EngineHolder:
    """What a node says of its engines."""

    engines_held: list[EngineView] = field(default_factory=list)
    activate_error: Exception | None = None

    def version(self, channel: str, selector: str) -> VersionView:
        raise NotImplementedError

    def versions(self, channel: str) -> list[VersionView]:
        raise NotImplementedError

    def engines(self) -> list[EngineView]:
        return list(self.engines_held)

    async def activate(self, channel: str, selector: str, *, engine: str | None, timeout_s: float) -> EnginesView:
        view = self.version(channel, selector)
        active = EngineVersion(step=view["step"], seq=view["seq"], epoch=view["epoch"], manifest=view["manifest"])
        return self._with_engines(engine, active)

    async def roll_back(self, channel: str, *, engine: str | None, timeout_s: float) -> EnginesView:
        self.versions(channel)
        return self._with_engines(engine, None)

    async def follow(self, channel: str, *, engine: str | None) -> EnginesView:
        self.versions(channel)
        return EnginesView(engines=self.engines())

    def _with_engines(self, name: str | None, active: EngineVersion | None) -> EnginesView:
        chosen = [one for one in self.engines_held if name in (None, one["name"])]
        if not chosen:
            raise NotFound("no engine follows it")
        if self.activate_error is not None:
            raise self.activate_error
        for one in chosen:
            one["previous"], one["active"] = one["active"], active or one["previous"]
            one["state"], one["knowledge"] = "active", "confirmed"
        return EnginesView(engines=chosen)


def engine_view(name: str = "vllm", **more: object) -> EngineView:
    """An engine that was never given anything."""
    view = EngineView(
        name=name,
        kind="vllm",
        target="http://127.0.0.1:8000",
        channel=CHANNEL,
        channel_id=CHANNEL_ID,
        state="waiting",
        explain="no version is complete here yet",
        knowledge="none",
        active=None,
        previous=None,
        activating=None,
        hold=None,
        lag_versions=0,
        lag_seconds=0.0,
        is_behind=False,
        error=None,
        activated_at=None,
        activation_seconds=None,
        pause_seconds=None,
        activations=0,
        failures=0,
    )
    view.update(more)  # type: ignore[typeddict-item]
    return view
