"""The dry run: fast at any size, and right."""
import re
import resource
import unittest

from job import JobTest, metrics

LARGE = """
model: {architecture: llama, num_hidden_layers: 32, hidden_size: 4096, intermediate_size: 11008, num_attention_heads: 32, vocab_size: 32000}
exits:
  - {layer: 8, head: norm, loss_weight: 0.25}
  - {layer: 16, head: mlp, loss_weight: 0.5}
training: {sequence_length: 2048, micro_batch_size: 1, global_batch_size: 2048, steps: 10}
optimizer: {lr: 1.0e-3}
data: {train: nowhere}
"""
ROW = re.compile(r"^ *(?P<stage>\d+) +(?P<tensor>\d+) +(?P<first>\d+)-(?P<last>\d+) .* (?P<optimizer>[\d.]+ [kMG]B)( +[\d.]+ [kMG]B){3} +"
                 r"(?P<peak>[\d.]+ [kMG]B) +[\d.]+ [kMG]B  (?P<ranks>[\d., ]+)$", re.M)


def size_text(size):
    for unit, name, digits in ((1e9, "GB", 2), (1e6, "MB", 1)):
        if size >= unit:
            return f"{size / unit:.{digits}f} {name}"
    return f"{size / 1e3:.1f} kB"


def bytes_of(text):
    number, unit = text.split()
    return float(number) * {"GB": 1e9, "MB": 1e6, "kB": 1e3}[unit]


def processor_seconds():
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


class DryRun(JobTest):
    def dry_run(self, ranks, sets, *wanted):
        arguments = [*self.arguments(1, sets), "--dry-run", "--ranks", str(ranks)]
        result = self.run_job(ranks=1, arguments=arguments)
        self.assert_ends(result, 0, *wanted)
        return list(ROW.finditer(result.said))

    def test_1024_ranks_of_a_7b_model(self):
        (self.directory / "job.yaml").write_text(LARGE)
        for stages in (8, 32):
            with self.subTest(stages=stages):
                layers = 32 // stages
                sets = {"parallel.pipeline_parallel_size": stages, "parallel.partition": [layers] * stages}
                before = processor_seconds()
                rows = self.dry_run(1024, sets, rf"^1024 ranks: tensor 1 x pipeline {stages} x data {1024 // stages}")
                # Processor time: the wall's on a machine that does nothing else, and no other job can make it longer.
                self.assertLess(processor_seconds() - before, 2)
                self.assertEqual([(int(row["first"]), int(row["last"])) for row in rows],
                                 [(s * layers + 1, s * layers + layers) for s in range(stages)])
                for stage, row in enumerate(rows):
                    self.assertEqual(row["ranks"], f"{stage}, {stage + stages}, {stage + 2 * stages}, ..., {1024 - stages + stage}")
                    self.assertRegex(row["peak"], r"GB$")

    def test_1024_ranks_with_tensor_parallelism(self):
        (self.directory / "job.yaml").write_text(LARGE)
        sets = {"parallel.tensor_parallel_size": 8, "parallel.pipeline_parallel_size": 8, "parallel.sequence_parallel": "true",
                "training.precision": "bf16"}
        whole = self.dry_run(1024, sets, r"^1024 ranks: tensor 8 \(sequence parallel\) x pipeline 8 x data 16, bf16")
        self.assertEqual([(int(row["stage"]), int(row["tensor"])) for row in whole], [(s, t) for s in range(8) for t in range(8)])
        sharded = self.dry_run(1024, sets | {"parallel.zero_stage": 1}, r"data 16 \(optimizer sharded\)")
        for row, part in zip(whole, sharded, strict=True):
            self.assertEqual(row["ranks"], part["ranks"])
            self.assertAlmostEqual(bytes_of(row["optimizer"]) / 16, bytes_of(part["optimizer"]), delta=0.01 * bytes_of(part["optimizer"]))

    def test_peak_is_what_a_run_takes(self):
        rows = self.dry_run(4, {"parallel.pipeline_parallel_size": 2}, r"^4 ranks: tensor 1 x pipeline 2 x data 2")
        self.assertEqual(len(rows), 2)
        self.assert_ends(self.run_job(ranks=4), 0)
        measured = {size_text(record["peak_bytes"]) for record in metrics(self.directory)}
        self.assertEqual(len(measured), 1)
        self.assertIn(measured.pop(), [row["peak"] for row in rows])

    def test_of_features_and_of_the_steps_from_them(self):
        for target in ("labels", "distribution"):
            with self.subTest(target):
                self.of_features(f"features-{target}", f"[{{layer: 1, loss_weight: 1, target: {target}}}, {{layer: 2, loss_weight: 1}}]")

    def of_features(self, directory, exits):
        sets = {"parallel.pipeline_parallel_size": 2, "training.freeze": "backbone", "tuning.feature_cache": directory, "exits": exits,
                "logging.directory": directory + "-log"}
        making, step = "^4 ranks: tensor 1 x pipeline 2 x data 2", "^4 ranks: tensor 1 x pipeline 1 x data 4"
        rows = self.dry_run(4, sets, making, step)
        self.assertEqual([row["ranks"] for row in rows], ["0, 2", "1, 3", "0, 1, 2, 3"])
        self.assertFalse((self.directory / directory).exists())
        self.assert_ends(self.run_job(ranks=4, sets=sets), 0)
        self.assertEqual({size_text(record["peak_bytes"]) for record in metrics(self.directory, directory + "-log")}, {rows[2]["peak"]})

    def test_refuses_like_a_run(self):
        result = self.run_job(ranks=1, arguments=[*self.arguments(1, {"parallel.pipeline_parallel_size": 3}), "--dry-run", "--ranks", "1024"])
        self.assert_refused(result, 2, r"3 does not divide the number of ranks, 1024")


if __name__ == "__main__":
    unittest.main()
