"""Schedules of a whole job: what it reads from a file."""
import subprocess
import unittest

from job import PROGRAM, JobTest, metrics


def losses(records):
    return [(record["loss"], record["exit_losses"], record["grad_norm"]) for record in records]


class ScheduleFile(JobTest):
    def dump(self, schedule):
        arguments = ["--set", "parallel.data_parallel_size=2", "--set", f"parallel.schedule={schedule}", "--dump-schedule"]
        command = [PROGRAM, "plan", "job.yaml", *arguments]
        return subprocess.run(command, cwd=self.directory, check=True, capture_output=True, text=True).stdout

    def test_runs_as_what_it_was_written_from(self):
        self.assert_ends(self.run_job(sets={"parallel.schedule": "gpipe", "logging.directory": "gpipe"}), 0)
        (self.directory / "mine.txt").write_text(self.dump("zero_bubble"))
        self.assert_ends(self.run_job(sets={"parallel.schedule": "file:mine.txt"}), 0)
        self.assertEqual(losses(metrics(self.directory)), losses(metrics(self.directory, "gpipe")))

    def test_is_refused_where_it_is_wrong(self):
        text = self.dump("1f1b")
        sets = {"parallel.schedule": "file:mine.txt"}
        self.assert_refused(self.run_job(sets=sets), 2, r"parallel\.schedule: mine\.txt: no such file")
        (self.directory / "mine.txt").write_text(text.replace(" X2.3@1", ""))
        self.assert_refused(self.run_job(sets=sets), 2, r"mine\.txt:2:\d+: rank 1: X2\.3@1 is missing")
        (self.directory / "mine.txt").write_text(text.splitlines()[0])
        self.assert_refused(self.run_job(sets=sets), 2, r"mine\.txt:1:1: the schedule has 1 programs")


if __name__ == "__main__":
    unittest.main()
