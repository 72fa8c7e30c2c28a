"""The plugin for vLLM: a weight-transfer backend called `shardcast`, which loads a verified version from the local disk.

vLLM calls `register` in each of its processes (entry point `vllm.general_plugins`), and makes the backend when it is started with

    vllm serve MODEL --weight-transfer-config '{"backend": "shardcast"}'

A vLLM without such backends can be given the extension of its workers instead, with `via=extension` in `--activate`:

    vllm serve MODEL --worker-extension-cls shardcast.vllm_plugin.worker.WorkerExtension

Importing this imports neither vllm nor torch.
"""

from __future__ import annotations

import logging
from typing import Final

BACKEND: Final = "shardcast"

_log = logging.getLogger("shardcast.vllm_plugin")


def register() -> None:
    """Tell vLLM of the backend; calling it again changes nothing."""
    try:
        from vllm.distributed.weight_transfer.factory import WeightTransferEngineFactory
    except ImportError as error:
        _log.info("this vLLM has no backends for weight transfer, so there is none called %s: %s", BACKEND, error)
        return
    try:
        WeightTransferEngineFactory.register_engine(
            BACKEND, "shardcast.vllm_plugin.transfer", "ShardcastWeightTransferEngine"
        )
    except ValueError as error:
        # each process calls every plugin, some of them twice
        _log.debug("%s", error)
