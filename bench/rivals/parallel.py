"""Two data-parallel ranks beside DistributedDataParallel, four pipeline ranks beside torch.distributed.pipelining; both over gloo."""

import measure
from contenders import Entry
from workload import Layout

LAYOUTS = {"data": Layout(micro_batch=2, data=2, threads=1), "pipeline": Layout(micro_batch=2, pipeline=4, threads=1)}
MODELS = {"data": "exits", "pipeline": "dense"}  # a stage of torch.distributed.pipelining has no loss but the last


def main() -> bool:
    p = measure.parser(__doc__, rounds=4, steps=2)
    p.add_argument("--layouts", nargs="+", choices=tuple(LAYOUTS), default=list(LAYOUTS), help="data, pipeline or both (both)")
    options = measure.parse(p)
    entries = [Entry(program, precision, MODELS[layout], LAYOUTS[layout])
               for layout in options.layouts for precision in options.precisions for program in options.contenders]
    return measure.measure("parallel", entries, options)


if __name__ == "__main__":
    measure.finish(main)
