"""Who competes. A contender starts once, trains for a number of steps from the initial weights whenever it is its turn, and ends.

    c = contender(Entry("compiled", "bf16", "exits", Layout()), work)
    c.start()
    turn = c.turn(steps=4)
    c.close()
"""

import json
import os
import selectors
import shutil
import socket
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from memory import Watch
from workload import MODELS, Layout, Workload

LIMIT = 600  # seconds for a turn, compilation included


class Failed(Exception):
    """A contender could not do its part; the message says why."""


@dataclass
class Turn:
    lines: list[dict]  # of every step: losses, gradient norm, step_time_s
    peaks: list[int]   # bytes of every rank
    imports: list[int] = field(default_factory=list)  # of every rank, what its libraries take before there is a model


@dataclass(frozen=True)
class Entry:
    """What a contender runs."""
    program: str    # offramp, eager or compiled
    precision: str  # fp32 or bf16
    model: str      # exits or dense
    layout: Layout

    def __str__(self) -> str:
        return f"{self.program} {self.precision}, {MODELS[self.model]}"

    @property
    def file_name(self) -> str:
        return f"{self.program}_{self.precision}_{self.model}_{self.layout.data}x{self.layout.pipeline}"


def words(path: Path) -> list[str]:
    lines = [line.strip() for line in path.read_text(errors="replace").splitlines()]
    return [line for line in lines if line.strip("-")] or ["it ended without a word"]


def last_error(path: Path) -> str:
    """The line that says what went wrong in Python."""
    lines = words(path)
    return ([line for line in lines if "rror" in line] or lines)[-1][:300]


def environment(threads: int) -> dict:
    """The same for all: threads, and nothing else that would tell OpenMP how to use them."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("OMP_", "GOMP_", "KMP_", "MKL_"))}
    return kept | {"OMP_NUM_THREADS": str(threads)}


class Offramp:
    """A process, or mpirun, a turn."""

    def __init__(self, entry: Entry, work: Workload):
        self.entry, self.work, self.folder = entry, work, work.folder / entry.file_name

    def start(self) -> None:
        pass

    def run(self, steps: int, *options: str) -> list[int]:
        """Trains into self.folder; the peak of every rank."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        job = self.folder / "job.yaml"
        job.write_text(json.dumps(self.work.config(self.entry.model, self.entry.precision, self.entry.layout, steps)))
        ranks, output = self.entry.layout.ranks, self.folder / "output"
        command = [os.environ["OFFRAMP_BINARY"], "train", str(job), "--set", f"logging.directory={self.folder}", *options]
        if ranks > 1:
            command = ["mpirun", "-np", str(ranks), *command]
        with output.open("w") as log:
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                       env=environment(self.entry.layout.threads))
            with Watch(process.pid, "offramp") as watch:
                try:
                    status = process.wait(LIMIT)
                except subprocess.TimeoutExpired:
                    process.kill()
                    raise Failed(f"no end after {LIMIT} s") from None
        if status != 0:
            raise Failed(f"exit status {status}: {words(output)[0][:300]}")
        return list(watch.peaks.values())

    def export(self, to: Path) -> None:
        self.run(0, "--set", f"export.hf={to}")

    def turn(self, steps: int) -> Turn:
        peaks = self.run(steps)
        lines = [json.loads(line) for line in (self.folder / "metrics.jsonl").read_text().splitlines()]
        return Turn(lines, peaks)

    def close(self) -> None:
        pass


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Torch:
    """A process a rank, which wait while others have their turn."""

    def __init__(self, entry: Entry, work: Workload):
        self.entry, self.processes = entry, []
        self.output = work.folder / f"{entry.file_name}.output"
        self.job = work.rival(entry.model, entry.precision, entry.layout, entry.program == "compiled")

    def start(self) -> None:
        ranks = self.entry.layout.ranks
        meeting = {"WORLD_SIZE": str(ranks), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "GLOO_SOCKET_IFNAME": "lo"}
        command = [sys.executable, str(Path(__file__).parent / "worker.py"), self.job]
        with self.output.open("w") as log:
            for rank in range(ranks):
                self.processes.append(subprocess.Popen(
                    command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True,
                    env=environment(self.entry.layout.threads) | meeting | {"RANK": str(rank), "LOCAL_RANK": str(rank)}))
        self.answers(time.monotonic() + LIMIT)

    def answers(self, deadline: float) -> list[dict]:
        """A line of every rank, in the order of ranks. A rank that ends, or is late, fails all."""
        with selectors.DefaultSelector() as waiting:
            for rank, process in enumerate(self.processes):
                waiting.register(process.stdout, selectors.EVENT_READ, rank)
            answers = {}
            while len(answers) < len(self.processes):
                ready = waiting.select(max(0.0, deadline - time.monotonic()))
                if not ready:
                    raise Failed(f"no answer after {LIMIT} s")
                for key, _ in ready:
                    line = key.fileobj.readline()
                    if not line:
                        raise Failed(last_error(self.output))
                    answers[key.data] = json.loads(line)
                    waiting.unregister(key.fileobj)
        return [answers[rank] for rank in range(len(self.processes))]

    def turn(self, steps: int) -> Turn:
        try:
            for process in self.processes:
                process.stdin.write(f"{steps}\n")
                process.stdin.flush()
        except BrokenPipeError:
            raise Failed(last_error(self.output)) from None
        answers = self.answers(time.monotonic() + LIMIT)
        lines = [a["lines"] for a in answers]
        slowest = [max(line["step_time_s"] for line in of_step) for of_step in zip(*lines, strict=True)]
        merged = [line | {"step_time_s": seconds} for line, seconds in zip(lines[0], slowest, strict=True)]
        return Turn(merged, [a["peak"] for a in answers], [a["imports"] for a in answers])

    def close(self) -> None:
        for process in self.processes:
            process.stdin.close()
        for process in self.processes:
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self.processes = []


Contender = Offramp | Torch


def contender(entry: Entry, work: Workload) -> Contender:
    return (Offramp if entry.program == "offramp" else Torch)(entry, work)
