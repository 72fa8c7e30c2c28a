"""A fan-out on the simulator: 1 GiB from one origin to many nodes, beside the bound that no scheme can beat.

    .venv/bin/python benches/bench_fanout_sim.py [--nodes 8,32,256,1000] [--cases plain,churn,liars] [--seeds 1] [--json FILE]

Real machines on a virtual clock: seconds are the swarm's, wall seconds ours. The origin sends 200 Mbit/s, the others 50 to 400, and take
400; the round trip is 40 ms. All have joined before the publish, from which time runs; who joins later is timed from its own join.
`churn`: a tenth leaves (half of them without a word), a tenth joins. `liars`: a third of the nodes send garbage; the bound is that of the
swarm without them. Exit code 1: somebody who should have completed did not, or an honest node is refused at the end.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from _measure import commit, machine
from _sim_swarm import CASES, Row, Swarm

HEADS = (
    "case",
    "N",
    "T* s",
    "median s",
    "last s",
    "median/T*",
    "last/T*",
    "origin copies",
    "duplicates %",
    "control %",
    "messages/node/chunk",
    "neighbours max",
    "tree links max",
    "wall s",
)


def main() -> int:
    options = _options()
    rows: list[Row] = []
    for nodes in options.nodes:
        for case in options.cases:
            for seed in range(options.seeds):
                swarm = Swarm(nodes, chunks=options.chunks, seed=seed, check_every=options.check_every)
                rows.append(swarm.run(case))
                print(dataclasses.asdict(rows[-1]), file=sys.stderr, flush=True)
    print(_report(rows))
    if options.json:
        found = [dataclasses.asdict(row) for row in rows]
        options.json.write_text(json.dumps({"machine": machine(), "commit": commit(), "rows": found}, indent=2))
    return 1 if any(row.unfinished or row.honest_quarantined for row in rows) else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", type=_numbers, default=[8, 32, 256, 1000], help="(default 8,32,256,1000)")
    parser.add_argument("--cases", type=lambda text: text.split(","), default=list(CASES), help="(default all)")
    parser.add_argument("--seeds", type=int, default=1, help="runs of each (default 1)")
    parser.add_argument("--chunks", type=int, default=512, help="chunks of 2 MiB (default 512)")
    parser.add_argument("--check-every", type=int, default=1009, help="events between two checks (default 1009)")
    parser.add_argument("--json", type=Path, help="write every run to this file")
    return parser.parse_args()


def _numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


def _report(rows: list[Row]) -> str:
    lines = ["| " + " | ".join(HEADS) + " |", "|" + "---|" * len(HEADS)]
    for row in rows:
        ratios = f"{row.median_s / row.bound_s:.2f} | {row.last_s / row.bound_s:.2f}"
        lines.append(
            f"| {row.case} | {row.nodes} | {row.bound_s:.1f} | {row.median_s:.1f} | {row.last_s:.1f} | {ratios}"
            f" | {row.origin_copies:.2f} | {100 * row.duplicates:.2f} | {100 * row.control_share:.3f}"
            f" | {row.messages_per_node_chunk:.2f} | {row.neighbours_max} | {row.tree_links_max} | {row.wall_s:.1f} |"
        )
        if row.unfinished or row.honest_quarantined:
            lines.append(f"\n{row.unfinished} never completed, {row.honest_quarantined} honest refused\n")
    return "\n".join(lines)


if __name__ == "__main__":
    raise SystemExit(main())
