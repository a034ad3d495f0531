"""Jobs that are asked for an end by a signal: they finish the step, save, end with 75, and go on later as if nothing had been."""
import os
import pathlib
import re
import signal
import time
import unittest

from job import CONFIG, FOREVER, JobTest, metrics

STEPS = 400


class Preemption(JobTest):
    SAVED = r"^offramp: rank 0 on \S+: step (\d+): ended by a signal: the state is saved in out/checkpoints; --resume auto goes on from there$"

    def setUp(self):
        super().setUp()
        (self.directory / "job.yaml").write_text(CONFIG + "checkpoint: {directory: out/checkpoints, interval: 0, keep: 2}\n")

    def saved_step(self, result):
        self.assert_ends(result, 75, self.SAVED)
        step = int(re.search(self.SAVED, result.said, re.M).group(1))
        self.assertEqual(metrics(self.directory)[-1]["step"], step, "the step is finished, and none begun")
        self.assertTrue((self.directory / "out" / "checkpoints" / f"step-{step}" / "manifest.json").exists())
        self.assertFalse((self.directory / "out" / "run.lock").exists())
        return step

    def end_by(self, send, ranks=4, sets=None, **options):
        with self.start_job(ranks=ranks, sets={"training.steps": FOREVER, **(sets or {})}, **options) as job:
            job.wait_for_step(3)
            send(job)
            result = job.result(60)
            self.assert_nothing_left(job)
        return result

    def test_every_way_to_ask(self):
        ways = {
            "one rank": (4, lambda job: os.kill(job.pids()[2], signal.SIGUSR1), {}),
            "the launcher hands it to all": (4, lambda job: job.process.send_signal(signal.SIGUSR1), {}),
            "alone": (1, lambda job: job.process.send_signal(signal.SIGUSR1), {}),
            "srun's": (1, lambda job: job.process.send_signal(signal.SIGTERM), {"SLURM_PROCID": "0"}),
        }
        for way, (ranks, send, env) in ways.items():
            with self.subTest(way):
                self.setUp()
                self.saved_step(self.end_by(send, ranks, env=env))

    def test_goes_on_as_if_nothing_had_been(self):
        exports = []
        for preempted in (False, True):
            self.setUp()
            if preempted:
                step = self.saved_step(self.end_by(lambda job: job.process.send_signal(signal.SIGUSR1), sets={"training.steps": STEPS}))
                self.assertLess(step, STEPS)
            self.assert_ends(self.run_job(arguments=[*self.arguments(4, {"training.steps": STEPS}), "--resume", "auto"]), 0)
            self.assertEqual([record["step"] for record in metrics(self.directory)], list(range(1, STEPS + 1)))
            exports.append({path.name: path.read_bytes() for path in pathlib.Path(self.directory / "out" / "hf").iterdir()})
        self.assertTrue(exports[0] == exports[1])

    def test_a_second_signal_stops_at_once(self):
        def twice(job):
            os.kill(job.pids()[1], signal.SIGSTOP)  # no step ends any more
            os.kill(job.pids()[2], signal.SIGUSR1)
            time.sleep(0.5)
            os.kill(job.pids()[2], signal.SIGUSR1)

        self.assertEqual(self.end_by(twice).status, 128 + signal.SIGUSR1)
        # Rank 1 may have stopped when its part in a step was done: then the others have begun to write, and nothing is published.
        written = (self.directory / "out" / "checkpoints").glob("step-*")
        self.assertEqual([path for path in written if ".tmp-" not in path.name], [])

    def test_without_a_place_to_save(self):
        (self.directory / "job.yaml").write_text(CONFIG)
        result = self.end_by(lambda job: job.process.send_signal(signal.SIGUSR1))
        self.assert_ends(result, 4, r"step \d+: ended by a signal: nothing is saved, since checkpoint\.directory is not set$")

    def test_before_the_first_step(self):
        with self.start_job(sets={"training.steps": FOREVER}) as job:
            while len(job.pids()) < 4:
                time.sleep(0.01)
            time.sleep(0.5)
            job.process.send_signal(signal.SIGUSR1)
            result = job.result(60)
        self.assertGreaterEqual(self.saved_step(result), 1)


if __name__ == "__main__":
    unittest.main()
