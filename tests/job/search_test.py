"""offramp search: what it finds is what eval says, alone and on two ranks, and can be exported as it says."""
import json
import subprocess
import unittest
import xml.dom.minidom

from job import PROGRAM, JobTest, environment

SUPERNET = {"checkpoint.directory": "out/checkpoints", "model.num_attention_heads": 4, "model.num_key_value_heads": 2, "export.hf": "null",
            "model.initializer_range": 0.2, "parallel.pipeline_parallel_size": 1, "training.global_batch_size": 4,
            "supernet": "{plan: sandwich, random_subnets: 1, hidden_size: [8, 16], intermediate_size: [6, 12, 18, 24]}"}
ARGUMENTS = ["out/checkpoints", "--data", "data/tiny_valid", "--samples", "7"]


class Search(JobTest):
    def offramp(self, *arguments, status=0, ranks=1):
        command = (["mpirun", "-np", str(ranks)] if ranks > 1 else []) + [PROGRAM, *arguments]
        done = subprocess.run(command, cwd=self.directory, capture_output=True, text=True, timeout=60, env=environment())
        self.assertEqual(done.returncode, status, done.stdout + done.stderr)
        return done.stdout if status == 0 else done.stderr

    def search(self, *arguments, **options):
        table = self.offramp("search", *ARGUMENTS, "--json", "found.json", *arguments, **options)
        return table, json.loads((self.directory / "found.json").read_text())

    def evaluated(self, directory, *arguments):
        return json.loads(self.offramp("eval", directory, *ARGUMENTS[1:], "--json", *arguments))["final_loss"]

    def test_search(self):
        self.assert_ends(self.run_job(ranks=1, sets=SUPERNET), 0)
        self.finds_what_eval_says()
        self.refuses()

    def finds_what_eval_says(self):
        table, found = self.search("--measure", "9", "--max-flops", "12k", "--svg", "found.svg")
        self.assertEqual((found["limit"], found["by"], len(found["front"]) > 1), (12000, "flops", True))
        self.assertGreater(len(found["subnets"]), 9)
        _, again = self.search("--measure", "9", "--max-flops", "12k", ranks=2)
        self.assertEqual([s["subnet"] for s in again["subnets"]], [s["subnet"] for s in found["subnets"]])
        for one, two in zip(found["subnets"], again["subnets"]):
            self.assertAlmostEqual(one["loss"], two["loss"], delta=1e-6 * one["loss"])
        for subnet in found["subnets"][::4]:
            self.assertAlmostEqual(self.evaluated("out/checkpoints", "--subnet", json.dumps(subnet["subnet"])), subnet["loss"], delta=1e-5 * subnet["loss"])
        best = found["subnets"][found["best"]]
        self.assertLessEqual(best["flops"], 12000)
        self.assertEqual(best["loss"], min(s["loss"] for s in found["subnets"] if s["flops"] <= 12000))
        command = next(line.split("offramp ", 1)[1] for line in table.splitlines() if "offramp export" in line)
        name, kind, checkpoint, _, option, subnet = command.split(" ", 5)
        self.offramp(name, kind, checkpoint, "best", option, subnet.strip("'"))
        self.assertAlmostEqual(self.evaluated("best", "--sequence-length", "16"), best["loss"], delta=1e-5 * best["loss"])
        self.offramp("export", "hf", "out/checkpoints", "whole")
        of_whole = self.offramp("search", "whole", *ARGUMENTS[1:], "--sequence-length", "16")
        self.assertIn("all 3 subnets measured", of_whole)
        self.assertIn("offramp import hf whole CHECKPOINT", of_whole)
        picture = xml.dom.minidom.parse(str(self.directory / "found.svg"))
        self.assertGreater(len(picture.getElementsByTagName("circle")), len(found["subnets"]))
        _, timed = self.search("--measure", "4", "--by", "latency", ranks=2)
        self.assertTrue(all(s["latency_s"] > 0 for s in timed["subnets"]))

    def refuses(self):
        for ranks in (1, 2):
            for status, said, arguments in ((2, "the smallest, {\"num_hidden_layers\":1,", [*ARGUMENTS, "--max-parameters", "10"]),
                                            (2, "no subnet keeps to it", [*ARGUMENTS, "--max-latency", "1e-6", "--measure", "2"]),
                                            (4, "nowhere/found.svg", [*ARGUMENTS, "--svg", "nowhere/found.svg"]),
                                            (4, "no model is there", ["nowhere", *ARGUMENTS[1:]])):
                with self.subTest(said=said, ranks=ranks):
                    self.assertIn(said, self.offramp("search", *arguments, status=status, ranks=ranks))
        self.assertIn("excludes", self.offramp("search", *ARGUMENTS, "--max-flops", "1M", "--max-latency", "3", status=2))
        self.assertIn("--max-flops", self.offramp("search", *ARGUMENTS, "--max-flops", "1Q", status=2))


if __name__ == "__main__":
    unittest.main()
