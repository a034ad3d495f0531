"""What `offramp plan --cluster measured` predicts beside what training takes, by schedule and place of exits, over two pipeline ranks of a
thread each: an exit in the middle of each rank, or both on the first, where heads are whole or split over the ranks. Variants take turns; a
turn trains some steps, profiles them and plans the same job right after, so that prediction and measurement see the same machine. Exit
status 0: every step is within 15 % of its plan, and where two plans differ by more than 5 % the shorter one was measured shorter too.
"""

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
from itertools import combinations
from typing import NamedTuple

from workload import ROOT, Layout, Workload


class Variant(NamedTuple):
    schedule: str
    placement: str
    layers: tuple[int, int] = (2, 6)  # the exits': in the middle of each stage
    heads: str = "whole"

    def __str__(self) -> str:
        return f"{self.schedule:<11} {self.placement:<15} {'{}, {}'.format(*self.layers)}  {self.heads}"


VARIANTS = [Variant(schedule, placement)
            for schedule in ("gpipe", "1f1b", "zero_bubble") for placement in ("after_forward", "before_backward")]
VARIANTS += [Variant("auto", "auto")]
VARIANTS += [Variant("zero_bubble", "after_forward", (1, 2), heads) for heads in ("whole", "split")]
LAYOUT = Layout(micro_batch=2, pipeline=2, threads=1)
WITHIN, APART = 0.15, 0.05


def run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": str(LAYOUT.threads)})
    if done.returncode != 0:
        sys.exit(f"{' '.join(map(str, command))}: exit status {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout


def turn(work: Workload, variant: Variant, options) -> tuple[float, float, str]:
    """Predicted and measured seconds of a step, and the table by kind of work."""
    folder = work.folder / "_".join(str(variant).replace(",", "").split())
    folder.mkdir(exist_ok=True)
    steps = options.warm_up + options.steps
    config = work.config("dense", options.precision, LAYOUT, steps)
    config["exits"] = [{"layer": layer, "head": "norm", "loss_weight": 0.5} for layer in variant.layers]
    config["parallel"] |= {"schedule": variant.schedule, "exit_placement": variant.placement,
                           "shard_heads_over_pipeline": variant.heads == "split"}
    config["logging"] |= {"directory": str(folder), "profile_steps": [options.warm_up + 1, steps]}
    job = folder / "job.yaml"
    job.write_text(json.dumps(config))
    run("mpirun", "-np", str(LAYOUT.ranks), os.environ["OFFRAMP_BINARY"], "train", job)
    table = run(os.environ["OFFRAMP_BINARY"], "plan", job, "--ranks", str(LAYOUT.ranks), "--cluster", "measured",
                "--compare", folder / "trace.json")
    predicted, measured = map(float, re.search(r"^ +step +([\d.]+) +([\d.]+)", table, re.MULTILINE).groups())
    return predicted / 1e3, measured / 1e3, table


def main() -> bool:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--rounds", type=int, default=3)
    p.add_argument("--warm-up", type=int, default=1)
    p.add_argument("--steps", type=int, default=3, help="that are measured, a turn (3)")
    p.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    p.add_argument("--tables", action="store_true", help="also what kinds of work took, of every variant's last turn")
    options = p.parse_args()
    print(f"load {os.getloadavg()[0]:.2f}", flush=True)
    work = Workload(ROOT / "runs" / "bench" / "plans", options.warm_up + options.steps)
    turns = {variant: [] for variant in VARIANTS}
    for r in range(options.rounds):
        for variant in VARIANTS if r % 2 == 0 else reversed(VARIANTS):
            turns[variant].append(turn(work, variant, options))
    if options.tables:
        for variant in VARIANTS:
            print(f"\n{variant}\n{turns[variant][-1][2]}")
    predicted, measured = ({v: statistics.median(t[i] for t in turns[v]) for v in VARIANTS} for i in (0, 1))
    print("| schedule    exits           after heads | predicted | measured | ratio |\n"
          "|-----------------------------------------|----------:|---------:|------:|")
    for v in VARIANTS:
        print(f"| {v!s:<39} | {predicted[v]:>9.3f} | {measured[v]:>8.3f} | {measured[v] / predicted[v]:>5.3f} |")
    far = [v for v in VARIANTS if abs(measured[v] / predicted[v] - 1) > WITHIN]
    pairs = [sorted(pair, key=predicted.get) for pair in combinations(VARIANTS, 2)]
    wide = [(a, b) for a, b in pairs if predicted[b] > (1 + APART) * predicted[a]]
    turned = [(a, b) for a, b in wide if measured[b] <= measured[a]]
    print(f"{len(VARIANTS) - len(far)} of {len(VARIANTS)} steps are within {WITHIN:.0%}; of {len(wide)} pairs that are predicted more than "
          f"{APART:.0%} apart, {len(wide) - len(turned)} were measured in this order")
    for a, b in turned:
        print(f"  not {a} before {b}")
    return not far and not turned


if __name__ == "__main__":
    sys.exit(0 if main() else 1)
