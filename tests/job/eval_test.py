"""offramp eval: what it says of a checkpoint is what the run said when it validated; of a subnet, what its export says."""
import json
import subprocess
import unittest

from job import PROGRAM, JobTest, environment

SETS = {"checkpoint.directory": "out/checkpoints", "model.num_attention_heads": 4, "model.num_key_value_heads": 2, "training.validation_samples": 11,
        "model.initializer_range": 0.2}  # so that slices of the whole differ
SUPERNET = {**SETS, "supernet": "{plan: sandwich, random_subnets: 1, hidden_size: [8, 16], intermediate_size: [6, 12, 24]}",
            "training.global_batch_size": 4}


class Eval(JobTest):
    def offramp(self, *arguments, status=0, ranks=1):
        command = (["mpirun", "-np", str(ranks)] if ranks > 1 else []) + [PROGRAM, *arguments]
        done = subprocess.run(command, cwd=self.directory, capture_output=True, text=True, timeout=60, env=environment())
        self.assertEqual(done.returncode, status, done.stdout + done.stderr)
        return done.stdout if status == 0 else done.stderr

    def evaluate(self, checkpoint="out/checkpoints", *arguments, samples=11, **options):
        return json.loads(self.offramp("eval", checkpoint, "--data", "data/tiny_valid", "--samples", str(samples), "--json", *arguments, **options))

    def validated(self):
        lines = map(json.loads, (self.directory / "out/metrics.jsonl").read_text().splitlines())
        return [line for line in lines if line.get("split") == "validation"][-1]

    def assert_close(self, ours, theirs):
        self.assertAlmostEqual(ours["final_loss"], theirs["final_loss"], delta=1e-5 * theirs["final_loss"])
        self.assertEqual(ours["exit_losses"].keys(), theirs["exit_losses"].keys())
        for layer, loss in theirs["exit_losses"].items():
            self.assertAlmostEqual(ours["exit_losses"][layer], loss, delta=1e-5 * loss)

    def test_it_says_what_the_run_said(self):
        self.assert_ends(self.run_job(ranks=1, sets=SETS), 0)
        ours, theirs = self.evaluate(), self.validated()
        for key in ("final_loss", "exit_losses", "final_accuracy", "exit_accuracies", "tokens"):
            self.assertEqual(ours[key], theirs[key], key)  # to the bit
        self.assertEqual((ours["samples"], ours["sequence_length"], ours["checkpoint"]), (11, 16, "out/checkpoints/step-4"))
        self.assert_close(self.evaluate(ranks=2), theirs)
        self.assert_close(self.evaluate("out/hf"), theirs)
        self.assertGreater(self.evaluate(samples=1_000_000)["samples"], 11)

    def test_runs_in_parallel_and_of_other_kinds(self):
        for sets in ({"training.precision": "bf16"}, {"data.document_mask": "true"}, {"training.freeze": "backbone"}, {"model.architecture": "gpt2",
                     "model.num_key_value_heads": 4}):
            with self.subTest(sets=sets):
                out = {"checkpoint.directory": f"out/{len(sets)}{list(sets)[0]}"}
                self.assert_ends(self.run_job(ranks=2, sets={**SETS, **sets, **out}), 0)
                theirs = self.validated()
                ours = self.evaluate(out["checkpoint.directory"])
                if theirs["final_loss"] is None:  # a frozen backbone ends with its last exit
                    theirs["final_loss"] = ours["final_loss"]
                self.assert_close(ours, theirs)

    def test_subnets(self):
        self.assert_ends(self.run_job(ranks=1, sets=SUPERNET), 0)
        listed = self.offramp("checkpoint", "ls", "out/checkpoints")
        self.assertRegex(listed, r"(?s)36 subnets:\n    num_hidden_layers    1, 3, 4\n    hidden_size          8, 16\n.*smallest: .*MFLOPs a token")
        subnets = self.validated()["subnets"]
        self.assertEqual(len(subnets), 2)
        for subnet in subnets:
            ours = self.evaluate("out/checkpoints", "--subnet", json.dumps(subnet["subnet"]))
            self.assertAlmostEqual(ours["final_loss"], subnet["loss"], delta=1e-5 * subnet["loss"])
            self.assertAlmostEqual(ours["final_accuracy"], subnet["accuracy"], places=9)
            folder = f"subnet_{ours['subnet']['num_hidden_layers']}"
            self.offramp("export", "hf", "out/checkpoints", folder, "--subnet", json.dumps(subnet["subnet"]))
            config = json.loads((self.directory / folder / "config.json").read_text())
            self.assertEqual(config["intermediate_size"], ours["subnet"]["intermediate_size"])
            self.offramp("import", "hf", folder, f"{folder}_again")
            self.assert_close(self.evaluate(f"{folder}_again", "--sequence-length", "16"), ours)
            self.offramp("export", "gguf", "out/checkpoints", f"{folder}.gguf", "--subnet", json.dumps(subnet["subnet"]))
            self.offramp("import", "gguf", f"{folder}.gguf", f"{folder}_of_gguf")
            self.assertAlmostEqual(self.evaluate(f"{folder}_of_gguf")["final_loss"], ours["final_loss"], delta=1e-5 * ours["final_loss"])

    def test_refusals(self):
        self.assert_ends(self.run_job(ranks=1, sets=SETS), 0)
        data = ["--data", "data/tiny_valid", "--samples", "2"]
        for ranks in (1, 2):
            for status, said, arguments in ((3, "nothing.idx", ["out/checkpoints", "--data", "nothing", "--samples", "2"]),
                                            (4, "no model is there", ["nowhere", *data]),
                                            (4, "manifest.json", ["step-9", *data]),
                                            (2, "the choices are 1, 3, 4", ["out/checkpoints", *data, "--subnet", '{"num_hidden_layers": 2}']),
                                            (2, "the choices are 24", ["out/checkpoints", *data, "--subnet", '{"intermediate_size": 12}']),
                                            (2, "its sizes are", ["out/checkpoints", *data, "--subnet", '{"depth": 2}']),
                                            (2, "takes 16 tokens", ["out/checkpoints", *data, "--sequence-length", "17"])):
                with self.subTest(said=said, ranks=ranks):
                    self.assertIn(said, self.offramp("eval", *arguments, status=status, ranks=ranks))
        self.assertIn("is required", self.offramp("eval", "out/checkpoints", status=2))
        self.assertIn("choices are 1, 3, 4", self.offramp("export", "hf", "out/checkpoints", "x", "--subnet", '{"num_hidden_layers": 2}', status=2))

    def test_damage(self):
        self.assert_ends(self.run_job(ranks=1, sets={**SETS, "checkpoint.interval": 2}), 0)
        stored = next((self.directory / "out/checkpoints/step-4").glob("*.h5"))
        content = bytearray(stored.read_bytes())
        content[len(content) // 2] ^= 1
        stored.write_bytes(content)
        arguments = ["--data", "data/tiny_valid", "--samples", "2"]
        self.assertIn("are not those that were written", self.offramp("eval", "out/checkpoints/step-4", *arguments, status=4))
        self.assertEqual(self.evaluate()["checkpoint"], "out/checkpoints/step-2")  # the newest that is sound


if __name__ == "__main__":
    unittest.main()
