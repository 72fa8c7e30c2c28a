"""The refusals of a hot-load, as far as they say more than that the old weights still serve.

What is read and is not what the manifest names is an `IntegrityError`, as everywhere.
"""

from __future__ import annotations

from typing import ClassVar

from shardcast_proto.errors import HotLoadError


class DoesNotFit(HotLoadError):
    """A version is not one of these tensors; nothing was written. `facts` has `missing`, `extra`, `shapes` and `dtypes` in full."""

    code: ClassVar[str] = "hot_load_does_not_fit"


class TornWeights(HotLoadError):
    """The live tensors are a mixture of two versions, and could not be restored. Nothing may be sampled from them.

    Another `load` and `commit` that succeeds overwrites all of them, and ends this.
    """

    code: ClassVar[str] = "hot_load_torn"
