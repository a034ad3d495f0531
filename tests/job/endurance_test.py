"""A long job takes no more memory than a short one: everything is allocated before the first step."""
import unittest

from job import FOREVER, JobTest, resident_bytes

EARLY, LATE = 60, 1_100  # steps


class Endurance(JobTest):
    def grows(self, ranks):
        """The growth of every rank's resident memory over a thousand steps, some of which validate, as a part of it."""
        sets = {"training.steps": FOREVER, "training.validation_interval": 50, "parallel.pipeline_parallel_size": 1}
        with self.start_job(ranks=ranks, sets=sets) as job:
            job.wait_for_step(EARLY)
            before = {rank: resident_bytes(pid) for rank, pid in job.pids().items()}
            job.wait_for_step(LATE, limit_s=400)
            after = {rank: resident_bytes(pid) for rank, pid in job.pids().items()}
        self.assertEqual(sorted(before), list(range(ranks)))
        return [after[rank] / before[rank] - 1 for rank in before]

    def test_alone(self):
        self.assertLess(max(self.grows(1)), 0.01)

    def test_two_ranks(self):
        self.assertLess(max(self.grows(2)), 0.01)


if __name__ == "__main__":
    unittest.main()
