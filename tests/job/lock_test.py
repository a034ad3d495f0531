"""Two jobs that want the same directories, and a job whose ranks outlive their launcher."""
import json
import os
import signal
import time
import unittest

from job import FOREVER, Job, JobTest, alive, metrics


class Lock(JobTest):
    def start_second(self, sets=None):
        return Job(self.directory, 2, self.arguments(2, sets), output="second.txt")

    def lock(self):
        return json.loads((self.directory / "out" / "run.lock").read_text())

    def test_a_second_job_is_refused_while_the_first_lives(self):
        with self.start_job(sets={"training.steps": FOREVER}) as first:
            first.wait_for_step(1)
            owner, ranks = self.lock(), first.pids()
            self.assertEqual([pid for _, pid, _ in owner["processes"]], [ranks[rank] for rank in range(4)])
            began = time.monotonic()
            with self.start_second({"training.timeout_s": 10}) as second:  # others hear that rank 0 waits: no rank stands still
                result = second.result()
            self.assertGreater(time.monotonic() - began, 30)
            self.assert_ends(result, 4, rf"^offramp: rank 0 on \S+: .*/out/run\.lock: held by process {ranks[0]} on \S+ \(run {owner['run']}, since 2")
            before = first.steps()
            first.wait_for_step(before + 5)  # undisturbed
        self.assertEqual([record["step"] for record in metrics(self.directory)][:before], list(range(1, before + 1)))

    def test_a_second_job_follows_the_first(self):
        with self.start_job(sets={"training.steps": FOREVER}) as first:
            first.wait_for_step(1)
            with self.start_second() as second:
                time.sleep(3)
                first.process.send_signal(signal.SIGTERM)
                first.result()
                result = second.result()
        self.assert_ends(result, 0, r"^waiting for the end of process \d+ on")
        self.assertEqual([record["step"] for record in metrics(self.directory)][-4:], [1, 2, 3, 4])
        self.assertFalse((self.directory / "out" / "run.lock").exists())

    def test_ranks_that_outlive_their_launcher(self):
        """One rank of a job whose launcher and first rank were killed is still there: nobody writes until it is not."""
        with self.start_job(sets={"training.steps": FOREVER}) as first:
            first.wait_for_step(1)
            ranks = first.pids()
            for pid in (first.process.pid, ranks[0]):
                os.kill(pid, signal.SIGKILL)
            first.result()  # a launcher that ends ends what is stopped; whatever stops later stays
            os.kill(ranks[2], signal.SIGSTOP)
            with self.start_second() as second:
                time.sleep(5)
                stopped = alive(ranks[2])
                logged = len(metrics(self.directory))
                if stopped:
                    os.kill(ranks[2], signal.SIGKILL)
                result = second.result()
        self.assertTrue(stopped)
        self.assert_ends(result, 0)
        self.assertEqual(len(metrics(self.directory)), logged + 4)


if __name__ == "__main__":
    unittest.main()
