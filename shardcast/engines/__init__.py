"""The engines: what samples from the weights, behind one port.

`port` is the contract; one adapter stands in each of `vllm`, `sglang`, `prime_rl`, `hook`, `webhook`, `symlink`. When what is activated is
decided in `follower`, which is pure; `shardcast.node.engine_runner` acts.
"""

from .build import make_engine
from .calls import EngineHttp, EngineReply
from .port import Capabilities, Effect, Engine, EngineFault, Health, Outcome, StagedVersion

__all__ = [
    "Capabilities",
    "Effect",
    "Engine",
    "EngineFault",
    "EngineHttp",
    "EngineReply",
    "Health",
    "Outcome",
    "StagedVersion",
    "make_engine",
]
