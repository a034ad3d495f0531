"""Tables of what the rounds brought: speeds, ratios, memory, and whether all computed the same."""

from statistics import median

from rounds import Record
from workload import flops_per_token

# Relative. fp32: what other orders of sums leave, with room. bf16: autocast rounds elsewhere than Offramp does,
# each time by up to 2^-9.
TOLERANCE = {"fp32": 1e-4, "bf16": 2.0**-6}
MIB = 1 << 20


def table(head: list[str], rows: list[list[str]]) -> str:
    """Markdown whose columns line up: the first to the left, numbers to the right."""
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]

    def line(cells):
        return "| " + " | ".join(c.ljust(w) if i == 0 else c.rjust(w) for i, (c, w) in enumerate(zip(cells, widths, strict=True))) + " |"

    rule = "|" + "|".join("-" * (w + 2) if i == 0 else "-" * (w + 1) + ":" for i, w in enumerate(widths)) + "|"
    return "\n".join([line(head), rule, *map(line, rows)])


def spread(values: list[float], digits: int) -> str:
    return f"{median(values):,.{digits}f} ({min(values):,.{digits}f}–{max(values):,.{digits}f})"


def paired(ours: Record | None, theirs: Record | None) -> list[float]:
    """Ratios of the speeds of each round."""
    if ours is None or theirs is None or ours.failure or theirs.failure:
        return []
    return [a / b for a, b in zip(ours.speeds, theirs.speeds, strict=True)]


def find(records: list[Record], **wanted) -> Record | None:
    return next((r for r in records if all(getattr(r.entry, k) == v for k, v in wanted.items())), None)


def row(record: Record, records: list[Record]) -> list[str]:
    e = record.entry
    name = [str(e)]
    if record.failure:
        return name + ["failed"] + [""] * 5
    ours = find(records, program="offramp", precision=e.precision, model=e.model, layout=e.layout)
    rival = e.program != "offramp" and ours is not None and not ours.failure
    total, imports = sum(record.peaks), sum(record.imports)
    return name + [spread(record.speeds, 0),
                   f"{ours.speed / record.speed:.2f}" if rival else "",
                   spread(paired(ours, record), 2) if rival else "",
                   f"{total // MIB:,}",
                   f"{(total - imports) // MIB:,}" if imports else "",
                   f"{sum(ours.peaks) / total:.2f}" if rival else ""]


def speeds(records: list[Record]) -> str:
    head = ["contender", "tokens/s", "Offramp is faster by", "of each round", "peak MiB", "less imports", "Offramp's share"]
    return table(head, [row(r, records) for r in records])


def cost_of_exits(records: list[Record]) -> str:
    """What two exits add to a step's time, beside what they add to its FLOPs."""
    share = flops_per_token("exits") / flops_per_token("dense") - 1
    rows = []
    for with_exits in (r for r in records if r.entry.model == "exits"):
        e = with_exits.entry
        ratios = paired(find(records, program=e.program, precision=e.precision, model="dense", layout=e.layout), with_exits)
        if ratios:
            rows.append([f"{e.program} {e.precision}", spread([100 * (r - 1) for r in ratios], 0), f"{100 * share:.0f}"])
    return table(["program", "more time, %", "more FLOPs, %"], rows) if rows else ""


def losses(line: dict) -> dict[str, float]:
    return {f"exit {layer}": loss for layer, loss in line["exit_losses"].items()} | {"final": line["final_loss"]}


def apart(a: Record, b: Record, values) -> float:
    """The largest relative difference over all steps of a turn."""
    return max(abs(x - y) / abs(y) for one, other in zip(a.lines, b.lines, strict=True)
               for x, y in zip(values(one), values(other), strict=True))


def reference(record: Record, records: list[Record]) -> Record | None:
    """Offramp in fp32, else whoever ran first: what losses are compared with."""
    ran = [r for r in records if not r.failure and (r.entry.model, r.entry.layout) == (record.entry.model, record.entry.layout)]
    return find(ran, program="offramp", precision="fp32") or next(iter(ran), None)


def agreement(records: list[Record]) -> tuple[str, bool]:
    """A table of losses after the last step of a turn, and whether all agree."""
    rows, all_agree = [], True
    for record in (r for r in records if not r.failure):
        base = reference(record, records)
        off, norms = apart(record, base, lambda line: losses(line).values()), apart(record, base, lambda line: [line["grad_norm"]])
        agrees = off <= max(TOLERANCE[record.entry.precision], TOLERANCE[base.entry.precision])
        all_agree &= agrees
        last = ", ".join(f"{loss:.5f}" for loss in losses(record.lines[-1]).values())
        rows.append([str(record.entry), last, f"{off:.1e}", f"{norms:.1e}",
                     "reference" if record is base else "yes" if agrees else "NO"])
    return table(["contender", "losses of the last step", "largest difference", "of norms", "agrees"], rows), all_agree


def failed(records: list[Record]) -> str:
    return "\n".join(f"FAILED: {r.entry}: {r.failure}" for r in records if r.failure)
