"""The weight-transfer backend for vLLM. Only vLLM imports this: it inherits from its classes.

One update is `start_weight_update`, `update_weights` with the directory, `finish_weight_update`; the reload works layer by layer into the
storages that are there, so that captured graphs stay valid. Releases in which the worker does the first and the last by itself hand a
`load_weights` to `receive_weights`; both are served.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

from vllm.distributed.weight_transfer.base import (
    WeightTransferEngine,
    WeightTransferInitInfo,
    WeightTransferUpdateInfo,
)

from .weights import iterate_weights

#: The greeting that the node sends; another backend refuses it, and so does another protocol.
PROTOCOL: Final = 1


@dataclass
class ShardcastInitInfo(WeightTransferInitInfo):
    """What the node greets with."""

    shardcast: int

    def __post_init__(self) -> None:
        """Refuse another protocol.

        Raises:
            ValueError: It is one.
        """
        if self.shardcast != PROTOCOL:
            raise ValueError(
                f"the node speaks protocol {self.shardcast}, this plugin {PROTOCOL}: install one release of both"
            )


@dataclass
class ShardcastUpdateInfo(WeightTransferUpdateInfo):
    """Which version to load.

    Attributes:
        path: Its directory, which this worker can read.
        version: What it is called.
        manifest: The digest of its manifest, `b3:HEX`.
    """

    path: str
    version: str
    manifest: str


class ShardcastWeightTransferEngine(WeightTransferEngine):
    """Loads a version's directory into the model of this worker."""

    init_info_cls = ShardcastInitInfo
    update_info_cls = ShardcastUpdateInfo

    def init_transfer_engine(self, init_info: ShardcastInitInfo) -> None:
        """Do nothing: what was to be agreed on is in the greeting."""

    def start_weight_update(self) -> None:
        """Begin to reload layer by layer."""
        from vllm.model_executor.model_loader.reload import initialize_layerwise_reload

        initialize_layerwise_reload(self.model)

    def receive_weights(
        self, update_info: ShardcastUpdateInfo, load_weights: Callable[[Iterator[tuple[str, Any]]], Any] | None = None
    ) -> None:
        """Load all tensors.

        Raises:
            ValueError: The directory holds none.
            OSError: It cannot be read.
        """
        load = self.model.load_weights if load_weights is None else load_weights
        load(iterate_weights(update_info.path))

    def finish_weight_update(self) -> None:
        """Work up what is left."""
        from vllm.model_executor.model_loader.reload import finalize_layerwise_reload

        finalize_layerwise_reload(self.model, self.model_config)

    def shutdown(self) -> None:
        """Let go of nothing."""

    @staticmethod
    def trainer_send_weights(iterator: Iterator[Any], trainer_args: Any) -> None:
        """Refuse: a trainer publishes to a channel instead.

        Raises:
            NotImplementedError: Always.
        """
        raise NotImplementedError("publish the checkpoint with shardcast publish, or shardcast.Publisher")
