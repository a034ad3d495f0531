"""A run whose processes are killed over and over, ranks and launcher, at random moments: under launch/supervise it ends with the bits
of a run that nobody touched, and nothing is left of it but what a run leaves.

OFFRAMP_KILLS and OFFRAMP_SEED set how many kills, and which. The moments: some while ranks start, load or verify, the others around
a step. Saves follow each other so closely that many a kill falls into one.
"""
import json
import os
import pathlib
import random
import re
import signal
import statistics
import subprocess
import time
import unittest
import uuid

from job import CONFIG, PROGRAM, ROOT, JobTest, alive, environment, metrics

KILLS = int(os.environ.get("OFFRAMP_KILLS", 5))
SEED = int(os.environ.get("OFFRAMP_SEED", 1))
RANKS = 4
STEPS_A_KILL, INTERVAL, KEEP = 40, 3, 3
IDLE_S = 120  # without a step or a restart, on a machine that is busy with others
EARLY, START_S = 0.3, 3.0  # part of the kills before the first step, and the span within which their moments are drawn
LATER, SPAN = 12, 6.0  # the others: steps from the start, and step times beyond the end of the last one
MARK = "OFFRAMP_KILLS_RUN"  # in the environment of all processes of one run


class Processes:
    """Those that bear a mark: the launcher as "mpirun", and ranks by number."""

    def __init__(self, mark):
        self.mark = f"{MARK}={mark}".encode()

    def all(self):
        found = {}
        for entry in pathlib.Path("/proc").iterdir():
            if not entry.name.isdigit() or not alive(entry.name):
                continue
            try:
                variables = (entry / "environ").read_bytes().split(b"\0")
                name = (entry / "comm").read_text().strip()
            except OSError:
                continue
            if self.mark in variables:
                found[int(entry.name)] = (name, dict(v.split(b"=", 1) for v in variables if b"=" in v))
        return found

    def job(self):
        job = {}
        for pid, (name, variables) in sorted(self.all().items()):
            if name in ("mpirun", "orterun"):
                job.setdefault("mpirun", pid)
            elif b"OMPI_COMM_WORLD_RANK" in variables:
                job[int(variables[b"OMPI_COMM_WORLD_RANK"])] = pid
        return job


class Kills(JobTest):
    def setUp(self):
        super().setUp()
        steps = KILLS * STEPS_A_KILL + 2 * INTERVAL
        config = re.sub(r"steps: 4, timeout_s: 60", f"steps: {steps}, timeout_s: 60", CONFIG)
        (self.directory / "job.yaml").write_text(config + f"checkpoint: {{directory: out/checkpoints, interval: {INTERVAL}, keep: {KEEP}}}\n")
        self.random = random.Random(SEED)
        self.mark = uuid.uuid4().hex
        self.processes = Processes(self.mark)

    def records(self, directory):
        """The last line of each step, and how many lines are torn: a resumed run ends them and goes on below."""
        last, torn = {}, 0
        for line in (directory / "metrics.jsonl").read_text().splitlines():
            try:
                record = json.loads(line)
            except ValueError:
                torn += 1
                continue
            kept = {key: record.get(key) for key in ("loss", "final_loss", "exit_losses", "lr", "grad_norm", "tokens", "final_accuracy")}
            last[record["step"], record.get("split"), record.get("set")] = kept
        return last, torn

    def last_step(self):
        path = self.directory / "out" / "metrics.jsonl"
        tail = path.read_bytes()[-4000:] if path.exists() else b""
        steps = re.findall(rb'^\{"step":(\d+),"loss"', tail, re.M)
        return int(steps[-1]) if steps else 0

    def export(self):
        return {path.name: path.read_bytes() for path in sorted((self.directory / "out" / "hf").iterdir())}

    def start(self):
        command = [str(ROOT / "launch" / "supervise"), "--failures", str(KILLS + 1), "--pause", "0.1", "--", "mpirun", "-np", str(RANKS), PROGRAM,
                   *self.arguments(RANKS, None)]
        self.log = open(self.directory / "output.txt", "w+b")
        self.addCleanup(self.log.close)
        process = subprocess.Popen(command, cwd=self.directory, stdin=subprocess.DEVNULL, stdout=self.log, stderr=subprocess.STDOUT,
                                   env={**environment(), MARK: self.mark}, start_new_session=True)
        self.addCleanup(self.end, process)
        return process

    def end(self, process):
        process.kill()
        process.wait()
        for pid in self.processes.all():
            if alive(pid):
                os.kill(pid, signal.SIGKILL)

    def said(self):
        self.log.seek(0)
        return self.log.read().decode(errors="replace")[-20_000:]

    def wait_for(self, process, what, condition, limit_s=float("inf")):
        """What the condition returns as soon as that is something; None when the supervisor has ended or so much time has passed."""
        start = moved = time.monotonic()
        before = None
        while not (found := condition()):
            now = time.monotonic()
            if process.poll() is not None or now > start + limit_s:
                return None
            if (signs := (self.last_step(), os.fstat(self.log.fileno()).st_size)) != before:
                moved, before = now, signs
            self.assertLess(now, moved + IDLE_S, f"{what}: nothing moves for {IDLE_S} s\n{self.said()}")
            time.sleep(0.005)
        return found

    def new_job(self, past):
        job = self.processes.job()
        return job if job.get("mpirun", 0) not in {0, *past} else None

    def kill_one(self, process, past):
        """Kills a process of a job whose launcher is not among `past`; that launcher, or None when the supervisor has ended."""
        begun = self.last_step()
        job = self.wait_for(process, "start", lambda: self.new_job(past))
        if not job:
            return None
        # A resumed job logs steps again that were logged before: what counts is how far it is from there.
        if self.random.random() < EARLY:
            self.wait_for(process, "start", lambda: self.last_step() != begun, self.random.random() * START_S)
        else:
            target = self.random.randrange(1, LATER)
            self.wait_for(process, "steps", lambda: abs(self.last_step() - begun) >= target)
            time.sleep(self.random.random() * SPAN * self.step_s)
        victims = self.processes.job()
        if victims and self.kill(self.random.choice(sorted(victims, key=str)), victims):
            return victims.get("mpirun", job["mpirun"])
        return job["mpirun"]

    def kill(self, victim, victims):
        try:
            os.kill(victims[victim], signal.SIGKILL)
        except ProcessLookupError:
            return False
        self.killed.append((victim, self.last_step()))
        return True

    def test_a_run_that_is_killed_over_and_over(self):
        self.assert_ends(self.run_job(ranks=RANKS, limit_s=120 + KILLS * 10), 0)
        self.step_s = statistics.median(record["step_time_s"] for record in metrics(self.directory))
        (self.directory / "out").rename(self.directory / "undisturbed")
        self.killed, past = [], set()
        process = self.start()
        while len(self.killed) < KILLS and (launcher := self.kill_one(process, past)):
            past.add(launcher)
        self.wait_for(process, "end", lambda: process.poll() is not None)
        print(f"seed {SEED}: {len(self.killed)} kills; the victims and the last step before:", *(f"{v}@{s}" for v, s in self.killed), flush=True)
        self.assertEqual(process.returncode, 0, self.said())
        self.assertEqual(len(self.killed), KILLS, "the run was over before")
        self.assert_as_undisturbed()

    def assert_as_undisturbed(self):
        killed = self.export()
        metrics, torn = self.records(self.directory / "out")
        self.assertLessEqual(torn, KILLS)
        self.assertEqual({path.name for path in (self.directory / "undisturbed").iterdir()}, {path.name for path in (self.directory / "out").iterdir()})
        kept = sorted(path.name for path in (self.directory / "out" / "checkpoints").iterdir())
        self.assertEqual(kept, sorted(path.name for path in (self.directory / "undisturbed" / "checkpoints").iterdir()))
        self.assertEqual(self.processes.all(), {})
        (self.directory / "out").rename(self.directory / "killed")
        (self.directory / "undisturbed").rename(self.directory / "out")
        self.assertEqual(self.records(self.directory / "out"), (metrics, 0))
        undisturbed = self.export()
        self.assertEqual(killed.keys(), undisturbed.keys())
        for name in undisturbed:
            self.assertTrue(killed[name] == undisturbed[name], f"{name} differs")


if __name__ == "__main__":
    unittest.main()
