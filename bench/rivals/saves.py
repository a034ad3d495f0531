"""What saving costs: first one rank's writes beside plain ones (build/bench/bench_saves), then how much longer training takes.

One job, one process, saves every two windows of steps: each window with a save in it stands beside the one without that follows. The time
of a window goes from the line of metrics.jsonl before it to its last one, so the copy and whatever else holds training up is in it.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time

from workload import ROOT, Layout, Workload


def arrivals(path, process):
    """When each step's line came, by a clock that looks every 5 ms."""
    times, seen = [], 0
    while process.poll() is None or path.read_bytes().count(b"\n") > seen:
        lines = path.read_bytes().count(b"\n") if path.exists() else 0
        times += [time.monotonic()] * (lines - seen)
        seen = lines
        time.sleep(0.005)
    return times


def main() -> bool:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--steps", type=int, default=50, help="of a window (50)")
    p.add_argument("--pairs", type=int, default=4, help="of windows with and without a save (4)")
    p.add_argument("--threads", type=int, default=2)
    options = p.parse_args()
    print(f"load {os.getloadavg()[0]:.2f}", flush=True)
    steps = options.steps * 2 * options.pairs + 2 * options.steps
    folder = ROOT / "runs" / "bench" / "saves"
    work = Workload(folder, steps)
    subprocess.run([ROOT / "build" / "bench" / "bench_saves", folder], check=True)
    config = work.config("exits", "fp32", Layout(threads=options.threads), steps)
    config["checkpoint"] = {"directory": str(folder / "checkpoints"), "interval": 2 * options.steps, "keep": 1}
    config["logging"]["directory"] = str(folder / "log")
    (folder / "job.yaml").write_text(json.dumps(config))
    with open(folder / "output.txt", "w") as output:
        process = subprocess.Popen([os.environ["OFFRAMP_BINARY"], "train", folder / "job.yaml"], stdout=output, stderr=output)
        times = arrivals(folder / "log" / "metrics.jsonl", process)
    if process.returncode != 0:
        print((folder / "output.txt").read_text())
        return False
    # After steps 2w, 4w, ... a save begins: windows 3, 5, ... of w steps have one in them, those that follow have none.
    window = [times[k * options.steps + options.steps - 1] - times[k * options.steps - 1] for k in range(1, 2 * options.pairs + 2)]
    more = [(window[k] - window[k + 1]) / window[k + 1] for k in range(1, 2 * options.pairs, 2)]
    for k in range(1, 2 * options.pairs, 2):
        print(f"{options.steps} steps with a save {window[k]:8.2f} s, without {window[k + 1]:8.2f} s: {100 * more[k // 2]:+.2f} %")
    share = 100 * statistics.median(more)
    print(f"a save every {options.steps} steps takes {share:+.2f} % of the time (median of {options.pairs} pairs), "
          f"every 50 steps {share * options.steps / 50:+.2f} %")
    return True


if __name__ == "__main__":
    sys.exit(0 if main() else 1)
