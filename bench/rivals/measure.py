"""What bench/train and bench/parallel have in common: options, the way through a measurement, the end."""

import argparse
import os
import subprocess
import sys
from pathlib import Path

import machine
import report
from contenders import Entry, Failed, Offramp, contender, environment
from rounds import close, compete, failures, say
from workload import ROOT, Workload

PROGRAMS = ("offramp", "eager", "compiled")


def parser(description: str, rounds: int, steps: int) -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(description=description, allow_abbrev=False)
    p.add_argument("--rounds", type=int, default=rounds, help=f"turns of each contender ({rounds})")
    p.add_argument("--steps", type=int, default=steps, help=f"measured steps of a turn ({steps})")
    p.add_argument("--warm-up", type=int, default=1, help="steps before them that do not count (1)")
    p.add_argument("--precision", choices=("fp32", "bf16", "both"), default="both")
    p.add_argument("--contenders", nargs="+", choices=PROGRAMS, default=list(PROGRAMS), metavar="PROGRAM", help="of: " + " ".join(PROGRAMS))
    p.add_argument("--quick", action="store_true", help="one round of one step: does everything run, and agree?")
    return p


def parse(p: argparse.ArgumentParser) -> argparse.Namespace:
    options = p.parse_args()
    if options.quick:
        options.rounds = options.steps = 1
    if min(options.rounds, options.steps, options.warm_up + 1) < 1:
        p.error("--rounds and --steps are at least 1, --warm-up at least 0")
    options.precisions = ("fp32", "bf16") if options.precision == "both" else (options.precision,)
    return options


def products(threads: int) -> str:
    """What bench_products says, which is built beside the binary."""
    program = Path(os.environ["OFFRAMP_BINARY"]).parent / "bench" / "bench_products"
    if not program.exists():
        return f"not measured: {program.name} is not built (cmake -DOFFRAMP_BENCH=ON)"
    done = subprocess.run([program], env=environment(threads), capture_output=True, text=True)
    return done.stdout.rstrip() if done.returncode == 0 else f"FAILED: {program.name}: {done.stderr.strip()}"


def floors(threads: int, tokens: int, model: str) -> None:
    command = [sys.executable, str(Path(__file__).parent / "floors.py"), str(threads), str(tokens), model]
    say(f"\nFloors, {threads} threads. PyTorch's matrix products, {tokens} tokens at once:\n")
    say(subprocess.run(command, capture_output=True, text=True, check=True).stdout.rstrip())
    say(f"\nOfframp's products and attention:\n\n{products(threads)}")


def measure(name: str, entries: list[Entry], options: argparse.Namespace) -> bool:
    """Runs everything and prints all tables but the floors; whether nobody failed and all agree."""
    here = machine.describe()
    work = Workload(ROOT / "runs" / "bench" / name, options.warm_up + options.steps)
    for entry in {e.model: e for e in entries}.values():
        Offramp(Entry("offramp", "fp32", entry.model, type(entry.layout)()), work).export(work.initial(entry.model))
    contenders = {entry: contender(entry, work) for entry in entries}
    try:
        records = compete(contenders, options.rounds, options.steps, options.warm_up)
    finally:
        close(contenders)
    agreement, agree = report.agreement(records)
    say(f"\nLosses from the same weights on the same data, {options.warm_up + options.steps} steps:\n\n{agreement}")
    say(f"\n{here}")
    say(f"{options.rounds} rounds of {options.steps} steps after {options.warm_up}; medians (lowest–highest); peaks of ranks added up\n")
    for layout in dict.fromkeys(e.layout for e in entries):
        say(f"{layout}:\n\n{report.speeds([r for r in records if r.entry.layout == layout])}\n")
    if cost := report.cost_of_exits(records):
        say(f"{cost}\n")
    if failures(records):
        say(report.failed(records))
    if not agree:
        say("LOSSES DIFFER by more than rounding explains: the speeds compare different computations")
    return agree and not failures(records)


def finish(work) -> None:
    """Runs work() and ends the program with what it says: 0 when all is well."""
    try:
        sys.exit(0 if work() else 1)
    except Failed as failure:
        sys.exit(f"initial weights: {failure}")
