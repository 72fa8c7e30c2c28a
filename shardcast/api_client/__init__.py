"""The client of a node's HTTP API, for commands and scripts.

It stands on `http.client` alone, so that a command starts fast. A failure that the daemon reports comes back as the error it was
there; a daemon that does not answer, or is none, is `DaemonUnreachable`.
"""

from .client import ApiClient, describe_version, not_ready
from .problems import error_of_problem
from .transport import API_DEFAULT, Reply, View

__all__ = ["ApiClient", "Reply", "View", "API_DEFAULT", "describe_version", "not_ready", "error_of_problem"]
