"""Exits tuned onto a backbone that stays as it is: what is saved, exported and resumed, and what stands behind it."""
import json
import os
import re
import shutil
import signal
import subprocess
import time
import unittest

from job import PROGRAM, Job, JobTest, metrics

EXITS = "[{layer: 1, head: norm, loss_weight: 0.25, init: final}, {layer: 3, head: block, output: shared, loss_weight: 0.5, init: copy_layer}]"

TAUGHT = EXITS.replace("init: final", "init: final, target: argmax").replace("init: copy_layer", "init: copy_layer, target: distribution")
SAID = ("step", "loss", "exit_losses", "exit_acceptances", "exit_agreements")  # of a step and of a validation


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


class Merge(TuneTest):
    """Exits that were tuned apart are those of one job: bit for bit, with what it needs to go on."""
    EARLY = "{layer: 2, head: norm, loss_weight: 0.25, init: final}"
    LATE = "{layer: 3, head: block, output: shared, loss_weight: 0.5, init: copy_layer"

    def merged(self, *names, status=0):
        result = self.offramp("checkpoint", "merge", *(f"{name}/checkpoints" for name in names), "--output", "merged/checkpoints")
        self.assertEqual(result.returncode, status, result.stderr)
        return result.stdout + result.stderr

    def assert_no_difference(self, a, b):
        said = self.offramp("checkpoint", "diff", a, b)
        self.assertEqual(said.stdout.splitlines()[-1], "all tensors are equal", said)

    def apart_and_together(self, ranks, late, early_alone, **more):
        more = {"checkpoint.interval": 2, **more}
        self.tune(name="early", ranks=ranks, exits=f"[{self.EARLY}]", **more, **early_alone, **{"training.stop_at": 2})
        self.tune(name="late", ranks=ranks, exits=f"[{late}]", **more, **{"training.stop_at": 2})
        both = f"[{self.EARLY}, {late}]"
        self.tune(name="both", ranks=ranks, exits=both, **more)
        self.assertEqual(self.merged("late", "early"), "merged/checkpoints/step-2: the exits of layers 2, 3, of 2 checkpoints\n")
        self.assert_no_difference("both/checkpoints/step-2", "merged/checkpoints")
        for name in ("both/checkpoints/step-2", "merged/checkpoints"):
            self.assertEqual(self.offramp("export", "hf", name, name.split("/")[0] + "-2").returncode, 0)
        for file in ("exits.json", "exits.safetensors", "model.safetensors"):
            self.assert_same(f"both-2/{file}", f"merged-2/{file}")
        self.assertNotIn("may differ", self.tune(name="merged", ranks=ranks, exits=both, resume=True, **more))
        self.assert_no_difference("both/checkpoints/step-4", "merged/checkpoints/step-4")
        self.assert_same("both/hf/exits.safetensors", "merged/hf/exits.safetensors")
        self.assertEqual([{key: step[key] for key in ("loss", "exit_losses", "grad_norm")} for step in metrics(self.directory, "both")[2:]],
                         [{key: step[key] for key in ("loss", "exit_losses", "grad_norm")} for step in metrics(self.directory, "merged")])

    def test_on_one_rank_from_features_and_from_the_backbone(self):
        self.apart_and_together(1, self.LATE + "}", {"tuning.feature_cache": "features"})

    def test_on_two_stages_in_bf16_with_dropout_and_a_target(self):
        self.apart_and_together(2, self.LATE + ", target: distribution}", {}, **{
            "training.precision": "bf16", "model.hidden_dropout": 0.25, "data.shuffle": "true", "optimizer.clip_grad_norm": 0.1})

    def test_what_no_job_would_have_tuned_is_refused(self):
        self.tune(name="early", exits=f"[{self.EARLY}]")
        self.tune("base/hf", "elsewhere", exits=f"[{self.LATE}}}]")
        self.tune(name="seed", exits=f"[{self.LATE}}}]", **{"training.seed": 5})
        for names, said in ((("early", "early"), "has an exit at layer 2, as early/checkpoints/step-4 has"),
                            (("early", "elsewhere"), r"stands on another base than early/checkpoints/step-4 \(.*/base/hf, and .*/base/checkpoints/step-3"),
                            (("early", "seed"), "training.seed is 5, not 1234; tune all exits alike"),
                            (("early", "base"), "has trainable shared tensors")):
            self.assertRegex(self.merged(*names, status=4), f"^offramp: {names[1]}/checkpoints/step-.*{said}")
        self.assertFalse((self.directory / "merged").exists())


class FeatureCache(TuneTest):
    """Exits trained from what they read of the backbone, which ran once."""

    def setUp(self):
        super().setUp()
        self.cache = self.directory / "features"

    def cached(self, name="cached", **more):
        return self.tune(name=name, **{"tuning.feature_cache": "features", **more})

    def assert_same_losses(self, a, b):
        for split in ("train", "validation"):
            lines = [[{key: line.get(key) for key in SAID} for line in map(json.loads, (self.directory / name / "metrics.jsonl").read_text().splitlines())
                      if line.get("split", "train") == split] for name in (a, b)]
            self.assertTrue(lines[0])
            self.assertEqual(*lines)

    def test_losses_and_exits_are_those_of_the_backbone(self):
        """Bit for bit, of the same replicas: features are made on any layout, by sample, and serve every order, shuffle and seed."""
        both = "[{path: data/tiny_train, weight: 3}, {path: data/tiny_valid}]"
        for kind, more in (("fp32", {"data.shuffle": "true", "data.document_mask": "true", "data.train": both}),
                           ("bf16", {"training.precision": "bf16", "parallel.zero_stage": 1}),
                           ("fp32-taught", {"exits": TAUGHT, "data.shuffle": "true"}),
                           ("bf16-taught", {"exits": TAUGHT, "training.precision": "bf16", "data.document_mask": "true"})):
            shutil.rmtree(self.cache, ignore_errors=True)
            for seed, steps in (("7", 4), ("8", 2)):
                sets = {"exits": EXITS[:-1] + ", {layer: 2, head: mlp, loss_weight: 1, init: copy_layer}]", "training.seed": seed,
                        "training.steps": steps, "training.micro_batch_size": 2, "training.validation_samples": 11, **more}
                self.tune(name=f"{kind}-{seed}-plain", **sets, **{"parallel.pipeline_parallel_size": 1})
                before = self.contents()
                said = self.cached(f"{kind}-{seed}-cached", **sets)
                self.assertRegex(said, "training from the features in features" + (", which the backbone has made: .* GB" if seed == "7" else "\n"))
                self.assertIn(before, ({}, self.contents()))
                self.assert_same_losses(f"{kind}-{seed}-plain", f"{kind}-{seed}-cached")
                self.assertEqual("exit_acceptances" in metrics(self.directory, f"{kind}-{seed}-cached")[-1], "taught" in kind)
                for file in ("exits", "model"):
                    self.assert_same(f"{kind}-{seed}-plain/hf/{file}.safetensors", f"{kind}-{seed}-cached/hf/{file}.safetensors")

    def contents(self):
        return {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in self.cache.iterdir() if path.name != "run.lock"} \
            if self.cache.exists() else {}

    def test_other_layouts_other_exits_and_a_resume_read_the_same_files(self):
        self.cached("first", ranks=4, exits=TAUGHT, **{"parallel.tensor_parallel_size": 2, "parallel.pipeline_parallel_size": 2})
        there = self.contents()
        self.cached("one", ranks=1, exits="[{layer: 3, head: norm, loss_weight: 1, init: final}]", **{"parallel.pipeline_parallel_size": 1})
        self.cached("two", ranks=2, **{"training.stop_at": 2})
        self.cached("two", ranks=2, resume=True)
        self.cached("taught", ranks=2, exits=TAUGHT, **{"training.stop_at": 2})
        self.cached("taught", ranks=2, exits=TAUGHT, resume=True)
        self.assertEqual(self.contents(), there)
        for name in ("two", "taught"):
            self.assertEqual([step["step"] for step in metrics(self.directory, name)], [1, 2, 3, 4])

    def test_features_of_bf16_are_near_and_half_as_large(self):
        self.cached("whole")
        size = sum(len(content) for name, (_, content) in self.contents().items() if name.endswith(".features"))
        shutil.rmtree(self.cache)
        self.cached("half", **{"tuning.feature_dtype": "bf16"})
        self.assertEqual(2 * sum(len(content) for name, (_, content) in self.contents().items() if name.endswith(".features")), size)
        whole, half = metrics(self.directory, "whole")[-1], metrics(self.directory, "half")[-1]
        self.assertNotEqual(whole["loss"], half["loss"])
        self.assertAlmostEqual(whole["loss"], half["loss"], delta=2**-8 * whole["loss"])

    def test_features_of_another_job_are_refused(self):
        self.cached()
        advice = "; delete it and the features are made again, or name another directory"
        self.assertRegex(self.cached(status=3, **{"training.sequence_length": 8}), "features: holds features of another job: .*" + advice)
        self.assertRegex(self.cached(status=3, exits="[{layer: 2, loss_weight: 1, init: final}]"), "features: has no features of layer-2" + advice)
        self.assertRegex(self.cached(status=3, exits=TAUGHT), "features: has no features of final-head" + advice)
        self.assertRegex(self.cached(status=3, **{"training.validation_samples": 1000}), "this job needs .*" + advice)
        self.assertRegex(self.cached(status=3, base="base/hf"), "features: holds features of another job: backbone is .* here, was .*" + advice)
        for suffix in (".bin", ".idx"):
            shutil.copy(self.directory / f"data/tiny_valid{suffix}", self.directory / f"data/tiny_train{suffix}")
        self.assertRegex(self.cached(status=3, **{"training.global_batch_size": 4}), "features: .*" + advice)

    def test_damaged_features_are_refused(self):
        self.cached(ranks=1)
        path = next(self.cache.glob("set-0.layer-1.features"))
        whole = path.read_bytes()
        for change, said in ((lambda b: b[:-1], r"is damaged: .*set-0.layer-1.features has \d+ bytes, should have \d+"),
                             (lambda b: bytes([b[0] ^ 1]) + b[1:], r"is damaged: sample 0 of .*set-0.layer-1.features does not have its checksum")):
            path.write_bytes(change(whole))
            self.assertRegex(self.cached(ranks=1, status=3), f"features: {said}; delete it")
        path.write_bytes(whole)
        description = self.cache / "cache.json"
        description.write_text(description.read_text().replace("fp32", "bf16"))
        self.assertRegex(self.cached(ranks=1, status=3), "features: is damaged: .*cache.json does not have its checksum")
        description.write_text("{")
        self.assertRegex(self.cached(ranks=1, status=3), "features: is damaged: .*cache.json")

    def test_what_was_begun_is_begun_again(self):
        self.cached("whole")
        there = {name: content for name, (_, content) in self.contents().items()}
        (self.cache / "cache.json").unlink()
        (self.cache / "building").touch()
        (self.cache / "set-0.layer-1.features").write_bytes(b"torn")
        (self.cache / "set-9.layer-9.features").write_bytes(b"left over")
        self.cached("again")
        self.assertEqual({name: content for name, (_, content) in self.contents().items()}, there)
        self.assert_same_losses("whole", "again")

    def test_a_directory_of_somebody_else_is_left_alone(self):
        self.cache.mkdir()
        (self.cache / "mine.features").write_text("mine")
        self.assertRegex(self.cached(status=3), r"features: holds other files \(mine.features\) and no features; name a new directory")
        self.assertEqual((self.cache / "mine.features").read_text(), "mine")

    def test_a_killed_build_is_made_again(self):
        sets = {"exits": EXITS, "model.architecture": self.architecture, "training.freeze": "backbone", "tuning.feature_cache": "features",
                "training.sequence_length": 1}
        arguments = self.arguments(2, sets)
        with Job(self.directory, 2, arguments) as job:
            end = time.monotonic() + 60
            while not list(self.cache.glob("*.sums")) and time.monotonic() < end:
                time.sleep(0.001)
            for pid in [*job.pids().values(), job.process.pid]:
                os.kill(pid, signal.SIGKILL)
            job.process.wait()
        if not (self.cache / "cache.json").exists():
            self.assertTrue((self.cache / "building").exists())
        self.assert_ends(self.run_job(ranks=2, arguments=arguments), 0)
        self.assertFalse((self.cache / "building").exists())


if __name__ == "__main__":
    unittest.main()
