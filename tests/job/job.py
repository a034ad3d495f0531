"""Runs of the whole program in a scratch directory of their own: what the tests in this folder share.

    class Something(JobTest):
        def test_it(self):
            result = self.run_job(ranks=4, sets={"training.steps": 2})      # tiny model, pipeline 2 x data 2
            self.assert_ends(result, 0)

Every job has a time limit, after which its processes are killed and the test fails: nothing here hangs. OFFRAMP_PROGRAM names the
program.
"""
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import tempfile
import time
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[2]
PROGRAM = os.environ.get("OFFRAMP_PROGRAM", str(ROOT / "build" / "offramp"))
LIMIT_S = 120  # of one job, on a machine that is busy with others
FOREVER = 1_000_000  # steps of a job that a test ends

CONFIG = """
model: {architecture: llama, num_hidden_layers: 4, hidden_size: 16, intermediate_size: 24, num_attention_heads: 2, vocab_size: 257}
exits:
  - {layer: 1, head: norm, loss_weight: 0.25}
  - {layer: 3, head: mlp, loss_weight: 0.5}
parallel: {pipeline_parallel_size: 2}
training: {sequence_length: 16, micro_batch_size: 1, global_batch_size: 8, steps: 4, timeout_s: 60}
optimizer: {lr: 1.0e-3}
data: {train: data/tiny_train, validation: data/tiny_valid, shuffle: false}
export: {hf: out/hf}
logging: {directory: out, tensorboard: false}
"""
SAMPLE, STEP = 16, 8  # sequence_length, global_batch_size


def environment():
    """What launch/environment sets up for Open MPI, with this process's own variables."""
    command = ["sh", "-c", '. "$0" && env -0', str(ROOT / "launch" / "environment")]
    pairs = subprocess.run(command, check=True, capture_output=True).stdout.decode().split("\0")
    return dict(pair.split("=", 1) for pair in pairs if "=" in pair)


def alive(pid):
    try:
        state = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        return False
    return state not in "ZX"


def resident_bytes(pid):
    return int(pathlib.Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")


class Result:
    def __init__(self, status, output):
        self.status = status
        self.output = output
        # Without what mpirun adds of its own, which is framed by lines of dashes.
        self.said = re.sub(r"^-{60,}\n.*?^-{60,}\n", "", output, flags=re.M | re.S)


class Job:
    """A job that runs. `with` kills what is left of it."""

    def __init__(self, directory, ranks, arguments, preexec=None, env=None, output="output.txt"):
        launcher = ["mpirun", "-np", str(ranks)] if ranks > 1 else []
        self.directory, self.ranks, self.command = directory, ranks, launcher + [PROGRAM, *arguments]
        self.log = open(directory / output, "w+b")
        self.process = subprocess.Popen(
            self.command, cwd=directory, stdin=subprocess.DEVNULL, stdout=self.log, stderr=subprocess.STDOUT, env={**environment(), **(env or {})},
            preexec_fn=preexec, start_new_session=True)
        self.seen = {}

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for pid in [self.process.pid, *self.pids().values()]:
            if alive(pid):
                os.kill(pid, signal.SIGKILL)
        self.process.wait()
        self.log.close()

    def pids(self):
        """Process ids by rank; also of ranks that have ended since they were first asked for."""
        if self.ranks == 1:
            return {0: self.process.pid}
        for entry in pathlib.Path("/proc").iterdir():
            if not entry.name.isdigit():
                continue
            try:
                parent = (entry / "stat").read_text().rsplit(")", 1)[1].split()[1]
                if int(parent) != self.process.pid:
                    continue
                variables = (entry / "environ").read_bytes()
            except OSError:
                continue
            rank = re.search(rb"OMPI_COMM_WORLD_RANK=(\d+)", variables)
            if rank:
                self.seen[int(rank.group(1))] = int(entry.name)
        return self.seen

    def steps(self):
        return len(metrics(self.directory))

    def wait_for_step(self, step, limit_s=LIMIT_S):
        end = time.monotonic() + limit_s
        while self.steps() < step:
            if self.process.poll() is not None:
                raise AssertionError(f"the job ended with {self.process.returncode} before step {step}:\n{self.output()}")
            if time.monotonic() > end:
                raise AssertionError(f"no step {step} within {limit_s} s:\n{self.output()}")
            time.sleep(0.05)

    def output(self):
        self.log.seek(0)
        return self.log.read().decode(errors="replace").replace("\r", "")

    def result(self, limit_s=LIMIT_S):
        try:
            status = self.process.wait(limit_s)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"the job did not end within {limit_s} s: {' '.join(self.command)}\n{self.output()}") from None
        return Result(status, self.output())


def metrics(directory, logs="out"):
    try:
        lines = (directory / logs / "metrics.jsonl").read_text().splitlines()
    except FileNotFoundError:
        return []
    return [record for record in map(json.loads, lines) if "split" not in record]


class JobTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        """The text is this repository's own: any would do."""
        cls.shared = pathlib.Path(tempfile.mkdtemp(prefix="offramp-job-"))
        cls.addClassCleanup(shutil.rmtree, cls.shared)
        (cls.shared / "text").mkdir()
        text = (ROOT / "docs" / "design.md").read_text()
        for part in range(8):
            (cls.shared / "text" / f"{part}.txt").write_text(text[part * 1000:part * 1000 + 1000])
        subprocess.run([PROGRAM, "data", "build", "--input", "text", "--tokenizer", "bytes", "--output", "data/tiny",
                        "--validation-fraction", "0.25"], cwd=cls.shared, check=True, capture_output=True)

    def setUp(self):
        self.directory = pathlib.Path(tempfile.mkdtemp(prefix="offramp-job-"))
        self.addCleanup(shutil.rmtree, self.directory)
        shutil.copytree(self.shared / "data", self.directory / "data")
        (self.directory / "job.yaml").write_text(CONFIG)

    def arguments(self, ranks, sets):
        settings = {"parallel.pipeline_parallel_size": 2 if ranks % 2 == 0 else 1, **(sets or {})}
        return ["train", "job.yaml", *(word for key, value in settings.items() for word in ("--set", f"{key}={value}"))]

    def start_job(self, ranks=4, sets=None, **options):
        return Job(self.directory, ranks, self.arguments(ranks, sets), **options)

    def run_job(self, ranks=4, sets=None, arguments=None, limit_s=LIMIT_S, **options):
        with Job(self.directory, ranks, arguments or self.arguments(ranks, sets), **options) as job:
            return job.result(limit_s)

    def assert_ends(self, result, status, *said):
        """`said`: patterns, each in exactly one line of what the program said."""
        self.assertEqual(result.status, status, result.output)
        for pattern in said:
            found = [line for line in result.said.splitlines() if re.search(pattern, line)]
            self.assertEqual(len(found), 1, f"{pattern!r} in {len(found)} lines of:\n{result.output}")

    def assert_refused(self, result, status, pattern):
        """One line that says why, once, and nothing else; no step ran and nothing was exported."""
        self.assert_ends(result, status, pattern)
        self.assertEqual(len(result.said.strip().splitlines()), 1, result.output)
        self.assertEqual(metrics(self.directory), [])
        self.assertFalse((self.directory / "out" / "hf").exists())

    def assert_nothing_left(self, job, limit_s=10):
        end = time.monotonic() + limit_s
        while any(alive(pid) for pid in job.pids().values()):
            self.assertLess(time.monotonic(), end, f"ranks still run: {job.pids()}")
            time.sleep(0.05)
