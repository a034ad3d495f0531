"""What PyTorch's matrix products alone would allow: each shape of the model, forward and both gradients, at its fastest.

    python floors.py THREADS TOKENS MODEL     # a table; TOKENS go through a product at once
"""

import sys
import time

import torch
from report import table
from workload import flops_per_token, matrix_shapes

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16}


def fastest(work, seconds: float = 0.25) -> float:
    """What else the machine does in between does not count."""
    work()
    best, begin = float("inf"), time.perf_counter()
    while time.perf_counter() - begin < seconds:
        before = time.perf_counter()
        work()
        best = min(best, time.perf_counter() - before)
    return best


def product_times(tokens: int, inputs: int, outputs: int, kind: torch.dtype) -> list[float]:
    """Seconds of y = x w', dx = dy w, dw = dy' x."""
    x, w, dy = (torch.randn(shape).to(kind) for shape in ((tokens, inputs), (outputs, inputs), (tokens, outputs)))
    return [fastest(lambda: x @ w.T), fastest(lambda: dy @ w), fastest(lambda: dy.T @ x)]


def main(threads: int, tokens: int, model: str) -> None:
    torch.set_num_threads(threads)
    rows, per_token = [], dict.fromkeys(PRECISIONS, 0.0)
    for name, inputs, outputs, count in matrix_shapes(model):
        cells, gflop = [], 2e-9 * tokens * inputs * outputs
        for precision, kind in PRECISIONS.items():
            times = product_times(tokens, inputs, outputs, kind)
            per_token[precision] += count * sum(times) / tokens
            cells += [f"{gflop / t:,.0f}" for t in times]
        rows.append([f"{name}: {inputs} to {outputs}", *cells])
    print(table(["GFLOP/s", *(f"{p} {d}" for p in PRECISIONS for d in ("forward", "dx", "dw"))], rows))
    for precision, seconds in per_token.items():
        print(f"{precision}: {1 / seconds:,.0f} tokens/s if a step were these products and nothing else")
    print(f"A token takes {flops_per_token(model) / 1e6:,.0f} MFLOP, causal attention included")


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
