"""launch/supervise over a command that dies as it is told: what it restarts, how, how often, and what it leaves."""
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import unittest

from job import ROOT, alive

# A job that, in its n-th life, does what the n-th entry of lives.json says, and notes its arguments and process number.
COMMAND = r'''
import json, os, pathlib, signal, subprocess, sys, time
if "--print-config" in sys.argv:
    print('checkpoint:\n  directory: "the checkpoints"\n  interval: 1\nlogging:\n  interval: 1\n  directory: logs\n  tensorboard: true')
    open("asked.txt", "a").write("x")
    sys.exit(int(os.environ.get("FAIL", 0)))
lives = pathlib.Path("lives.txt")
n = len(lives.read_text().splitlines()) if lives.exists() else 0
life = json.loads(pathlib.Path("lives.json").read_text())[n]
if "handle" in life:
    def handle(number, frame):
        pathlib.Path("handled.txt").open("a").write(signal.Signals(number).name + "\n")
        if life["handle"] is not None: os._exit(life["handle"])
    for s in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT): signal.signal(s, handle)
child = subprocess.Popen(["sleep", "1000"], start_new_session=False).pid if "child" in life else None
with lives.open("a") as file:
    file.write(json.dumps({"pid": os.getpid(), "child": child, "argv": sys.argv[1:], "time": time.time()}) + "\n")
pathlib.Path("logs").mkdir(exist_ok=True)
with open("logs/metrics.jsonl", "a") as log:
    for step in life.get("steps", []):
        log.write('{"step":%d,"loss":1.0}\n' % step)
    log.write(life.get("torn", ""))
for step in life.get("checkpoints", []):
    directory = pathlib.Path("the checkpoints") / f"step-{step}"
    directory.mkdir(parents=True)
    if "incomplete" not in life: (directory / "manifest.json").write_text("{}")
if "wait" in life: time.sleep(1000)
if "signal" in life: os.kill(os.getpid(), life["signal"])
sys.exit(life.get("exit", 0))
'''


class Supervise(unittest.TestCase):
    def setUp(self):
        self.directory = pathlib.Path(tempfile.mkdtemp(prefix="offramp-job-"))
        self.addCleanup(shutil.rmtree, self.directory)
        (self.directory / "job.py").write_text(COMMAND)

    def start(self, lives, *arguments, options=("--pause", "0.01"), env=None):
        (self.directory / "lives.json").write_text(json.dumps(lives))
        command = [str(ROOT / "launch" / "supervise"), *options, "--", sys.executable, "job.py", "train", "job.yaml", *arguments]
        process = subprocess.Popen(command, cwd=self.directory, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                                   text=True, env={**os.environ, **(env or {})}, start_new_session=True)
        self.addCleanup(lambda: (process.kill(), process.wait(), process.stdout.close()))
        return process

    def finish(self, process):
        self.said = process.communicate(timeout=60)[0]
        return process.returncode

    def run_lives(self, lives, *arguments, **options):
        return self.finish(self.start(lives, *arguments, **options))

    def lives(self):
        path = self.directory / "lives.txt"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def wait_for(self, condition):
        end = time.monotonic() + 20
        while not condition():
            self.assertLess(time.monotonic(), end)
            time.sleep(0.02)

    def assert_nothing_left(self):
        for life in self.lives():
            for pid in filter(None, (life["pid"], life["child"])):
                self.assertFalse(alive(pid), life)

    def test_restarts_what_a_signal_ended(self):
        deaths = [{"signal": signal.SIGKILL}, {"exit": 137}, {"exit": 75}, {"exit": 7}, {"exit": 1}, {"signal": signal.SIGSEGV}]
        lives = [{"checkpoints": [n], **death} for n, death in enumerate(deaths)] + [{"exit": 0}]
        self.assertEqual(self.run_lives(lives, "--set", "a=b c"), 0)
        arguments = [life["argv"] for life in self.lives()]
        self.assertEqual(arguments[0], ["train", "job.yaml", "--set", "a=b c"])
        self.assertEqual(arguments[1:], [["train", "job.yaml", "--set", "a=b c", "--resume", "auto"]] * len(deaths))
        self.assertIn("the job died (signal 9) after step 0; it starts again in 0.01 s", self.said)
        self.assertIn("exit code 75", self.said)

    def test_does_not_restart_what_would_fail_again(self):
        for code in (0, 2, 3, 4, 5, 6, 127):
            with self.subTest(code):
                self.setUp()
                self.assertEqual(self.run_lives([{"exit": code}]), code)
                self.assertEqual(len(self.lives()), 1)

    def test_a_configuration_that_is_wrong(self):
        self.assertEqual(self.run_lives([{}], env={"FAIL": "2"}), 2)
        self.assertEqual(self.lives(), [])

    def test_killed_before_the_job_begins(self):
        self.assertEqual(self.run_lives([{}], env={"FAIL": "137"}), 137)
        self.assertEqual((self.directory / "asked.txt").read_text(), "xxx")

    def test_resume_that_the_user_gave(self):
        for given, later in ((["--resume", "auto"], ["--resume", "auto"]), (["--resume=auto"], ["--resume=auto"])):
            with self.subTest(given):
                self.setUp()
                self.assertEqual(self.run_lives([{"exit": 137}, {"exit": 0}], *given, "--set", "a=b"), 0)
                self.assertEqual([life["argv"] for life in self.lives()],
                                 [["train", "job.yaml", *given, "--set", "a=b"], ["train", "job.yaml", *later, "--set", "a=b"]])

    def test_a_checkpoint_that_the_user_named_counts_until_there_is_one(self):
        lives = [{"exit": 137}, {"exit": 137, "checkpoints": [7]}, {"exit": 0}]
        self.assertEqual(self.run_lives(lives, "--resume", "other/step-5", "--set", "a=b"), 0)
        named = ["train", "job.yaml", "--resume", "other/step-5", "--set", "a=b"]
        self.assertEqual([life["argv"] for life in self.lives()],
                         [named, named, ["train", "job.yaml", "--set", "a=b", "--resume", "auto"]])

    def test_gives_up_without_progress(self):
        self.assertEqual(self.run_lives([{"exit": 137}] * 9), 137)
        self.assertEqual(len(self.lives()), 3)
        self.assertIn("giving up after 3 failures without progress", self.said)

    def test_failures_in_a_row(self):
        dies = {"exit": 137}
        lives = [{**dies, "steps": [1, 2]}, dies, {**dies, "steps": [1, 2]}, {**dies, "steps": [3]}, {**dies, "steps": [2, 3]},
                 {**dies, "checkpoints": [4], "incomplete": True}, {**dies, "exit": 139}, {"exit": 0}]
        self.assertEqual(self.run_lives(lives, options=("--failures", "3", "--pause", "0.01")), 139)
        self.assertEqual(len(self.lives()), 7)
        self.assertIn("after step 3; it starts again", self.said)

    def test_a_new_checkpoint_is_progress(self):
        lives = [{"exit": 137, "checkpoints": [step]} for step in (1, 9, 10, 11)] + [{"exit": 0}]
        self.assertEqual(self.run_lives(lives, options=("--failures", "1", "--pause", "0")), 0)

    def test_what_earlier_runs_logged_is_none(self):
        (self.directory / "logs").mkdir()
        (self.directory / "logs" / "metrics.jsonl").write_text('{"step":100}\n{"step":101,"lo')
        lives = [{"exit": 137, "steps": [1], "torn": '{"step":'}, {"exit": 137, "steps": []}, {"exit": 137, "steps": [1]}, {"exit": 0}]
        self.assertEqual(self.run_lives(lives, options=("--failures", "2", "--pause", "0")), 137)
        self.assertEqual(len(self.lives()), 3)

    def test_pauses_grow_and_shrink(self):
        lives = [{"exit": 137}] * 4 + [{"exit": 137, "checkpoints": [1]}, {"exit": 0}]
        self.assertEqual(self.run_lives(lives, options=("--failures", "9", "--pause", "0.2")), 0)
        self.assertEqual([line.split()[-2] for line in self.said.splitlines()], ["0.2", "0.4", "0.8", "1.6", "0.2"])
        times = [life["time"] for life in self.lives()]
        for before, after, pause in zip(times, times[1:], (0.2, 0.4, 0.8, 1.6, 0.2)):
            self.assertGreaterEqual(after - before, pause)

    def test_passes_signals_on_and_ends(self):
        for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT):
            with self.subTest(number.name):
                self.setUp()
                process = self.start([{"wait": 1, "handle": 75}, {"exit": 0}])
                self.wait_for(self.lives)
                process.send_signal(number)
                self.assertEqual(self.finish(process), 75)
                self.assertEqual(len(self.lives()), 1)
                self.assertEqual((self.directory / "handled.txt").read_text(), number.name + "\n")

    def test_a_signal_that_the_job_ends_by(self):
        process = self.start([{"wait": 1}, {"exit": 0}])
        self.wait_for(self.lives)
        process.send_signal(signal.SIGTERM)
        self.assertEqual(self.finish(process), 128 + signal.SIGTERM)
        self.assertEqual(len(self.lives()), 1)

    def test_every_signal_is_passed_on(self):
        process = self.start([{"wait": 1, "handle": None}])
        self.wait_for(self.lives)
        for n in range(1, 4):
            process.send_signal(signal.SIGUSR1)
            self.wait_for(lambda: (self.directory / "handled.txt").exists() and
                          len((self.directory / "handled.txt").read_text().splitlines()) == n)
        os.kill(self.lives()[0]["pid"], signal.SIGKILL)
        self.assertEqual(self.finish(process), 128 + signal.SIGKILL)

    def test_a_signal_during_a_pause(self):
        process = self.start([{"exit": 137}, {"exit": 0}], options=("--pause", "100"))
        self.wait_for(self.lives)
        time.sleep(0.5)
        process.send_signal(signal.SIGTERM)
        self.assertEqual(self.finish(process), 137)
        self.assertEqual(len(self.lives()), 1)

    def test_what_a_job_leaves_is_killed(self):
        self.assertEqual(self.run_lives([{"exit": 137, "child": 1}, {"exit": 0, "child": 1}]), 0)
        self.assert_nothing_left()

    def test_a_killed_supervisor_leaves_no_job(self):
        process = self.start([{"wait": 1}])
        self.wait_for(self.lives)
        process.kill()
        process.wait()
        self.wait_for(lambda: not alive(self.lives()[0]["pid"]))

    def test_refusals(self):
        for arguments in ([], ["--"], ["--failures"], ["--failures", "0", "--", "x"], ["--pause", "-1", "--", "x"], ["mpirun"]):
            with self.subTest(arguments):
                result = subprocess.run([ROOT / "launch" / "supervise", *arguments], capture_output=True, text=True)
                self.assertEqual(result.returncode, 2)
                self.assertEqual(len(result.stderr.splitlines()), 1, result.stderr)


if __name__ == "__main__":
    unittest.main()
