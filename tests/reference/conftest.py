import numpy as np
import pytest
from corpus import read_tokens, write_tokens
from job import Job, build_corpus, write_mask
from jobs import ALL
from reference import torch
from report import lines_of_report

torch.set_num_threads(1)


def trim(prefix, length):
    """Leaves a whole number of lengths: then the last sample has no target for its last token, and does not count."""
    tokens = read_tokens(prefix)
    tokens = tokens[: len(tokens) // length * length]
    write_tokens(prefix, np.split(tokens, np.flatnonzero(tokens[:-1] == 256) + 1), np.uint16)


@pytest.fixture(scope="session")
def corpora(tmp_path_factory):
    """Prefixes of two corpora, the second of fewer samples than 20 steps read, and of a mask over the first."""
    folder = tmp_path_factory.mktemp("data")
    made = {"first": build_corpus(folder, "first", seed=1, documents=150), "second": build_corpus(folder, "second", seed=2, documents=70)}
    trim(f"{made['second']}_train", 64)
    made["mask"] = write_mask(folder / "mask", f"{made['first']}_train", seed=3)
    return made


class Trained:
    """A configuration's run of 20 steps, and the model it began with."""

    def __init__(self, folder, config):
        self.config = config
        self.job = Job(folder, config)
        self.checkpoint = folder / "checkpoints"
        self.lines = self.job.train("trained", checkpoint__directory=self.checkpoint)
        self.job.train("initial", training__steps=0, training__stop_at=0)
        self.initial, self.exported = self.job.exported("initial"), self.job.exported("trained")


@pytest.fixture(scope="session")
def trained(corpora, tmp_path_factory):
    """trained(name): each configuration is trained once for all tests."""
    runs = {}

    def get(name):
        if name not in runs:
            runs[name] = Trained(tmp_path_factory.mktemp(name), ALL[name](corpora))
        return runs[name]

    return get


def pytest_terminal_summary(terminalreporter):
    for line in lines_of_report():
        terminalreporter.write_line(line)
