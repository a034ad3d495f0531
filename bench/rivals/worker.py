"""A rank of PyTorch that trains when told to.  python worker.py JOB, with RANK and WORLD_SIZE in the environment

Standard input: a number of steps a line, each time from the initial weights. Standard output: a JSON object a line, first
{"ready": true}, then of each turn: "lines", a step's losses, gradient norm and seconds each; "peak" and "imports" in bytes.
"""

import ctypes
import json
import os
import sys
import time

import torch
import trainers
from memory import forget_peak, status

IMPORTS = status("self", "VmRSS")


def return_freed_memory() -> None:
    """An idle rank should not keep from others what it has no use for."""
    ctypes.CDLL("libc.so.6").malloc_trim(0)


def turn(trainer, steps: int) -> dict:
    forget_peak()
    trainer.restart()
    lines = []
    for step in range(steps):
        begin = time.perf_counter()
        line = trainer.step(step)
        lines.append(line | {"step": step + 1, "step_time_s": time.perf_counter() - begin})
    return {"lines": lines, "peak": status("self", "VmHWM"), "imports": IMPORTS}


def main() -> None:
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # whatever libraries print is not an answer
    job = json.loads(sys.argv[1])
    torch.set_num_threads(job["layout"]["threads"])
    torch.manual_seed(0)
    trainer = trainers.make(job)
    print(json.dumps({"ready": True}), file=answers)
    for command in sys.stdin:
        print(json.dumps(turn(trainer, int(command))), file=answers)
        return_freed_memory()
    trainer.close()


if __name__ == "__main__":
    main()
