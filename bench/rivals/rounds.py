"""Everyone's turns, one at a time, in rounds; and what came of them."""

import sys
import time
from dataclasses import dataclass, field
from statistics import median

from contenders import Contender, Entry, Failed, Turn
from workload import TOKENS_PER_STEP


@dataclass
class Record:
    """Of one contender: the tokens per second of each round, or why there are none."""
    entry: Entry
    warm_up: int
    turns: list[Turn] = field(default_factory=list)
    failure: str | None = None

    def add(self, turn: Turn) -> None:
        self.turns.append(turn)

    @property
    def speeds(self) -> list[float]:
        return [TOKENS_PER_STEP * len(timed) / sum(line["step_time_s"] for line in timed)
                for timed in (turn.lines[self.warm_up:] for turn in self.turns)]

    @property
    def speed(self) -> float:
        return median(self.speeds)

    @property
    def peaks(self) -> list[int]:
        """The highest of all turns, of each rank."""
        return [max(ranks) for ranks in zip(*(sorted(turn.peaks) for turn in self.turns), strict=True)]

    @property
    def imports(self) -> list[int]:
        return self.turns[-1].imports

    @property
    def lines(self) -> list[dict]:
        return self.turns[-1].lines


def say(text: str) -> None:
    print(text, flush=True)


def attempt(record: Record, what: str, action) -> None:
    """A contender that fails stays in the tables, as failed, and gets no more turns."""
    begin = time.monotonic()
    try:
        action()
    except Failed as failure:
        record.failure = str(failure)
        say(f"  {record.entry}: FAILED: {failure}")
        return
    speed = f", {record.speeds[-1]:.0f} tokens/s" if record.turns else ""
    say(f"  {record.entry}: {what}, {time.monotonic() - begin:.1f} s{speed}")


def compete(contenders: dict[Entry, Contender], rounds: int, steps: int, warm_up: int) -> list[Record]:
    """Every round goes through the contenders in the opposite direction to the one before, so that a drift of the machine evens out."""
    records = {entry: Record(entry, warm_up) for entry in contenders}
    say("Starting; a first turn that does not count also compiles.")
    for entry, contender in contenders.items():
        attempt(records[entry], "ready", lambda c=contender: prepare(c, warm_up))
    for r in range(rounds):
        say(f"Round {r + 1} of {rounds}")
        for entry in list(contenders)[:: 1 if r % 2 == 0 else -1]:
            record = records[entry]
            if record.failure is None:
                attempt(record, "turn", lambda c=contenders[entry], to=record: to.add(c.turn(warm_up + steps)))
    return list(records.values())


def prepare(contender: Contender, warm_up: int) -> None:
    contender.start()
    contender.turn(max(1, warm_up))


def failures(records: list[Record]) -> bool:
    return any(record.failure is not None for record in records)


def close(contenders: dict[Entry, Contender]) -> None:
    for entry, contender in contenders.items():
        try:
            contender.close()
        except OSError as error:
            print(f"{entry}: {error}", file=sys.stderr)
