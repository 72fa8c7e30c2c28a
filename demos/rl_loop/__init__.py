"""An asynchronous RL loop on this machine's CPU: one trainer, two samplers, each a host with a shardcast-node of its own.

    make demo-rl            or            python -m demos.rl_loop

The trainer publishes its weights after every step, the samplers hot-load them between two batches, and every rollout carries the digest of
the version that made it. Hosts share no files: weights go from node to node, rollouts by HTTP. `run` starts and watches it all, `trainer`
and `sampler` are the two programs, `hosts` their nodes; `task` is what is learnt and `policy` what learns it; `rollouts` is what goes over
the wire and `intake` the trainer's end of it; `report` says what came out.
"""
