"""Megatron token files and the samples of a job, read by the published format and the project's contract alone."""

import struct
from fractions import Fraction
from pathlib import Path

import numpy as np

TYPES = {1: np.uint8, 2: np.int8, 3: np.int16, 4: np.int32, 5: np.int64, 8: np.uint16}


def read_tokens(prefix: str | Path) -> np.ndarray:
    """All documents of PREFIX.bin, one after the other: [tokens] int64."""
    index = Path(f"{prefix}.idx").read_bytes()
    assert index[:9] == b"MMIDIDX\0\0", f"{prefix}.idx is no Megatron index"
    version, kind, sequences, _ = struct.unpack_from("<QBQQ", index, 9)
    assert version == 1
    lengths = np.frombuffer(index, np.int32, sequences, 34)
    offsets = np.frombuffer(index, np.int64, sequences, 34 + 4 * sequences)
    data, kind = Path(f"{prefix}.bin").read_bytes(), TYPES[kind]
    return np.concatenate([np.frombuffer(data, kind, n, at) for n, at in zip(lengths, offsets)]).astype(np.int64)


def write_tokens(prefix: str | Path, documents: list[np.ndarray], kind: type) -> None:
    Path(f"{prefix}.bin").write_bytes(np.concatenate(documents).astype(kind).tobytes())
    code = next(code for code, known in TYPES.items() if known is kind)
    lengths = np.array([len(d) for d in documents], np.int32)
    ends = np.cumsum(lengths, dtype=np.int64) * np.dtype(kind).itemsize
    header = b"MMIDIDX\0\0" + struct.pack("<QBQQ", 1, code, len(documents), len(documents) + 1)
    arrays = (lengths, np.concatenate([[0], ends[:-1]]), np.arange(len(documents) + 1))
    Path(f"{prefix}.idx").write_bytes(header + arrays[0].tobytes() + b"".join(a.astype(np.int64).tobytes() for a in arrays[1:]))


class Samples:
    """Global sample g of one or several corpora, in order (shuffle: false): tokens [s + 1], counted targets [s]."""

    def __init__(self, corpora, sequence_length: int, loss_mask: str | None = None):
        corpora = [{"path": corpora}] if isinstance(corpora, str) else corpora
        self.streams = [read_tokens(c["path"]) for c in corpora]
        weights = [Fraction(str(c.get("weight", 1))) for c in corpora]
        self.weights = [w / sum(weights) for w in weights]
        self.mask = read_tokens(loss_mask) if loss_mask else None
        self.s = sequence_length
        self.taken = [0] * len(corpora)
        self.picks: list[tuple[int, int]] = []  # of each global sample: corpus, sample of it

    def __len__(self) -> int:
        return sum((len(stream) - 1) // self.s for stream in self.streams)

    def _pick(self, g: int) -> tuple[int, int]:
        while len(self.picks) <= g:  # the corpus that lags most behind its weight, the first of equals
            lag = [w * (len(self.picks) + 1) - taken for w, taken in zip(self.weights, self.taken)]
            corpus = lag.index(max(lag))
            self.picks.append((corpus, self.taken[corpus]))
            self.taken[corpus] += 1
        return self.picks[g]

    def read(self, g: int) -> tuple[np.ndarray, np.ndarray]:
        corpus, i = self._pick(g)
        stream = self.streams[corpus]
        first = i % ((len(stream) - 1) // self.s) * self.s
        counted = np.ones(self.s, bool) if self.mask is None else self.mask[first + 1 : first + self.s + 1] != 0
        return stream[first : first + self.s + 1], counted

    def batch(self, first: int, end: int) -> tuple[np.ndarray, np.ndarray]:
        """tokens [end - first, s + 1], counted [end - first, s]"""
        tokens, counted = zip(*(self.read(g) for g in range(first, end)))
        return np.stack(tokens), np.stack(counted)
