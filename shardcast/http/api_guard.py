"""The guard of the API: it says which requests may be answered at all.

Whoever can open a connection to a loopback port is this host's user, or a web page in this user's browser. Pages are kept
out twice: a browser names the page it acts for in `Origin`, and a page that points its own name at 127.0.0.1 (DNS
rebinding) gives itself away in `Host`. With a token the token decides instead of `Host`, for then the node may be reached
by any name that its operator gave it; no page knows the token.
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Sequence
from ipaddress import ip_address

from aiohttp import web

from shardcast.http.problems import problem_of_status, problem_response
from shardcast_proto.errors import ConfigError, TrustError

_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[^\[\]:@/]+)(?::[0-9]{1,5})?")
_BEARER = re.compile(r"bearer +([!-~]+) *", re.IGNORECASE)


class Guard:
    """Judges requests by who may have caused them.

    Args:
        token: What a caller must present; None admits every program on this host.
    """

    def __init__(self, token: bytes | None) -> None:
        if token is not None and not re.fullmatch(rb"[!-~]{16,}", token):
            raise ConfigError(
                "the API's token must be at least 16 printable ASCII characters without spaces",
                hint="make one with: openssl rand -hex 32",
            )
        self._token = token

    def check_bind(self, host: str) -> None:
        """Refuse to be reachable from other hosts without a token.

        Raises:
            ConfigError: The address is not a loopback address, and there is no token.
        """
        if self._token is None and not is_loopback(host):
            raise ConfigError(
                f"the API on {host} would answer anybody who can reach that address",
                hint="bind a loopback address, or give --token-file",
            )

    def refusal(self, request: web.BaseRequest, *, is_probe: bool = False) -> web.Response | None:
        """Return the response to a request that may not be answered, or None.

        Args:
            is_probe: The request asks only whether the node lives; that needs no token.
        """
        hosts = request.headers.getall("Host", [])
        if len(hosts) != 1:
            return problem_of_status(400, f"a request has one Host field, this one has {len(hosts)}")
        if self._token is None and not is_loopback(_name_in(hosts[0])):
            return problem_of_status(421, f"host {hosts[0][:80]!r} is not this API: it answers to loopback names only")
        if "Origin" in request.headers:
            return problem_of_status(403, "this API is not for web pages: a request must not have an Origin field")
        if is_probe or self._token is None:
            return None
        return self._token_refusal(request.headers.getall("Authorization", []))

    def _token_refusal(self, fields: Sequence[str]) -> web.Response | None:
        match = _BEARER.fullmatch(fields[0]) if len(fields) == 1 else None
        if match is None:
            return _unauthorized("this API wants a bearer token", "Bearer")
        if self._token is None or not hmac.compare_digest(match[1].encode(), self._token):
            return _unauthorized("the bearer token is not the one of this node", 'Bearer error="invalid_token"')
        return None


def is_loopback(name: str) -> bool:
    """Say whether a host name or IP literal means this host, whatever a name server says."""
    if name.lower().rstrip(".") == "localhost":
        return True
    try:
        return ip_address(name).is_loopback
    except ValueError:
        return False


def _name_in(host: str) -> str:
    """Return the name in a Host field, without port and brackets; "" when there is none."""
    match = _HOST.fullmatch(host.strip(" \t"))
    return match[1].strip("[]") if match else ""


def _unauthorized(message: str, challenge: str) -> web.Response:
    error = TrustError(message, hint="present the content of the node's --token-file")
    # the field is what huggingface_hub shows of an error
    return problem_response(error, status=401, headers={"WWW-Authenticate": challenge, "X-Error-Message": message})
