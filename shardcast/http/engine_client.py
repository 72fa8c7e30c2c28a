"""The HTTP client of one engine: one call, one answer, within a time and a size.

Nothing is repeated, no redirect is followed, no proxy is asked, no connection is kept: one that the engine has closed meanwhile would look
like an engine that died in the middle of a call. What did not come to an answer says whether the engine can have seen the request.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import aiohttp
from yarl import URL

from shardcast.engines.calls import ANSWER_BYTES_MAX, EngineReply
from shardcast.engines.port import EngineFault

_CONNECT_TIMEOUT_S: Final = 5.0
_LINE_BYTES_MAX: Final = 8 * 1024
_CAUSE_CHARACTERS_MAX: Final = 200


class EngineClient:
    """The way to one engine.

    Args:
        url: Its base.
        headers: What every request carries.
    """

    def __init__(self, url: str, *, headers: Mapping[str, str]) -> None:
        self.url = url
        self._headers = {"Accept": "application/json", "Accept-Encoding": "identity", **headers}
        self._session: aiohttp.ClientSession | None = None

    async def call(
        self,
        method: str,
        place: str,
        *,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        timeout_s: float,
        bytes_max: int = ANSWER_BYTES_MAX,
    ) -> EngineReply:
        """Make one request and return its answer, whatever its status.

        Raises:
            EngineFault: No answer came, or one that is too long.
        Cancellation: the connection is closed; the engine may go on with what it was asked for.
        """
        where = f"{self.url}{place.partition('?')[0]}"
        timeout = aiohttp.ClientTimeout(total=timeout_s, sock_connect=min(_CONNECT_TIMEOUT_S, timeout_s))
        try:
            async with self._opened().request(
                method,
                URL(f"{self.url}{place}", encoded=True),
                data=body,
                headers=headers,
                timeout=timeout,
                allow_redirects=False,
            ) as response:
                return EngineReply(response.status, await _bounded(response, where, bytes_max))
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
            raise EngineFault(
                f"nobody answers at {where}: {_cause(error)}", may_have_acted=False, is_answer=False
            ) from error
        except TimeoutError as error:
            raise EngineFault(
                f"{where} did not answer within {timeout_s:g} s", may_have_acted=True, is_answer=False
            ) from error
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise EngineFault(f"{where} broke off: {_cause(error)}", may_have_acted=True, is_answer=False) from error

    def _opened(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(force_close=True, limit=8),
                headers=self._headers,
                auto_decompress=False,
                max_line_size=_LINE_BYTES_MAX,
                max_field_size=_LINE_BYTES_MAX,
                cookie_jar=aiohttp.DummyCookieJar(),
            )
        return self._session

    async def aclose(self) -> None:
        """Close what is open."""
        if self._session is not None:
            await self._session.close()


async def _bounded(response: aiohttp.ClientResponse, where: str, bytes_max: int) -> bytes:
    received = bytearray()
    async for part in response.content.iter_any():
        received += part
        if len(received) > bytes_max:
            raise EngineFault(
                f"{where} answered {response.status} with more than {bytes_max} bytes",
                may_have_acted=True,
                status=response.status,
            )
    return bytes(received)


def _cause(error: Exception) -> str:
    if isinstance(error, aiohttp.ClientConnectorError) and error.os_error.strerror:
        return error.os_error.strerror[:_CAUSE_CHARACTERS_MAX]
    return (str(error) or type(error).__name__)[:_CAUSE_CHARACTERS_MAX]
