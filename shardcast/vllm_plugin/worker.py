"""The extension of vLLM's workers, for releases without weight-transfer backends: one method that the node calls by name."""

from __future__ import annotations

from typing import Any

from .weights import iterate_weights


class WorkerExtension:
    """Mixed into vLLM's worker class by `--worker-extension-cls`."""

    #: The worker's own.
    model_runner: Any
    device: Any

    def shardcast_load(self, path: str, manifest: str) -> str:
        """Load a version's directory into the model; return its digest.

        Raises:
            ValueError: The directory holds no weights.
            OSError: It cannot be read.
        """
        model = self.model_runner.model
        try:
            from vllm.model_executor.model_loader.reload import finalize_layerwise_reload, initialize_layerwise_reload
        except ImportError:
            # before there was a reload by layers, weights went in by the loader that they came with at the start
            model.load_weights(iterate_weights(path))
            return manifest
        with self.device:
            initialize_layerwise_reload(model)
            model.load_weights(iterate_weights(path))
            finalize_layerwise_reload(model, self.model_runner.vllm_config.model_config)
        return manifest
