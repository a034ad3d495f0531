"""What everyone trains: the model, the job, the tokens and the initial weights.

    work = Workload(folder)
    config = work.config("exits", "bf16", Layout(micro_batch=2, data=2, threads=1), steps=5)   # a job for `offramp train`
    work.initial("exits")                                                                     # the export all begin from
"""

import json
import shutil
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path.append(str(ROOT / "tests" / "reference"))
from corpus import Samples, write_tokens  # noqa: E402,F401  (the reader that the tests trust)

MODEL = {"architecture": "llama", "num_hidden_layers": 8, "hidden_size": 512, "intermediate_size": 1376, "num_attention_heads": 8,
         "num_key_value_heads": 8, "vocab_size": 8192, "max_position_embeddings": 512, "rope_theta": 10000.0, "rms_norm_eps": 1.0e-5}
EXITS = {"exits": [{"layer": 2, "head": "norm", "loss_weight": 0.25}, {"layer": 4, "head": "norm", "loss_weight": 0.5}], "dense": []}
MODELS = {"exits": "two exits", "dense": "no exits"}
SEQUENCE, BATCH = 512, 8
OPTIMIZER = {"name": "adamw", "lr": 3.0e-4, "betas": [0.9, 0.95], "eps": 1.0e-8, "weight_decay": 0.1, "clip_grad_norm": 1.0}
TOKENS_PER_STEP = SEQUENCE * BATCH


@dataclass(frozen=True)
class Layout:
    """How the samples of a step are spread."""
    micro_batch: int = 4
    data: int = 1
    pipeline: int = 1
    threads: int = 2

    @property
    def ranks(self) -> int:
        return self.data * self.pipeline

    @property
    def micro_batches(self) -> int:
        return BATCH // (self.micro_batch * self.data)

    def __str__(self) -> str:
        ranks = f"{self.data} data x {self.pipeline} pipeline ranks, threads of each: {self.threads}"
        return f"{ranks}, global batch {BATCH} = {self.data} x {self.micro_batches} microbatches of {self.micro_batch}"


def matrix_shapes(model: str) -> list[tuple[str, int, int, int]]:
    """name, inputs, outputs and count of the matrices that every token meets."""
    h, f, v, layers = (MODEL[k] for k in ("hidden_size", "intermediate_size", "vocab_size", "num_hidden_layers"))
    return [("q, k, v", h, 3 * h, layers), ("attention output", h, h, layers), ("gate, up", h, 2 * f, layers), ("down", f, h, layers),
            ("head", h, v, 1 + len(EXITS[model]))]


def flops_per_token(model: str) -> int:
    """Forward and backward: the matrices three times over, and the causal half of attention."""
    matrices = sum(6 * i * o * count for _, i, o, count in matrix_shapes(model))
    return matrices + 6 * MODEL["num_hidden_layers"] * MODEL["hidden_size"] * SEQUENCE


def write_corpus(prefix: Path, samples: int) -> None:
    """Tokens in which a model has something to learn: most follow from the one before, all are drawn by Zipf's law."""
    generator = np.random.default_rng(20)
    vocabulary, count = MODEL["vocab_size"], samples * SEQUENCE + 1
    drawn = np.minimum(generator.zipf(1.2, count) - 1, vocabulary - 1)
    follows, follower = generator.random(count) < 0.6, generator.permutation(vocabulary)
    tokens = drawn.copy()
    for i in np.flatnonzero(follows[1:]) + 1:
        tokens[i] = follower[tokens[i - 1]]
    write_tokens(prefix, np.array_split(tokens, samples), np.uint16)


class Workload:
    def __init__(self, folder: Path, steps: int):
        """The corpus holds as many samples as `steps` steps read."""
        self.folder, self.corpus = folder, folder / "tokens"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        write_corpus(self.corpus, steps * BATCH)

    def config(self, model: str, precision: str, layout: Layout, steps: int) -> dict:
        training = {"sequence_length": SEQUENCE, "micro_batch_size": layout.micro_batch, "global_batch_size": BATCH, "steps": steps,
                    "threads": layout.threads, "precision": precision}
        parallel = {"data_parallel_size": layout.data, "pipeline_parallel_size": layout.pipeline, "schedule": "1f1b"}
        return {"model": MODEL, "exits": EXITS[model], "parallel": parallel, "training": training, "optimizer": OPTIMIZER,
                "data": {"train": str(self.corpus), "shuffle": False}, "logging": {"tensorboard": False}}

    def initial(self, model: str) -> Path:
        """Where the initial weights of a model are exported to."""
        return self.folder / f"initial_{model}"

    def rival(self, model: str, precision: str, layout: Layout, compiled: bool) -> str:
        """The same job for a worker of PyTorch."""
        return json.dumps({"model": MODEL, "exits": EXITS[model], "optimizer": OPTIMIZER, "layout": asdict(layout), "precision": precision,
                           "compiled": compiled, "sequence": SEQUENCE, "batch": BATCH, "corpus": str(self.corpus),
                           "initial": str(self.initial(model))})
