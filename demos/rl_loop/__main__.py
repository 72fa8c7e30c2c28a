"""The command: `python -m demos.rl_loop`."""

from __future__ import annotations

import argparse
import json
import signal
import sys
from pathlib import Path


def main() -> int:
    """Run the loop as the command line says, and return the exit code."""
    options = _parser().parse_args()
    try:
        from .report import draw
        from .run import RunOptions, run_loop
    except ImportError as error:
        print(f"the loop needs torch: {error} (make torch, or pip install shardcast-node[demo])", file=sys.stderr)
        return 2
    from .hosts import HostFailed

    # the nodes are ended by whoever started them, also when that one is told to stop
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    wanted = RunOptions(
        steps=options.steps, max_off_policy_steps=options.max_off_policy_steps, kill=options.kill, seed=options.seed
    )
    if options.kill == "node" and wanted.node_returns_step > wanted.steps:
        print(f"{wanted.steps} steps are over before a killed node comes back: take more", file=sys.stderr)
        return 2

    def say(line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    try:
        report = run_loop(wanted, say)
    except HostFailed as error:
        say(f"the run failed: {error}")
        return 1
    except KeyboardInterrupt:
        say("stopped")
        return 130
    try:
        draw(report, options.png)
        say(f"curve: {options.png}")
    except ImportError as error:
        say(f"no curve was drawn: {error} (pip install shardcast-node[demo])")
    print(json.dumps(report.document()) if options.json else "\n".join(report.lines()))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m demos.rl_loop", description=sys.modules[__package__ or ""].__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--steps", type=_count, default=100, help="how many steps the trainer takes (100)")
    parser.add_argument(
        "--max-off-policy-steps", type=_count, default=4, help="rollouts of an older version are dropped (4)"
    )
    parser.add_argument(
        "--kill", choices=["sampler", "node"], help="what of one sampler's host gets a SIGKILL in mid-run"
    )
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--png", type=Path, default=Path(".demo/reward.png"), help="the curve (.demo/reward.png)")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of the summary")
    return parser


def _count(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 10_000:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1 to 10000")
    return int(text)


if __name__ == "__main__":
    raise SystemExit(main())
