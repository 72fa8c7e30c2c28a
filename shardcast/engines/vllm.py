"""The adapter of vLLM, over the routes that its server opens with `VLLM_SERVER_DEV_MODE=1`.

    POST /pause?mode=keep                  {"status": "paused"}
    reload:     POST /collective_rpc       {"method": "reload_weights", "kwargs": {"weights_path": DIR}, "timeout": S}
    extension:  POST /collective_rpc       {"method": "shardcast_load", "args": [DIR, DIGEST], "timeout": S}
    transfer:   POST /start_weight_update, /update_weights {"update_info": {…}}, /finish_weight_update {"weight_version": LABEL}
    POST /reset_prefix_cache?reset_running_requests=true
                                           where there is one: what it holds was computed with other weights
    POST /update_weight_version            {"new_version": LABEL}
    POST /resume                           {"status": "resumed"}

`reload` needs nothing in the engine. `transfer` needs the backend of our plugin: whether it is there shows when it is greeted with
`/init_weight_transfer_engine`, which any other backend refuses. An exception in a worker comes back as status 500, and leaves open how much
was loaded.
"""

from __future__ import annotations

from typing import Final

import structlog

from shardcast.engine_specs import EngineSpec

from .calls import ASK_TIMEOUT_S, EngineHttp, get, post, routes_of
from .files import check_checkpoint
from .health import health_of
from .pausing import commit_paused, resumed
from .port import Capabilities, Effect, EngineFault, Health, Outcome, StagedVersion, manifest_of_label

#: What our side of the plugin answers to; another number is another protocol.
GREETING: Final = {"init_info": {"shardcast": 1}}
_log = structlog.get_logger("shardcast.engines")

_RELOAD_ROUTES: Final = frozenset({"/collective_rpc", "/pause", "/resume"})
_TRANSFER_ROUTES: Final = frozenset(
    {"/init_weight_transfer_engine", "/start_weight_update", "/update_weights", "/finish_weight_update"}
)
_LABEL_ROUTES: Final = frozenset({"/update_weight_version", "/weight_info"})


class VllmEngine:
    """One vLLM server."""

    def __init__(self, spec: EngineSpec, http: EngineHttp) -> None:
        self._spec = spec
        self._http = http
        self._way = ""
        self._routes: frozenset[str] = frozenset()
        #: Whether the engine's label is worth reading: not after one that could not be set.
        self._is_label_set = True

    async def probe(self) -> Capabilities:
        """Find out which routes there are, and whether our plugin is behind them."""
        self._routes = frozenset()
        routes = await routes_of(self._http)
        if not routes:
            # a server may keep its description to itself
            await get(self._http, "/is_paused")
            routes = _RELOAD_ROUTES | {"/is_paused", "/reset_prefix_cache"}
        missing = sorted(_RELOAD_ROUTES - routes)
        if missing:
            raise EngineFault(
                f"{self._http.url} has no {', '.join(missing)}",
                may_have_acted=False,
                hint="start vllm with VLLM_SERVER_DEV_MODE=1 in its environment",
            )
        self._way = await self._choose_way(routes)
        self._routes = routes
        return Capabilities(way=f"vllm {self._way}", tells_current=self._tells_current())

    async def _choose_way(self, routes: frozenset[str]) -> str:
        via = self._spec.via
        if via not in ("auto", "transfer"):
            return via
        if not routes >= _TRANSFER_ROUTES:
            if via == "transfer":
                raise EngineFault(f"{self._http.url} has no routes for weight transfer", may_have_acted=False)
            return "reload"
        try:
            await post(self._http, "/init_weight_transfer_engine", GREETING, timeout_s=ASK_TIMEOUT_S)
        except EngineFault as fault:
            if via == "transfer" or not fault.is_answer:
                fault.hint = fault.hint or """start vllm with --weight-transfer-config '{"backend":"shardcast"}'"""
                raise
            return "reload"
        return "transfer"

    def _tells_current(self) -> bool:
        return self._routes >= _LABEL_ROUTES and self._is_label_set

    async def prepare(self, version: StagedVersion) -> None:
        """Look at the engine and at the files."""
        await check_checkpoint(version.path)
        await self.probe()

    async def commit(self, version: StagedVersion, *, fallback: StagedVersion | None, owns_pause: bool) -> Outcome:
        """Pause, load, resume."""
        try:
            if not owns_pause and await self._is_paused():
                reason = "the engine is paused already, by somebody who will want to go on himself"
                return Outcome(effect=Effect.UNCHANGED, reason=reason)
        except EngineFault as fault:
            return Outcome(effect=Effect.UNCHANGED, reason=fault.describe())
        return await commit_paused(
            version,
            fallback,
            pause=None if self._spec.pause == "never" else self._pause,
            apply=self._apply,
            resume=self._resume,
            resume_timeout_s=self._spec.resume_timeout_s,
            owns_pause=owns_pause,
        )

    async def _is_paused(self) -> bool:
        return "/is_paused" in self._routes and (await get(self._http, "/is_paused")).get("is_paused") is not False

    async def _pause(self) -> None:
        await post(self._http, f"/pause?mode={self._spec.pause}", timeout_s=self._spec.pause_timeout_s)

    async def _apply(self, version: StagedVersion) -> None:
        timeout_s = self._spec.apply_timeout_s
        match self._way:
            case "transfer":
                await self._transfer(version)
            case "extension":
                arguments = [str(version.path), version.manifest]
                await self._rpc({"method": "shardcast_load", "args": arguments, "timeout": timeout_s})
            case _:
                await self._rpc(
                    {
                        "method": "reload_weights",
                        "kwargs": {"weights_path": str(version.path)},
                        "timeout": timeout_s,
                    }
                )
        await self._forget_prefixes()
        await self._set_label(version)

    async def _rpc(self, call: dict[str, object]) -> None:
        # its own deadline is the engine's; ours leaves it the time to answer that it has passed
        await post(self._http, "/collective_rpc", call, timeout_s=self._spec.apply_timeout_s + ASK_TIMEOUT_S)

    async def _transfer(self, version: StagedVersion) -> None:
        timeout_s = self._spec.apply_timeout_s
        # releases before the flag moved into the backend read it here; later ones read nothing
        await post(self._http, "/start_weight_update", {"is_checkpoint_format": True}, timeout_s=timeout_s)
        info = {"path": str(version.path), "version": version.label, "manifest": version.manifest}
        try:
            await post(self._http, "/update_weights", {"update_info": info}, timeout_s=timeout_s)
            await post(self._http, "/finish_weight_update", {"weight_version": version.label}, timeout_s=timeout_s)
        except EngineFault as fault:
            fault.may_have_acted = True  # whatever it says: the update has been started
            raise

    async def _forget_prefixes(self) -> None:
        if self._spec.kv == "reset" and "/reset_prefix_cache" in self._routes:
            try:
                # as long as a frozen request holds blocks nothing is forgotten, and most releases answer 200 all the same; so these
                # are computed anew
                place = "/reset_prefix_cache?reset_running_requests=true"
                await post(self._http, place, timeout_s=ASK_TIMEOUT_S)
            except EngineFault as fault:
                if not fault.is_answer:
                    raise
                _log.warning("prefixes_not_forgotten", engine=self._spec.name, error=fault.describe())

    async def _set_label(self, version: StagedVersion) -> None:
        if not self._routes >= _LABEL_ROUTES:
            return
        try:
            document = {"new_version": version.label}
            await post(self._http, "/update_weight_version", document, timeout_s=ASK_TIMEOUT_S)
        except EngineFault as fault:
            if not fault.is_answer:
                raise
            # the weights are the new ones all the same
            self._is_label_set = False
        else:
            self._is_label_set = True

    async def resume(self) -> bool:
        """Let the engine go on."""
        return await resumed(self._resume, timeout_s=self._spec.resume_timeout_s)

    async def _resume(self) -> None:
        await post(self._http, "/resume", timeout_s=self._spec.resume_timeout_s)

    async def current(self) -> str | None:
        """Return the label that the engine shows."""
        if not self._routes:
            await self.probe()
        if not self._tells_current():
            return None
        try:
            label = (await get(self._http, "/weight_info")).get("weight_version")
        except EngineFault as fault:
            if fault.is_answer:
                self._routes = frozenset()  # it may have been started anew, in another way
            raise
        return manifest_of_label(label) if isinstance(label, str) else ""

    async def health(self) -> Health:
        """Ask `/health`."""
        return await health_of(self._http)

    async def aclose(self) -> None:
        """Close the connections."""
        await self._http.aclose()
