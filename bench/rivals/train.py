"""Training in one process, beside PyTorch: eager and compiled, fp32 and bf16 autocast, with and without exits."""

import measure
from contenders import Entry
from workload import MODELS, SEQUENCE, Layout


def main() -> bool:
    p = measure.parser(__doc__, rounds=4, steps=2)
    p.add_argument("--models", nargs="+", choices=tuple(MODELS), default=list(MODELS), help="with two exits, without, or both (both)")
    p.add_argument("--threads", type=int, default=2, help="of each contender (2)")
    options = measure.parse(p)
    layout = Layout(threads=options.threads)
    measure.floors(layout.threads, layout.micro_batch * SEQUENCE, options.models[0])
    entries = [Entry(program, precision, model, layout)
               for model in options.models for precision in options.precisions for program in options.contenders]
    return measure.measure("train", entries, options)


if __name__ == "__main__":
    measure.finish(main)
