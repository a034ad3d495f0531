"""Runs the program under test and reads what it leaves behind. Only Python's standard library.

    job = Job(directory)                          # a folder of its own for each run
    corpus = build_corpus(directory, "text", seed=1, documents=60)
    lines = job.train(config, "run", ranks=4)     # the objects of metrics.jsonl, in order
"""

import json
import os
import random
import struct
import subprocess
from pathlib import Path

WORDS = "early exit heads leave inner layers so that easy tokens cost less than hard ones do while a deep model still reads on".split()


def binary() -> str:
    return os.environ["OFFRAMP_BINARY"]


def run(arguments: list[str], ranks: int = 1, timeout: float = 300) -> str:
    """Runs the program; its whole output is the message of the error it may end with."""
    command = [binary(), *map(str, arguments)]
    if ranks > 1:
        command = ["mpirun", "--allow-run-as-root", "--oversubscribe", "--bind-to", "none", "-np", str(ranks), *command]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=timeout)
    if done.returncode != 0:
        raise AssertionError(f"{' '.join(command)}\nended with {done.returncode}:\n{done.stdout}")
    return done.stdout


def write_text(directory: Path, seed: int, documents: int) -> Path:
    """Files of a few words each, so that samples hold several documents and some documents several samples."""
    directory.mkdir(parents=True)
    generator = random.Random(seed)
    for i in range(documents):
        words = generator.choices(WORDS, k=generator.randint(3, 40))
        (directory / f"{i:04}.txt").write_text(" ".join(words) + "\n")
    return directory


def build_corpus(directory: Path, name: str, seed: int, documents: int, tokenizer: str = "bytes") -> Path:
    """The prefix whose _train and _valid token files it makes."""
    text = write_text(directory / f"{name}_text", seed, documents)
    prefix = directory / name
    run(["data", "build", "--input", text, "--tokenizer", tokenizer, "--output", prefix, "--validation-fraction", "0.2"])
    return prefix


def write_mask(prefix: Path, corpus: str, seed: int) -> Path:
    """A loss mask over a corpus of 16-bit tokens, as one document of bytes: about a third of its targets do not count."""
    tokens = Path(f"{corpus}.bin").stat().st_size // 2
    Path(f"{prefix}.bin").write_bytes(bytes(random.Random(seed).choices((0, 1, 2), k=tokens)))
    index = struct.pack("<QBQQ", 1, 1, 1, 2) + struct.pack("<iqqq", tokens, 0, 0, 1)
    Path(f"{prefix}.idx").write_bytes(b"MMIDIDX\0\0" + index)
    return prefix


class Job:
    """One configuration and the folder that its runs write to."""

    def __init__(self, directory: Path, config: dict):
        self.directory = directory
        self.config = config
        directory.mkdir(parents=True, exist_ok=True)
        self.file = directory / "job.yaml"
        self.file.write_text(json.dumps(config, indent=1))  # JSON is YAML

    def exported(self, name: str) -> Path:
        return self.directory / name / "hf"

    def train(self, name: str, ranks: int = 1, **settings) -> list[dict]:
        """Trains with `settings` (section__key=value) over the configuration, into the folder `name`."""
        folder = self.directory / name
        settings |= {"logging__directory": folder, "export__hf": folder / "hf"}
        options = [part for key, value in settings.items() for part in ("--set", f"{key.replace('__', '.')}={value}")]
        run(["train", self.file, *options], ranks)
        with open(folder / "metrics.jsonl", encoding="utf-8") as lines:
            return [json.loads(line) for line in lines if line.strip()]


def training_lines(lines: list[dict]) -> list[dict]:
    return [line for line in lines if "split" not in line]


def validation_lines(lines: list[dict]) -> list[dict]:
    return [line for line in lines if line.get("split") == "validation"]
