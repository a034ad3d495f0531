"""Schedules of a whole job: what it reads from a file, and what partial microbatches read."""
import subprocess
import unittest

from job import PROGRAM, SAMPLE, STEP, JobTest, metrics


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


class FillBubbles(JobTest):
    """Four stages have room for two partial microbatches."""
    SETS = {"parallel.pipeline_parallel_size": 4, "checkpoint.directory": "saved"}

    def run_steps(self, fill, logs, resume=False, **sets):
        sets = {**self.SETS, "parallel.fill_bubbles": fill, "logging.directory": logs, "checkpoint.directory": f"saved_{logs}", **sets}
        arguments = self.arguments(4, sets) + (["--resume", "auto"] if resume else [])
        self.assert_ends(self.run_job(arguments=arguments), 0)
        return metrics(self.directory, logs)

    def test_reads_samples_beyond_the_batch(self):
        plain = self.run_steps("none", "plain")
        self.assertEqual([record["tokens"] for record in plain], [STEP * SAMPLE] * 4)
        # Exits on stages 0, 2 and 3: those of the first step that see more samples than the batch have another loss.
        for fill, see_more in (("warmup", {"1"}), ("cooldown", {"3", "final"})):
            filled = self.run_steps(fill, fill)
            self.assertEqual([record["tokens"] for record in filled], [(STEP + 2) * SAMPLE] * 4)
            first, other = ({**records[0]["exit_losses"], "final": records[0]["final_loss"]} for records in (filled, plain))
            self.assertEqual({name for name in first if first[name] != other[name]}, see_more)

    def test_goes_on_where_it_ended(self):
        whole = self.run_steps("warmup", "whole")
        self.run_steps("warmup", "parts", **{"training.stop_at": 2})
        self.assertEqual(losses(self.run_steps("warmup", "parts", resume=True)), losses(whole))

    def test_is_planned_and_refused(self):
        result = self.run_job(sets={**self.SETS, "parallel.fill_bubbles": "warmup", "exits": "[{layer: 3, loss_weight: 1}]"})
        self.assert_refused(result, 2, r"no partial microbatch of the warm-up meets an exit: it comes as far as stage 1 of 4")


if __name__ == "__main__":
    unittest.main()
