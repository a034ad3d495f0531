"""The same training at every layout: any number of pipeline stages and copies, any schedule, any repetition.

Needs Python's standard library alone:  OFFRAMP_BINARY=build/offramp python3 layouts_test.py
"""

import sys
import tempfile
import unittest
from pathlib import Path

from job import Job, build_corpus, training_lines, validation_lines, write_mask

TOLERANCE = 1e-5  # relative, fp32: sums of another order
LAYOUTS = [(1, 1), (2, 1), (4, 1), (8, 1), (1, 2), (1, 4), (2, 2), (2, 4), (4, 2)]  # pipeline stages, data-parallel copies
TIMES = ("step_time_s", "tokens_per_s", "mfu", "peak_bytes", "phase_s")

OWN = [{"layer": 1, "head": "mlp", "loss_weight": 0.3}, {"layer": 2, "head": "bare", "loss_weight": 0.2},
       {"layer": 4, "head": "norm", "loss_weight": 0.25, "token_weight": "confidence"},
       {"layer": 6, "head": "attention", "loss_weight": 0.5, "lr_scale": 2.0}, {"layer": 8, "head": "block", "loss_weight": 0.7}]
# Exits on first, inner and last stages that hold the embedding's matrix, the final norm, or both, beside some of their own.
SHARED = [{"layer": 1, "head": "norm", "output": "shared", "norm": "shared", "loss_weight": 0.3},
          {"layer": 3, "head": "block", "output": "shared", "loss_weight": 0.2},
          {"layer": 4, "head": "bare", "output": "shared", "loss_weight": 0.2},
          {"layer": 5, "head": "attention", "norm": "shared", "loss_weight": 0.4, "detach": True},
          {"layer": 8, "head": "mlp", "output": "shared", "norm": "shared", "loss_weight": 0.3}]


def configuration(directory: Path, tied: bool) -> dict:
    corpus = build_corpus(directory, "corpus", seed=1, documents=80)
    masks = {"loss_mask": str(write_mask(directory / "mask", f"{corpus}_train", seed=2))} if tied else {"document_mask": True}
    return {
        "model": {"num_hidden_layers": 8, "hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 2, "num_key_value_heads": 1,
                  "vocab_size": 257, "initializer_range": 0.1, "tie_word_embeddings": tied},
        "exits": SHARED if tied else OWN,
        "exit_loss": {"schedule": "linear", "start_scale": 0.2, "warmup_steps": 10},
        "training": {"sequence_length": 32, "micro_batch_size": 1, "global_batch_size": 8, "steps": 20, "validation_samples": 5,
                     "timeout_s": 60},
        "optimizer": {"lr": 0.002, "clip_grad_norm": 0.5, "lr_schedule": {"name": "cosine", "warmup_steps": 4}},
        "data": {"train": f"{corpus}_train", "validation": f"{corpus}_valid"} | masks,
        "logging": {"tensorboard": False},
    }


def numbers(lines: list[dict]) -> list[dict]:
    """Every number but times, by name: `step 3 exit 2`."""
    flat = []
    for line in lines:
        kept = {key: value for key, value in line.items() if key not in TIMES and isinstance(value, (int, float))}
        flat.append(kept | {f"exit {layer}": loss for layer, loss in line["exit_losses"].items()})
    return flat


def files(exported: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(exported.iterdir())}


class Layouts:
    """The tests of one configuration; a subclass says whether its embedding is tied."""

    tied: bool

    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.TemporaryDirectory()
        directory = Path(cls.folder.name)
        cls.job = Job(directory, configuration(directory, cls.tied))
        cls.serial = cls.train("serial", 1, 1)

    @classmethod
    def tearDownClass(cls):
        cls.folder.cleanup()

    @classmethod
    def train(cls, name: str, stages: int, copies: int, **settings) -> list[dict]:
        settings |= {"parallel__pipeline_parallel_size": stages, "parallel__data_parallel_size": copies}
        lines = cls.job.train(name, stages * copies, **settings)
        assert len(training_lines(lines)) == 20 and len(validation_lines(lines)) == 1, f"{name}: {len(lines)} lines"
        return numbers(lines)

    def same_bits(self, one: str, other: str, lines: list[dict], other_lines: list[dict]):
        for a, b in zip(lines, other_lines, strict=True):
            self.assertEqual(a, b, f"{one}, {other}")
        a, b = files(self.job.exported(one)), files(self.job.exported(other))
        self.assertEqual(a.keys(), b.keys())
        self.assertIn("exits.safetensors", a)
        self.assertEqual([name for name in a if a[name] != b[name]], [], f"files of {one} and {other} differ")

    def test_serial_training_learns(self):
        self.assertLess(self.serial[19]["final_loss"], self.serial[0]["final_loss"])
        self.assertTrue(any(line["grad_norm"] > 0.5 for line in self.serial[:20]), "the configuration does not clip")

    def test_layouts_agree(self):
        for stages, copies in LAYOUTS[1:]:
            with self.subTest(stages=stages, copies=copies):
                lines = self.train(f"layout_{stages}_{copies}", stages, copies)
                for expected, line in zip(self.serial, lines, strict=True):
                    self.assertEqual(expected.keys(), line.keys())
                    for key, value in expected.items():
                        off = abs(line[key] - value)
                        self.assertLessEqual(off, TOLERANCE * abs(value), f"step {line['step']}, {key}: {line[key]}, serial {value}")

    def test_repetition_is_bitwise(self):
        self.same_bits("serial", "serial_again", self.serial, self.train("serial_again", 1, 1))
        threads = [self.train(name, 1, 1, training__threads=2) for name in ("threads", "threads_again")]
        self.same_bits("threads", "threads_again", *threads)
        self.same_bits("four", "four_again", self.train("four", 2, 2), self.train("four_again", 2, 2))

    def test_schedules_are_bitwise_equal(self):
        for stages, copies in ((4, 1), (2, 2)):
            with self.subTest(stages=stages, copies=copies):
                # Without clipping, whose factor would hide a gradient that is wrong by a factor.
                lines = {schedule: self.train(f"{schedule}_{stages}_{copies}", stages, copies, parallel__schedule=schedule,
                                              optimizer__clip_grad_norm=0) for schedule in ("gpipe", "1f1b")}
                self.same_bits(f"gpipe_{stages}_{copies}", f"1f1b_{stages}_{copies}", *lines.values())


class Untied(Layouts, unittest.TestCase):
    tied = False

    def test_detached_exits_leave_the_backbone_alone(self):
        """Without clipping, whose factor every gradient enters, not a bit of the backbone differs from training without exits."""
        detached = {f"exits__{i}__detach": "true" for i in range(len(OWN))}
        with_exits = self.train("detached", 2, 1, optimizer__clip_grad_norm=0, **detached)
        without = self.train("no_exits", 2, 1, optimizer__clip_grad_norm=0, exits="[]")
        self.assertEqual([line["final_loss"] for line in with_exits], [line["final_loss"] for line in without])
        models = [files(self.job.exported(name))["model.safetensors"] for name in ("detached", "no_exits")]
        self.assertEqual(*models)


class Tied(Layouts, unittest.TestCase):
    tied = True


if __name__ == "__main__":
    sys.exit(unittest.main())
