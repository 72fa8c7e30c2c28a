"""One node: everything wired together, and what its API may ask of it.

`node` is the life cycle, `desk` what the API may ask, `catalog` the views of versions, `publisher` the origin's part,
`housekeeping` what runs in the background.
"""

from __future__ import annotations

from .node import Node

__all__ = ["Node"]
