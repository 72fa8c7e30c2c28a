"""The adapter of SGLang.

    POST /pause_generation           {"mode": "retract"}                               200
    POST /update_weights_from_disk   {"model_path": DIR, "weight_version": LABEL, "flush_cache": true, …}
                                     200 {"success": true, …}, or 400 {"success": false, "message": WHY}
    POST /continue_generation        {}                                                200
    GET  /model_info                 {"weight_version": LABEL, …}; older: /get_model_info, /get_weight_version

A failed update makes the server read the directory from before again by itself, which is why that directory stays where it is, and does
not change, until the next version is active. Whether that went well it does not say: a failure leaves the weights unknown here too.
"""

from __future__ import annotations

from typing import Final

from shardcast.engine_specs import EngineSpec

from .calls import ASK_TIMEOUT_S, EngineHttp, get, post, routes_of, without_success
from .files import check_checkpoint
from .health import health_of
from .pausing import commit_paused, resumed
from .port import Capabilities, EngineFault, Health, Outcome, StagedVersion, manifest_of_label

_NEEDED: Final = ("/pause_generation", "/update_weights_from_disk", "/continue_generation")
_LABEL_PLACES: Final = ("/model_info", "/get_model_info", "/get_weight_version")


class SglangEngine:
    """One SGLang server."""

    def __init__(self, spec: EngineSpec, http: EngineHttp) -> None:
        self._spec = spec
        self._http = http
        #: Where the server tells its label; None before it was asked, "" when it does not.
        self._label_place: str | None = None

    async def probe(self) -> Capabilities:
        """Find out which routes there are."""
        routes = await routes_of(self._http)
        # a server started with DISABLE_OPENAPI_DOC describes nothing, and has them all the same
        missing = [route for route in _NEEDED if routes and route not in routes]
        if missing:
            raise EngineFault(
                f"{self._http.url} has no {', '.join(missing)}",
                may_have_acted=False,
                hint="is it an SGLang server of 2026 or later?",
            )
        self._label_place = await self._find_label()
        return Capabilities(way="sglang disk", tells_current=bool(self._label_place))

    async def _find_label(self) -> str:
        for place in _LABEL_PLACES:
            try:
                answer = await get(self._http, place)
            except EngineFault as fault:
                if fault.status is None:
                    raise
                continue
            if isinstance(answer.get("weight_version"), str):
                return place
        return ""

    async def prepare(self, version: StagedVersion) -> None:
        """Look at the engine and at the files."""
        await check_checkpoint(version.path)
        await self.probe()

    async def commit(self, version: StagedVersion, *, fallback: StagedVersion | None, owns_pause: bool) -> Outcome:
        """Pause, load, continue. The server does not tell whether it is paused: somebody else's pause is ended too."""
        return await commit_paused(
            version,
            fallback,
            pause=None if self._spec.pause == "never" else self._pause,
            apply=self._apply,
            resume=self._resume,
            resume_timeout_s=self._spec.resume_timeout_s,
            owns_pause=owns_pause,
        )

    async def _pause(self) -> None:
        document = {"mode": self._spec.pause}
        await post(self._http, "/pause_generation", document, timeout_s=self._spec.pause_timeout_s)

    async def _apply(self, version: StagedVersion) -> None:
        document = {
            "model_path": str(version.path),
            "weight_version": version.label,
            "flush_cache": self._spec.kv == "reset",
            "abort_all_requests": False,
        }
        timeout_s = self._spec.apply_timeout_s
        try:
            answer = await post(self._http, "/update_weights_from_disk", document, timeout_s=timeout_s)
        except EngineFault as fault:
            # 400 is how it says that the update has failed; below that it has not looked at it
            fault.may_have_acted = fault.may_have_acted or fault.status == 400
            raise
        if answer.get("success") is not True:
            raise without_success(self._http.url, "/update_weights_from_disk", answer)

    async def resume(self) -> bool:
        """Let the engine go on."""
        return await resumed(self._resume, timeout_s=self._spec.resume_timeout_s)

    async def _resume(self) -> None:
        await post(self._http, "/continue_generation", {}, timeout_s=self._spec.resume_timeout_s)

    async def current(self) -> str | None:
        """Return the label that the engine shows."""
        if self._label_place is None:
            await self.probe()
        if not self._label_place:
            return None
        try:
            label = (await get(self._http, self._label_place)).get("weight_version")
        except EngineFault as fault:
            if fault.is_answer:
                self._label_place = None  # it may have been started anew, in another way
            raise
        return manifest_of_label(label) if isinstance(label, str) else ""

    async def health(self) -> Health:
        """Ask `/health`."""
        return await health_of(self._http, timeout_s=ASK_TIMEOUT_S)

    async def aclose(self) -> None:
        """Close the connections."""
        await self._http.aclose()
