"""The same training at every layout: any number of tensor ranks, pipeline stages and copies, any schedule, any repetition.

Needs Python's standard library alone:  OFFRAMP_BINARY=build/offramp python3 layouts_test.py
"""

import json
import math
import sys
import tempfile
import unittest
from array import array
from dataclasses import dataclass
from pathlib import Path

from job import Job, build_corpus, training_lines, validation_lines, write_mask

TOLERANCE = 1e-5  # relative, fp32: sums of another order
BF16_LOSSES, BF16_NORMS = 2.0**-9, 2.0**-6  # relative, of bf16 to fp32: what contracts.md promises
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


SHARED_GPT2 = [{"layer": 1, "head": "mlp", "loss_weight": 0.3}, {"layer": 3, "head": "block", "output": "shared", "loss_weight": 0.2},
               {"layer": 4, "head": "bare", "output": "shared", "loss_weight": 0.2},
               {"layer": 5, "head": "attention", "norm": "shared", "loss_weight": 0.4, "detach": True},
               {"layer": 7, "head": "norm", "output": "shared", "norm": "shared", "loss_weight": 0.3}]


@dataclass(frozen=True)
class Layout:
    tensor: int = 1
    pipeline: int = 1
    data: int = 1
    sequence: bool = False  # sequence parallelism
    zero: int = 0
    heads: bool = False  # split by vocabulary over the pipeline
    stages: int = 1  # a pipeline rank

    @property
    def ranks(self) -> int:
        return self.tensor * self.pipeline * self.data

    @property
    def settings(self) -> dict:
        return {"parallel__tensor_parallel_size": self.tensor, "parallel__pipeline_parallel_size": self.pipeline,
                "parallel__data_parallel_size": self.data, "parallel__sequence_parallel": str(self.sequence).lower(),
                "parallel__zero_stage": self.zero, "parallel__shard_heads_over_pipeline": str(self.heads).lower(),
                "parallel__virtual_stages": self.stages, "parallel__schedule": "interleaved" if self.stages > 1 else "1f1b"}

    @property
    def name(self) -> str:
        return f"{self.tensor}x{self.pipeline}x{self.data}{'s' if self.sequence else ''}{'z' if self.zero else ''}{'h' if self.heads else ''}{self.stages if self.stages > 1 else ''}"


DEGREES = [(2, 1, 1), (4, 1, 1), (2, 2, 1), (2, 1, 2), (1, 2, 2), (2, 2, 2), (4, 2, 1)]  # tensor, pipeline, data
PLAIN = [Layout(*degrees) for degrees in DEGREES]
DIVIDED = [Layout(*degrees, sequence=True, zero=1) for degrees in DEGREES]  # everything divided that can be
OTHERS = [Layout(pipeline=4), Layout(pipeline=8), Layout(data=2), Layout(data=4, zero=1), Layout(pipeline=2, data=4),
          Layout(2, 1, 2, sequence=True), Layout(2, 1, 2, zero=1)]
STAGES = [Layout(pipeline=2, stages=4), Layout(2, 2, 2, sequence=True, zero=1, stages=2)]
HEADS = [Layout(pipeline=4, heads=True), Layout(2, 2, 2, sequence=True, zero=1, heads=True)]


def configuration(directory: Path, *, architecture: str, tied: bool, exits: list[dict]) -> dict:
    corpus = build_corpus(directory, "corpus", seed=1, documents=80)
    masks = {"loss_mask": str(write_mask(directory / "mask", f"{corpus}_train", seed=2))} if tied else {"document_mask": True}
    groups = {} if architecture == "gpt2" else {"num_key_value_heads": 4}
    return {
        "model": {"architecture": architecture, "num_hidden_layers": 8, "hidden_size": 32, "intermediate_size": 48,
                  "num_attention_heads": 8 if groups else 4, "vocab_size": 257, "initializer_range": 0.1, "tie_word_embeddings": tied} | groups,
        "exits": exits,
        "exit_loss": {"schedule": "linear", "start_scale": 0.2, "warmup_steps": 10},
        "training": {"sequence_length": 32, "micro_batch_size": 1, "global_batch_size": 8, "steps": 20, "validation_samples": 5,
                     "timeout_s": 60},
        # Adam divides a gradient by its size: of an element whose gradient is next to 0, an eps of 1e-8 would leave nothing but rounding.
        "optimizer": {"lr": 0.002, "eps": 1.0e-6, "clip_grad_norm": 0.5, "lr_schedule": {"name": "cosine", "warmup_steps": 4}},
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


def weights(exported: Path) -> dict[str, array]:
    """Every tensor of an export, fp32."""
    tensors = {}
    for file in ("model.safetensors", "exits.safetensors"):
        content = (exported / file).read_bytes()
        size = int.from_bytes(content[:8], "little")
        for name, entry in json.loads(content[8:8 + size]).items():
            if name != "__metadata__":
                begin, end = entry["data_offsets"]
                tensors[name] = array("f", content[8 + size + begin:8 + size + end])
    return tensors


class Layouts:
    """The tests of one configuration; a subclass names it."""

    architecture: str
    tied: bool
    exits: list[dict]

    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.TemporaryDirectory()
        directory = Path(cls.folder.name)
        cls.job = Job(directory, configuration(directory, architecture=cls.architecture, tied=cls.tied, exits=cls.exits))
        cls.serial = cls.train("serial", Layout())

    @classmethod
    def tearDownClass(cls):
        cls.folder.cleanup()

    @classmethod
    def train(cls, name: str, layout: Layout, **settings) -> list[dict]:
        lines = cls.job.train(name, layout.ranks, **(layout.settings | settings))
        assert len(training_lines(lines)) == 20 and len(validation_lines(lines)) == 1, f"{name}: {len(lines)} lines"
        return numbers(lines)

    def same_bits(self, one: str, other: str, lines: list[dict], other_lines: list[dict]):
        for a, b in zip(lines, other_lines, strict=True):
            self.assertEqual(a, b, f"{one}, {other}")
        a, b = files(self.job.exported(one)), files(self.job.exported(other))
        self.assertEqual(a.keys(), b.keys())
        self.assertIn("exits.safetensors", a)
        self.assertEqual([name for name in a if a[name] != b[name]], [], f"files of {one} and {other} differ")

    def close(self, lines: list[dict], losses: float = TOLERANCE, norms: float = TOLERANCE):
        for expected, line in zip(self.serial, lines, strict=True):
            self.assertEqual(expected.keys(), line.keys())
            for key, value in expected.items():
                tolerance = norms if key == "grad_norm" else losses
                off = abs(line[key] - value)
                self.assertLessEqual(off, tolerance * abs(value), f"step {line['step']}, {key}: {line[key]}, serial {value}")

    def close_weights(self, name: str):
        """The distance of each tensor, relative to its length."""
        ours, serial = weights(self.job.exported(name)), weights(self.job.exported("serial"))
        self.assertEqual(ours.keys(), serial.keys())
        for tensor, expected in serial.items():
            if tensor.endswith("c_attn.bias"):
                # A key's bias moves no probability: its gradient is rounding alone, and Adam makes as much of that as of any other.
                third = len(expected) // 3
                for values in (expected, ours[tensor]):
                    del values[third:2 * third]
            off = math.dist(ours[tensor], expected)
            self.assertLessEqual(off, TOLERANCE * math.hypot(*expected), f"{name}: {tensor}")

    def test_serial_training_learns(self):
        self.assertLess(self.serial[19]["final_loss"], self.serial[0]["final_loss"])
        self.assertTrue(any(line["grad_norm"] > 0.5 for line in self.serial[:20]), "the configuration does not clip")

    def test_layouts_agree(self):
        for layout in self.layouts:
            with self.subTest(layout=layout.name):
                self.close(self.train(layout.name, layout))
                self.close_weights(layout.name)

    def test_repetition_is_bitwise(self):
        self.same_bits("serial", "serial_again", self.serial, self.train("serial_again", Layout()))
        threads = [self.train(name, Layout(), training__threads=2) for name in ("threads", "threads_again")]
        self.same_bits("threads", "threads_again", *threads)
        layout = DIVIDED[-2]
        self.same_bits("eight", "eight_again", self.train("eight", layout), self.train("eight_again", layout))

    def test_schedules_are_bitwise_equal(self):
        for layout in (Layout(pipeline=4), Layout(2, 2, 2, sequence=True, zero=1)):
            with self.subTest(layout=layout.name):
                # Without clipping, whose factor would hide a gradient that is wrong by a factor.
                lines = {schedule: self.train(f"{schedule}_{layout.name}", layout, parallel__schedule=schedule,
                                              optimizer__clip_grad_norm=0) for schedule in ("gpipe", "1f1b")}
                self.same_bits(f"gpipe_{layout.name}", f"1f1b_{layout.name}", *lines.values())


class Untied(Layouts, unittest.TestCase):
    architecture, tied, exits = "llama", False, OWN
    layouts = OTHERS + DIVIDED + HEADS[:1] + STAGES[:1]

    def test_detached_exits_leave_the_backbone_alone(self):
        """Without clipping, whose factor every gradient enters, not a bit of the backbone differs from training without exits."""
        detached = {f"exits__{i}__detach": "true" for i in range(len(OWN))}
        with_exits = self.train("detached", Layout(pipeline=2), optimizer__clip_grad_norm=0, **detached)
        without = self.train("no_exits", Layout(pipeline=2), optimizer__clip_grad_norm=0, exits="[]")
        self.assertEqual([line["final_loss"] for line in with_exits], [line["final_loss"] for line in without])
        models = [files(self.job.exported(name))["model.safetensors"] for name in ("detached", "no_exits")]
        self.assertEqual(*models)

    def test_bf16_follows(self):
        """A rank's own noise, and at every layout no more."""
        for layout in (Layout(), *DIVIDED):
            with self.subTest(layout=layout.name):
                self.close(self.train(f"bf16_{layout.name}", layout, training__precision="bf16"), BF16_LOSSES, BF16_NORMS)
        layout = DIVIDED[-2]
        again = [self.train(name, layout, training__precision="bf16") for name in ("bf16_once", "bf16_twice")]
        self.same_bits("bf16_once", "bf16_twice", *again)


class Tied(Layouts, unittest.TestCase):
    architecture, tied, exits = "llama", True, SHARED
    layouts = PLAIN + HEADS + STAGES


class Gpt2(Layouts, unittest.TestCase):
    architecture, tied, exits = "gpt2", True, SHARED_GPT2
    layouts = DIVIDED + PLAIN[:2]

    def test_dropout_falls_alike(self):
        """Another training than without, and the same at every layout."""
        settings = {"model__hidden_dropout": 0.1, "model__attention_dropout": 0.2}
        plain = self.serial
        type(self).serial = self.train("dropout", Layout(), **settings)
        try:
            self.assertNotEqual(plain[0]["loss"], self.serial[0]["loss"])
            for layout in (Layout(2, 2, 2, sequence=True, zero=1), Layout(4)):
                with self.subTest(layout=layout.name):
                    self.close(self.train(f"dropout_{layout.name}", layout, **settings))
        finally:
            type(self).serial = plain


if __name__ == "__main__":
    sys.exit(unittest.main())
