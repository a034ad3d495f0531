"""Exits tuned onto a backbone that stays as it is: what is saved, exported and resumed, and what stands behind it."""
import json
import re
import subprocess
import unittest

from job import PROGRAM, JobTest, metrics

EXITS = "[{layer: 1, head: norm, loss_weight: 0.25, init: final}, {layer: 3, head: block, output: shared, loss_weight: 0.5, init: copy_layer}]"


class TuneTest(JobTest):
    architecture = "llama"

    def setUp(self):
        super().setUp()
        self.base = {"model.architecture": self.architecture, "exits": "[]", "checkpoint.directory": "base/checkpoints", "export.hf": "base/hf",
                     "logging.directory": "base"}
        self.assert_ends(self.run_job(sets={**self.base, "training.steps": 3}), 0)

    def tune(self, base="base/checkpoints", name="out", ranks=4, status=0, resume=False, **more):
        config = re.sub(r"model: \{.*\}", f"model: {{from: {base}}}", (self.directory / "job.yaml").read_text())
        (self.directory / "tune.yaml").write_text(config)
        sets = {"exits": EXITS, "training.freeze": "backbone", "export.hf": f"{name}/hf", "checkpoint.directory": f"{name}/checkpoints",
                "logging.directory": name, **more}
        arguments = ["tune.yaml" if word == "job.yaml" else word for word in self.arguments(ranks, sets)]
        result = self.run_job(ranks=ranks, arguments=arguments + (["--resume", "auto"] if resume else []))
        self.assert_ends(result, status)
        return result.said

    def offramp(self, *arguments):
        return subprocess.run([PROGRAM, *arguments], cwd=self.directory, capture_output=True, text=True)

    def assert_same(self, a, b):
        self.assertEqual((self.directory / a).read_bytes(), (self.directory / b).read_bytes(), f"{a} {b}")


class Llama(TuneTest):
    def test_the_backbone_is_the_bases(self):
        """In bf16 too, on every layout, of a checkpoint and of a Hugging Face directory, in the job's export and a later one."""
        for base, ranks, more in (("base/checkpoints", 4, {"training.precision": "bf16"}), ("base/hf", 1, {}),
                                  ("base/hf", 2, {"parallel.shard_heads_over_pipeline": "true", "training.precision": "bf16"}),
                                  ("base/checkpoints", 4, {"parallel.tensor_parallel_size": 2, "parallel.pipeline_parallel_size": 2})):
            name = f"{ranks}-{len(more)}-{base[5:7]}"
            with self.subTest(name):
                self.tune(base, name, ranks, **more)
                self.assert_same(f"{name}/hf/model.safetensors", "base/hf/model.safetensors")
                self.assertEqual(self.offramp("export", "hf", f"{name}/checkpoints", f"{name}/again").returncode, 0)
                self.assert_same(f"{name}/hf/model.safetensors", f"{name}/again/model.safetensors")
                self.assert_same(f"{name}/hf/exits.safetensors", f"{name}/again/exits.safetensors")
                self.assertEqual(self.offramp("export", "draft", f"{name}/checkpoints", f"{name}/draft", "--exit", "3").returncode, 0)

    def test_exits_learn_and_nothing_else_is_logged_or_saved(self):
        self.tune(**{"training.steps": 8, "optimizer.lr": 0.01})
        steps = metrics(self.directory)
        self.assertEqual([step["final_loss"] for step in steps], [None] * 8)
        for layer in ("1", "3"):
            self.assertLess(steps[-1]["exit_losses"][layer], steps[0]["exit_losses"][layer])
        validation = [json.loads(line) for line in (self.directory / "out/metrics.jsonl").read_text().splitlines() if "split" in line]
        self.assertIsNone(validation[-1]["final_loss"])
        manifest = json.loads((self.directory / "out/checkpoints/step-8/manifest.json").read_text())
        self.assertTrue(all(box["tensor"].startswith("exits.") for box in manifest["datasets"]))
        self.assertTrue(manifest["base"]["directory"].endswith("base/checkpoints/step-3"))

    def test_a_resume_on_another_layout_goes_on(self):
        self.tune(name="whole", **{"training.steps": 4})
        self.tune(name="parts", **{"training.steps": 4, "training.stop_at": 2})
        self.tune(name="parts", resume=True, **{"training.steps": 4})
        for file in ("exits", "model"):
            self.assert_same(f"whole/hf/{file}.safetensors", f"parts/hf/{file}.safetensors")
        self.tune(name="layouts", **{"training.steps": 4, "training.stop_at": 2})
        self.tune(name="layouts", ranks=1, resume=True, **{"training.steps": 4})
        self.assert_same("whole/hf/model.safetensors", "layouts/hf/model.safetensors")
        whole, other = metrics(self.directory, "whole")[-1], metrics(self.directory, "layouts")[-1]
        self.assertAlmostEqual(whole["loss"], other["loss"], delta=1e-5 * whole["loss"])

    def test_a_base_that_changed_is_refused(self):
        self.tune("base/hf")
        weights = self.directory / "base/hf/model.safetensors"
        weights.write_bytes(weights.read_bytes()[:-1] + b"\1")
        for said in (self.tune("base/hf", resume=True, status=4, **{"training.steps": 5}), self.offramp("export", "hf", "out/checkpoints", "x").stderr):
            self.assertRegex(said, r"base/hf: is not what these exits were tuned on")
        weights.unlink()
        self.assertNotEqual(self.offramp("export", "hf", "out/checkpoints", "x").returncode, 0)
        self.assertFalse((self.directory / "x").exists())

    def test_a_base_from_nowhere_is_made_again(self):
        sets = {"model.architecture": self.architecture, "exits": EXITS}
        self.assert_ends(self.run_job(sets={**sets, "training.steps": 0, "export.hf": "fresh/hf"}), 0)
        tuned = {**sets, "training.freeze": "backbone", "export.hf": "tuned/hf", "checkpoint.directory": "tuned/checkpoints",
                 "training.precision": "bf16"}
        self.assert_ends(self.run_job(sets={**tuned, "training.stop_at": 2}), 0)
        self.assert_ends(self.run_job(ranks=2, arguments=[*self.arguments(2, tuned), "--resume", "auto"]), 0)
        self.assert_same("fresh/hf/model.safetensors", "tuned/hf/model.safetensors")
        self.assertEqual(self.offramp("export", "hf", "tuned/checkpoints", "again").returncode, 0)
        self.assert_same("fresh/hf/model.safetensors", "again/model.safetensors")

    def test_a_tuned_checkpoint_is_a_base(self):
        self.tune()
        again = EXITS.replace(", init: final", "").replace(", init: copy_layer", "")
        self.tune("out/checkpoints", "next", exits=again, **{"training.steps": 0})
        self.assert_same("out/hf/model.safetensors", "next/hf/model.safetensors")
        self.assert_same("out/hf/exits.safetensors", "next/hf/exits.safetensors")


class Gpt2(Llama):
    architecture = "gpt2"


if __name__ == "__main__":
    unittest.main()
