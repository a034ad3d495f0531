"""Jobs that stop and go on: to the same bits on the same layout, to the same numbers on another, and never from what is damaged."""
import os
import pathlib
import shutil
import subprocess
import unittest

from job import PROGRAM, JobTest, metrics

LAST = 60
# Steps after which a job is stopped; OFFRAMP_LONG=1 tries all.
STOPS = range(1, 51) if os.environ.get("OFFRAMP_LONG") else (1, 24, 25, 50)
PIPELINE = {"parallel.pipeline_parallel_size": 2}
LAYOUTS = [  # ranks, what else
    (1, {"parallel.pipeline_parallel_size": 1}), (4, PIPELINE), (2, {"parallel.pipeline_parallel_size": 1, "parallel.zero_stage": 1}),
    (4, {"parallel.pipeline_parallel_size": 2, "parallel.tensor_parallel_size": 2, "parallel.sequence_parallel": "true"}),
    (4, {"parallel.pipeline_parallel_size": 1, "parallel.tensor_parallel_size": 2, "parallel.zero_stage": 1, "parallel.schedule": "gpipe"}),
]


class Resume(JobTest):
    def sets(self, name, **more):
        keys = {"training.steps": LAST, "checkpoint.directory": f"{name}/checkpoints", "checkpoint.interval": 15, "checkpoint.keep": 3,
                "logging.directory": name, "export.hf": f"{name}/hf", "model.num_attention_heads": 4, "model.num_key_value_heads": 2}
        return keys | {key.replace("__", "."): value for key, value in more.items()}

    def train(self, name, ranks=4, resume=None, status=0, layout=PIPELINE, **more):
        arguments = self.arguments(ranks, self.sets(name, **more) | layout)
        result = self.run_job(ranks=ranks, arguments=arguments + (["--resume", resume] if resume else []))
        self.assert_ends(result, status)
        return result

    def exported(self, name):
        return [(self.directory / name / "hf" / file).read_bytes() for file in ("model.safetensors", "exits.safetensors")]

    def losses(self, name):
        """By step; the last line of a step counts."""
        losses = {line["step"]: line["loss"] for line in metrics(self.directory, name)}
        self.assertTrue(losses)
        return losses

    def steps_kept(self, name):
        return sorted(int(path.name[5:]) for path in (self.directory / name / "checkpoints").glob("step-*"))

    def test_the_same_bits_wherever_it_stops(self):
        self.train("whole")
        self.assertEqual(self.steps_kept("whole"), [30, 45, 60])
        for stop in STOPS:
            name = f"stopped_{stop}"
            self.train(name, training__stop_at=stop)
            self.assertIn(stop, self.steps_kept(name))
            self.train(name, resume="auto")
            self.assertEqual(self.exported(name), self.exported("whole"), f"stopped after step {stop}")
            self.assertEqual(self.losses(name), self.losses("whole"))

    def test_every_layout_goes_on_from_every_other(self):
        self.train("whole")
        expected = self.losses("whole")
        for i, (ranks, layout) in enumerate(LAYOUTS):
            self.train(f"from_{i}", ranks=ranks, layout=layout, training__stop_at=45)
            for j, (others, other) in enumerate(LAYOUTS):
                name = f"from_{i}_to_{j}"
                shutil.copytree(self.directory / f"from_{i}", self.directory / name)
                self.train(name, ranks=others, layout=other, resume="auto")
                found = self.losses(name)
                self.assertEqual(found.keys(), expected.keys())
                for step, loss in expected.items():
                    self.assertAlmostEqual(found[step] / loss, 1, delta=1e-5, msg=f"{name}, step {step}")

    def test_batches_may_change(self):
        """The position is kept in samples: after 5 steps of 8, steps of 16 go on with the 41st."""
        self.train("batches", training__stop_at=5)
        result = self.train("batches", resume="auto", training__global_batch_size=16, training__steps=7)
        self.assertIn("resumed from batches/checkpoints/step-5", result.output)
        self.assertEqual(max(self.losses("batches")), 7)
        ls = subprocess.run([PROGRAM, "checkpoint", "ls", "batches/checkpoints"], cwd=self.directory, check=True, capture_output=True, text=True)
        self.assertRegex(ls.stdout, rf"step-7 +7 +{5 * 8 + 2 * 16} ")

    def test_the_newest_that_is_sound(self):
        self.train("damaged")
        before = self.exported("damaged")
        self.flip("damaged/checkpoints/step-60/rank-00001.h5")
        result = self.train("damaged", resume="auto")
        self.assertIn("step-60: is damaged; an older one is used", result.output)
        self.assertIn("resumed from damaged/checkpoints/step-45", result.output)
        self.assertEqual(self.exported("damaged"), before)
        for step in self.steps_kept("damaged"):
            self.flip(f"damaged/checkpoints/step-{step}/index.h5")
        result = self.train("damaged", resume="auto", status=4)
        self.assertIn("none is sound", result.output)

    def test_what_is_damaged_is_not_counted_among_those_that_are_kept(self):
        self.train("kept", training__stop_at=45)
        self.assertEqual(self.steps_kept("kept"), [15, 30, 45])
        self.flip("kept/checkpoints/step-30/rank-00002.h5")
        self.train("kept", resume="auto")
        self.assertEqual(self.steps_kept("kept"), [15, 30, 45, 60])

    def test_without_a_manifest_it_is_damaged(self):
        self.train("manifest", training__stop_at=5)
        (self.directory / "manifest/checkpoints/step-5/manifest.json").unlink()
        result = self.train("manifest", resume="manifest/checkpoints/step-5", status=4)
        self.assertIn("manifest.json", result.output)

    def test_at_the_end_only_the_end_is_done_again(self):
        self.train("done")
        shutil.rmtree(self.directory / "done/hf")
        lines = metrics(self.directory, "done")
        self.train("done", resume="auto")
        self.assertEqual(metrics(self.directory, "done"), lines)
        self.exported("done")

    def test_what_may_not_change(self):
        self.train("fixed", training__stop_at=5)
        result = self.train("fixed", resume="auto", status=2, training__seed=7, exits__0__head="mlp")
        self.assertIn("training.seed is 7, was 1234", result.output)
        self.assertIn("exits.1.head is mlp, was norm", result.output)
        result = self.train("fixed", resume="auto", status=3, data__train="data/tiny_valid")
        self.assertIn("is not what the checkpoint of step 5 was trained on", result.output)

    def test_nothing_there(self):
        result = self.train("nothing", resume="auto", training__stop_at=2)
        self.assertIn("starting at step 0", result.output)
        self.train("nothing", resume="elsewhere", status=4)

    def flip(self, path):
        path = pathlib.Path(self.directory / path)
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 4
        path.write_bytes(content)


if __name__ == "__main__":
    unittest.main()
